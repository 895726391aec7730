"use strict";
// The browser of samples: a card for each prompt, its picture with boxes, and what was said to it and paid for it.

const PAGE = 12; // cards that are made at a time
const ENDS = 2; // completions at either end of a group that are shown at once

class Samples {
  constructor(section, labels) {
    Object.assign(this, { section, labels, asked: payload("samples").asked, pictures: null, shown: 0 });
    this.cards = section.querySelector(".cards");
    this.more = section.querySelector(".more");
    this.count = section.querySelector(".count");
    this.filters = section.querySelector(".filters");
    this.more.addEventListener("click", () => this.append());
    this.controls();
    this.filter();
  }

  controls() {
    const unique = (values) => [...new Set(values)];
    this.chosen = {};
    const choice = (name, said, values, told = (value) => value) => {
      if (values.length < 2) return;
      const options = [make("option", { value: "" }, "all"), ...values.map((value) => make("option", { value }, String(told(value))))];
      const select = make("select", {}, ...options);
      select.addEventListener("change", () => this.filter());
      this.chosen[name] = select;
      this.filters.append(make("label", {}, `${said} `, select));
    };
    choice("run", "Run", unique(this.asked.map((one) => one.run)));
    choice("step", "Step", unique(this.asked.map((one) => one.step)).filter((step) => step !== null).sort((a, b) => a - b), (step) => step.toLocaleString("en"));
    choice("task", "Task", unique(this.asked.map((one) => one.task)).filter(Boolean).sort());
    const orders = { "": "as they came", late: "latest step first", low: "lowest reward first", high: "highest reward first", spread: "widest spread first" };
    this.order = make("select", {}, ...Object.entries(orders).map(([value, said]) => make("option", { value }, said)));
    this.search = make("input", { type: "search", placeholder: "text in prompt or answer" });
    this.order.addEventListener("change", () => this.filter());
    this.search.addEventListener("input", () => this.filter());
    this.filters.append(make("label", {}, "Order ", this.order), make("label", {}, "Search ", this.search));
    this.filters.hidden = false;
  }

  filter() {
    const fits = (one) => Object.entries(this.chosen).every(([name, select]) => select.value === "" || String(one[name]) === select.value);
    const words = this.search.value.trim().toLowerCase();
    const holds = (one) => !words || [one.prompt, one.truth, ...one.said.flatMap((said) => [said.text, said.trace, said.answer, ...said.turns.map((turn) => turn.content)])].some((text) => text && text.toLowerCase().includes(words));
    this.found = this.asked.filter((one) => fits(one) && holds(one));
    const orders = { late: (one) => -(one.step ?? 0), low: (one) => mean(paid(one)), high: (one) => -mean(paid(one)), spread: (one) => -spread(paid(one)) };
    const key = orders[this.order.value];
    if (key) this.found.sort((a, b) => key(a) - key(b));
    this.shown = 0;
    this.cards.replaceChildren();
    this.append();
  }

  append() {
    const next = this.found.slice(this.shown, this.shown + PAGE);
    this.cards.append(...next.map((one) => this.card(one)));
    this.shown += next.length;
    this.more.hidden = this.shown >= this.found.length;
    this.count.textContent = `${this.shown} of ${this.found.length} prompts shown.`;
  }

  card(one) {
    const where = [one.step === null ? null : `step ${one.step.toLocaleString("en")}`, one.task, one.name].filter(Boolean).join(" · ");
    const head = make("p", { class: "where quiet" }, make("i", { class: `swatch s${one.label % COLOURS}` }), `${one.run}${where ? " · " + where : ""}`);
    const overlay = one.size && (one.boxes.length || one.regions.length || one.mask || one.said.some(marks)) ? draw("svg", { viewBox: `0 0 ${one.size[0]} ${one.size[1]}`, "aria-hidden": "true" }) : null;
    const text = make("div", { class: "text" }, ...asking(one.prompt));
    if (one.truth !== null) text.append(make("p", { class: "truth" }, make("span", { class: "tag" }, "truth"), one.truth));
    const choose = (number) => {
      rows.forEach((row, place) => row.classList.toggle("chosen", place === number && overlay !== null && rows.length > 1));
      if (overlay) boxes(overlay, one, one.said[number]);
    };
    const rows = one.said.map((said, number) => completion(said, () => choose(number), (crop) => this.cut(crop), number === 0));
    text.append(...folded(rows));
    choose(0);
    return make("article", { class: "card" }, this.picture(one, overlay), make("div", { class: "body" }, head, text));
  }

  uri(number) {
    this.pictures = this.pictures || payload("pictures");
    return this.pictures[number];
  }

  /** A region that was shown; `number` as it has on the picture. */
  cut(crop) {
    const where = `${crop.image ? `picture ${crop.image + 1}: ` : ""}${crop.box.map((edge) => Math.round(edge)).join(", ")}`;
    const image = crop.picture === null ? make("span", { class: "absent quiet" }, "no picture") : make("img", { src: this.uri(crop.picture), alt: `Region ${crop.number}`, decoding: "async", loading: "lazy" });
    return make("figure", { class: "cut" }, image, make("figcaption", { class: "quiet" }, make("b", {}, String(crop.number)), ` ${where}`));
  }

  picture(one, overlay) {
    if (one.image === null) return make("div", { class: "picture none quiet" }, "no picture");
    const size = one.size || [];
    const image = make("img", { src: this.uri(one.image), alt: `Picture of ${one.name || "a sample"}`, decoding: "async", loading: "lazy", width: size[0], height: size[1] });
    const under = make("div", { class: "under" }, image, overlay);
    if (!one.further.length) return make("div", { class: "picture" }, under);
    const more = one.further.map(([number, place]) => this.figure(one, number, place));
    return make("div", { class: "picture several" }, make("figure", {}, under, make("figcaption", { class: "quiet" }, dated(one, 1))), ...more);
  }

  /** Another picture of the question; `place`: among the page's pictures, null where it cannot be shown. */
  figure(one, number, place) {
    const image = place === null ? make("span", { class: "absent quiet" }, "no picture") : make("img", { src: this.uri(place), alt: `Picture ${number} of ${one.name || "a sample"}`, decoding: "async", loading: "lazy" });
    return make("figure", {}, image, make("figcaption", { class: "quiet" }, dated(one, number)));
  }
}

/** "2 · 2021-07". */
function dated(one, number) {
  const date = one.dates[number - 1];
  return date ? `${number} · ${date}` : String(number);
}

/** A prompt: the user's last words, and the whole to be opened where there is more (a system prompt, earlier turns). */
function asking(prompt) {
  const last = prompt.split(/\n(?=(?:user|assistant|system): )/).at(-1);
  const words = last.replace(/^user: /, "").replace(/^(?:<image>)+/, "");
  const whole = make("details", { class: "trace" }, make("summary", {}, "whole prompt"), make("p", {}, prompt));
  return [make("p", { class: "prompt" }, words), words === prompt ? null : whole].filter(Boolean);
}

/** Best and worst completions, those between them to be opened. */
function folded(rows) {
  const list = (some) => make("ol", { class: "said" }, ...some);
  if (rows.length <= ENDS * 2 + 1) return [list(rows)];
  const between = rows.slice(ENDS, -ENDS);
  return [
    list(rows.slice(0, ENDS)),
    make("details", { class: "between" }, make("summary", { class: "quiet" }, `${between.length} completions between`), list(between)),
    list(rows.slice(-ENDS)),
  ];
}

/** What the completions of a prompt were paid: TRL's advantage tells less, for it is centred. */
function paid(one) {
  return one.said.flatMap((said) => Array(said.times).fill(Object.values(said.rewards)[0])).filter((value) => value !== null && value !== undefined);
}

function mean(values) {
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : 0;
}

function spread(values) {
  return values.length ? Math.max(...values) - Math.min(...values) : 0;
}

/** Whether something of a completion can be drawn on the picture. */
function marks(said) {
  return said.read || said.mask || said.crops.some((crop) => crop.image === 0);
}

/** What the model and its tools said, turn by turn. */
function conversation(said, crops, open) {
  const turns = said.turns.map((turn, place) => {
    const shown = crops.filter((crop) => crop.turn === place);
    const who = make("span", { class: "tag" }, turn.role === "tool" ? "tool" : "model");
    const numbers = shown.map((crop) => make("b", { class: "number" }, String(crop.number)));
    const text = shown.length ? turn.content.replace(/^(?:<image>)+/, (tags) => tags.slice("<image>".length * shown.length)) : turn.content;
    return make("li", { class: turn.role }, who, ...numbers, make("span", {}, text));
  });
  return make("details", { class: "trace", open }, make("summary", {}, `${turns.length} turns`), make("ol", { class: "turns" }, ...turns));
}

/** A completion: its numbers and answer, and what it was shown; opened, its trace, its turns or the whole text. */
function completion(said, choose, cut, open) {
  const numbers = make("span", { class: "numbers" });
  if (said.times > 1) numbers.append(make("span", { class: "tag" }, make("b", {}, `${said.times} ×`)));
  for (const [name, value] of Object.entries(said.rewards)) {
    if (value !== null) numbers.append(make("span", { class: "tag" }, `${name} `, make("b", {}, short(value))));
  }
  if (said.advantage !== null) {
    const sign = said.advantage > 0 ? "up" : said.advantage < 0 ? "down" : "";
    numbers.append(make("span", { class: `tag advantage ${sign}` }, "advantage ", make("b", {}, (said.advantage > 0 ? "+" : "") + short(said.advantage))));
  }
  const answer = said.answer ?? said.text ?? "";
  const crops = said.crops.map((crop, place) => ({ ...crop, number: place + 1 }));
  const shown = make("p", { class: said.answer === null ? "answer broken" : "answer" }, said.answer === null ? make("span", { class: "tag" }, "no answer in tags") : null, said.answer === null && said.turns.length ? null : answer || "(empty)");
  const row = make("li", {}, numbers, shown);
  if (crops.length) row.append(make("div", { class: "cuts" }, ...crops.map(cut)));
  if (said.turns.length) row.append(conversation(said, crops, open));
  else if (said.trace) row.append(make("details", { class: "trace" }, make("summary", {}, "trace"), make("p", {}, said.trace)));
  else if (said.text && said.answer !== null && said.text !== said.answer) row.append(make("details", { class: "trace" }, make("summary", {}, "whole text"), make("p", {}, said.text)));
  if (marks(said)) {
    row.setAttribute("tabindex", "0");
    row.addEventListener("focus", choose);
    row.addEventListener("click", choose);
  }
  return row;
}

/** True and stated masks and boxes over a picture, and the regions that were shown, with their numbers; four numbers are corners of a box, eight those of a quadrilateral. */
function boxes(overlay, one, said) {
  const outline = (box) => (box.length === 8 ? box : [box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]).join(" ");
  const drawn = [];
  for (const [kind, mask] of [["true", one.mask], ["stated", said.mask]]) {
    if (!mask) continue;
    const [[width, height], path] = mask;
    const placed = { d: path, transform: `scale(${one.size[0] / width} ${one.size[1] / height})`, "fill-rule": "evenodd" };
    drawn.push(draw("path", { class: "halo", ...placed }), draw("path", { class: kind, ...placed }));
  }
  const crops = said.crops.map((crop, place) => ({ ...crop, number: place + 1 })).filter((crop) => crop.image === 0);
  for (const [kind, list] of [["zoomed", crops.map((crop) => crop.box)], ["region", one.regions], ["true", one.boxes], ["stated", said.read || []]]) {
    for (const box of list) drawn.push(draw("polygon", { class: "halo", points: outline(box) }), draw("polygon", { class: kind, points: outline(box) }));
  }
  const size = one.size[0] * 0.07; // a picture has about 230 pixels across
  for (const { number, box } of crops) {
    const [right, below] = [[0, 0], [1, 1], [1, 0], [0, 1]][(number - 1) % 4]; // a region often lies in the one before
    const x = Math.min(Math.max(right ? box[2] - size * 0.6 : box[0], 0), one.size[0] - size * 0.7);
    const y = Math.min(Math.max(below ? box[3] + size : box[1] - size * 0.25, size), one.size[1] - size * 0.2);
    drawn.push(draw("text", { class: "number", x, y, "font-size": size, "stroke-width": size * 0.2 }, String(number)));
  }
  overlay.replaceChildren(...drawn);
}
