"use strict";
// A panel of curves. Light: as it was logged; strong: smoothed, each run by itself; the band: over the seeds.

const view = { smooth: true, logarithmic: false, hidden: new Set(), charts: new Set() };
const MARGIN = { left: 46, right: 12, top: 8, bottom: 24 };
const COLOURS = 8;
const MARKS = 5; // on a line, so that it can be told without colour

class Chart {
  /** panel: as studies/report/figures.py describes it. coloured: by "label" or, where there is one only, by "name". */
  constructor(panel, labels, coloured, height = 190) {
    Object.assign(this, { panel, labels, coloured, height, drawn: null });
    this.lines = panel.lines.map((line, place) => ({
      ...line,
      colour: coloured === "label" ? line.label : place,
      said: coloured === "label" ? labels[line.label].name + (line.ideal ? " (ideal)" : "") : line.name || panel.title,
    }));
    this.picture = draw("svg", { role: "img", focusable: "false" });
    this.readout = make("div", { class: "readout", "aria-live": "polite" });
    const unit = panel.unit ? make("span", { class: "unit" }, ` ${panel.unit}`) : null;
    const enlarge = make("button", { type: "button", class: "enlarge", "aria-label": `Enlarge ${panel.title}` }, "⤢");
    enlarge.addEventListener("click", () => enlarged(this));
    this.element = make(
      "figure",
      { class: "chart", tabindex: "0" },
      make("figcaption", {}, make("strong", { title: panel.keys.join(", ") }, panel.title), unit, enlarge),
      panel.note ? make("p", { class: "note" }, panel.note) : null,
      make("div", { class: "frame" }, this.picture, this.readout),
      this.legend(),
    );
    this.listen();
  }

  /** Names of the lines, where they are not told by the legend of labels. */
  legend() {
    if (this.coloured === "label" || this.lines.length < 2) return null;
    const entries = this.lines.map((line) =>
      make("span", {}, make("i", { class: `swatch s${line.colour % COLOURS}` }), line.said),
    );
    return make("div", { class: "legend" }, ...entries);
  }

  visible() {
    return this.lines.filter((line) => this.coloured !== "label" || !view.hidden.has(line.label));
  }

  /** The points that stand for a line: smoothed where that is wanted and there is enough to smooth. */
  main(line) {
    return (view.smooth && line.smooth) || line.raw;
  }

  draw() {
    const width = Math.max(220, this.picture.parentElement.clientWidth);
    const lines = this.visible();
    this.drawn = null;
    this.picture.replaceChildren();
    this.picture.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.picture.setAttribute("height", this.height);
    this.picture.setAttribute("aria-label", this.spoken(lines));
    if (!lines.some((line) => line.raw.x.length)) return;
    const logarithmic = view.logarithmic && lines.every((line) => extent([line.raw.y])[0] > 0);
    const across = extent(lines.map((line) => line.raw.x));
    const up = this.range(lines, logarithmic);
    this.bounds = this.panel.known?.length === 1 || this.panel.keys.length === 1 ? this.panel.known?.[0] : null;
    const x = scale(...(across[0] === across[1] ? [across[0] - 1, across[1] + 1] : across), MARGIN.left, width - MARGIN.right);
    const y = scale(...up, this.height - MARGIN.bottom, MARGIN.top, logarithmic);
    this.axes(width, across, up, x, y, logarithmic);
    this.healthy(width, up, y);
    lines.forEach((line, place) => this.line(line, x, y, this.dashes(line, lines.slice(0, place), x, y)));
    this.cursor = draw("g", { class: "cursor" });
    this.picture.append(this.cursor);
    this.drawn = { x, y, across, width, lines };
  }

  /** Least and greatest value that shall be seen, with a little room; single runs by what was logged. */
  range(lines, logarithmic) {
    const shown = lines.flatMap((line) => {
      const points = line.raw.lo && view.smooth && line.smooth ? line.smooth : line.raw;
      return points.lo ? [points.lo, points.hi] : [points.y];
    });
    let [low, high] = extent(shown, (value) => !logarithmic || value > 0);
    if (logarithmic) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
    if (low === high) [low, high] = [low - (Math.abs(low) * 0.1 || 0.5), high + (Math.abs(high) * 0.1 || 0.5)];
    const room = (high - low) * 0.06;
    // a share or a count that touches 0 stands on it
    return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
  }

  axes(width, across, up, x, y, logarithmic) {
    const bottom = this.height - MARGIN.bottom;
    const rows = logarithmic ? powers(...up, 5) : ticks(...up, Math.max(3, Math.min(8, Math.round(this.height / 48))));
    for (const value of rows) {
      const at = y(value).toFixed(1);
      this.picture.append(
        draw("line", { class: "grid-line", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }),
        draw("text", { class: "tick", x: MARGIN.left - 6, y: at, dy: "0.32em", "text-anchor": "end" }, short(value)),
      );
    }
    const columns = across[0] === across[1] ? [across[0]] : ticks(...across, Math.max(2, Math.round(width / 90)));
    for (const value of columns.filter(Number.isInteger)) {
      this.picture.append(
        draw("line", { class: "tick-line", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4 }),
        draw("text", { class: "tick", x: x(value), y: bottom + 16, "text-anchor": "middle" }, short(value, 4)),
      );
    }
    this.picture.append(draw("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }));
  }

  /** Where a value is unhealthy, if that is in sight: shaded, with the bound as a dashed line. */
  healthy(width, up, y) {
    const [low, high] = [this.bounds?.low ?? null, this.bounds?.high ?? null];
    const [right, top, bottom] = [width - MARGIN.right, MARGIN.top, this.height - MARGIN.bottom];
    for (const [bound, from, to] of [[low, bound => y(bound), () => bottom], [high, () => top, bound => y(bound)]]) {
      if (bound === null || bound <= up[0] || bound >= up[1]) continue;
      const [start, stop] = [from(bound), to(bound)];
      this.picture.append(
        draw("rect", { class: "unhealthy", x: MARGIN.left, width: right - MARGIN.left, y: start, height: Math.max(0, stop - start) }),
        draw("line", { class: "bound", x1: MARGIN.left, x2: right, y1: y(bound), y2: y(bound) }),
      );
    }
  }

  /** Dashes of the least possible, and of a line that would hide others: those that go the same way, to a pixel and a
   * half, show in the gaps, which are the wider the more there are. */
  dashes(line, before, x, y) {
    const points = this.main(line);
    const hidden = before.filter((other) => {
      const there = this.main(other);
      return points.x.every((step, place) => Math.abs(y(points.y[place]) - y(there.y[nearest(there.x, step)])) < 1.5);
    });
    const dash = line.ideal ? 3 : 6;
    return hidden.length || line.ideal ? `${dash} ${hidden.length ? 6 * hidden.length : dash}` : null;
  }

  line(line, x, y, dashes) {
    const points = this.main(line);
    const xs = points.x.map(x);
    const ys = points.y.map(y);
    const colour = `c${line.colour % COLOURS}`;
    if (points !== line.raw && !line.raw.lo) {
      const dense = line.raw.x.length > 400 ? "dense " : "";
      this.picture.append(draw("path", { class: `faint ${dense}${colour}`, d: path(line.raw.x.map(x), line.raw.y.map(y)) }));
    }
    if (points.lo) {
      this.picture.append(draw("path", { class: `band ${colour}`, d: path(xs, points.hi.map(y), points.lo.map(y)) }));
    }
    const way = path(xs, ys);
    if (points !== line.raw && !dashes) this.picture.append(draw("path", { class: "under", d: way }));
    this.picture.append(draw("path", { class: `line ${colour}`, d: way, ...(dashes && { "stroke-dasharray": dashes }) }));
    const few = points.x.length < 12;
    const count = few ? points.x.length : this.lines.length > 1 ? MARKS : 0;
    for (let n = 0; n < count; n++) {
      // shifted from line to line, so that marks of near lines do not cover each other
      const share = few ? n / Math.max(1, count - 1) : (n + 0.5 + (line.colour % COLOURS) / COLOURS / 1.5) / (count + 0.5);
      const place = Math.min(points.x.length - 1, Math.round(share * (points.x.length - 1)));
      this.picture.append(mark(line.colour, xs[place], ys[place], 3, { class: `mark ${colour}` }));
    }
  }

  spoken(lines) {
    const ends = lines.map((line) => {
      const points = this.main(line);
      return `${line.said} ${short(points.y[0])} to ${short(points.y.at(-1))}`;
    });
    return `${this.panel.title}: ${ends.join("; ")}`;
  }

  listen() {
    const moved = (event) => {
      if (!this.drawn) return;
      const box = this.picture.getBoundingClientRect();
      const { across, width } = this.drawn;
      const inside = ((event.clientX - box.left) / box.width) * width - MARGIN.left;
      const share = Math.min(1, Math.max(0, inside / (width - MARGIN.left - MARGIN.right)));
      pointAt(across[0] + share * (across[1] - across[0]), this);
    };
    this.picture.addEventListener("pointermove", moved);
    this.picture.addEventListener("pointerdown", moved);
    this.picture.addEventListener("pointerleave", () => pointAt(null, this));
    this.element.addEventListener("blur", () => pointAt(null, this));
    this.element.addEventListener("keydown", (event) => this.pressed(event));
  }

  pressed(event) {
    if (event.target !== this.element || !this.drawn) return;
    const steps = this.main(this.drawn.lines[0]).x;
    const at = this.at === undefined || this.at === null ? steps.length - 1 : nearest(steps, this.at);
    const jump = event.shiftKey ? Math.ceil(steps.length / 20) : 1;
    const moves = { ArrowLeft: at - jump, ArrowRight: at + jump, Home: 0, End: steps.length - 1 };
    if (event.key in moves) pointAt(steps[Math.min(steps.length - 1, Math.max(0, moves[event.key]))], this);
    else if (event.key === "Enter") enlarged(this);
    else if (event.key === "Escape") pointAt(null, this);
    else return;
    event.preventDefault();
  }

  /** A rule at a step, and the values there in words; null takes both away. told: whether the words are shown. */
  point(step, told) {
    this.at = step;
    if (!this.drawn) return;
    this.cursor.replaceChildren();
    this.readout.replaceChildren();
    this.readout.classList.toggle("shown", step !== null && told);
    if (step === null) return;
    const { x, y, across, lines, width } = this.drawn;
    if (step < across[0] || step > across[1]) return;
    this.cursor.append(draw("line", { x1: x(step), x2: x(step), y1: MARGIN.top, y2: this.height - MARGIN.bottom }));
    const rows = lines.filter((line) => line.raw.x.length).map((line) => {
      const points = this.main(line);
      const place = nearest(points.x, step);
      this.cursor.append(draw("circle", { class: `mark c${line.colour % COLOURS}`, cx: x(points.x[place]), cy: y(points.y[place]), r: 3.5 }));
      const band = points.lo ? ` [${short(points.lo[place])}, ${short(points.hi[place])}]` : "";
      return make("div", {}, make("i", { class: `swatch s${line.colour % COLOURS}` }), `${line.said} `, make("b", {}, short(points.y[place], 4)), band);
    });
    if (!told) return;
    const first = this.main(lines[0]);
    this.readout.append(make("div", { class: "step" }, `step ${first.x[nearest(first.x, step)].toLocaleString("en")}`), ...rows);
    this.readout.classList.toggle("left", x(step) > width / 2);
  }
}

/** The same step in every chart; its values where the pointer is. */
function pointAt(step, source) {
  for (const chart of view.charts) if (chart.drawn) chart.point(step, chart === source);
}

function redraw() {
  for (const chart of view.charts) if (chart.drawn) chart.draw();
}

/** One chart as large as the window. */
function enlarged(chart) {
  const height = Math.max(260, Math.min(620, window.innerHeight - 220));
  const big = chart instanceof Plane ? new Plane(chart.plane, chart.labels, height) : new Chart(chart.panel, chart.labels, chart.coloured, height);
  const close = make("button", { type: "button", class: "close" }, "Close");
  const told = (chart.panel.known ?? []).map((one) =>
    make("p", { class: "known" }, make("code", {}, one.key), ` – ${one.meaning}. `, one.healthy ? make("b", {}, `Healthy: ${one.healthy}. `) : null, one.advice),
  );
  const dialog = make("dialog", { class: "enlarged", "aria-label": chart.panel.title }, big.element, ...told, close);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    view.charts.delete(big);
    dialog.remove();
    chart.element.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  view.charts.add(big);
  big.draw();
  big.element.focus();
}

/** Two metrics against each other: each run's way from its hollow beginning to its filled end. */
class Plane extends Chart {
  constructor(plane, labels, height = 260) {
    const title = "Learned score and truth";
    const said = plane.paths.filter((path) => path.r !== null).map((path) => `${path.run} r = ${short(path.r, 2)}`);
    const note =
      "Each run from the hollow mark to the filled one. Towards the lower right the score is being gamed." + (said.length && said.length < 5 ? ` Over steps: ${said.join(", ")}.` : "");
    super({ title, note, unit: "", keys: [plane.x, plane.y], lines: [] }, labels, "label", height);
    this.plane = plane;
    this.element.classList.add("plane");
  }

  spoken() {
    const ways = this.plane.paths.map((path) => `${path.run} from ${short(path.x[0])}, ${short(path.y[0])} to ${short(path.x.at(-1))}, ${short(path.y.at(-1))}`);
    return `${this.panel.title}: ${ways.join("; ")}`;
  }

  draw() {
    const width = Math.max(220, this.picture.parentElement.clientWidth);
    const paths = this.plane.paths.filter((path) => !view.hidden.has(path.label));
    this.picture.replaceChildren();
    this.picture.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.picture.setAttribute("height", this.height);
    this.picture.setAttribute("aria-label", this.spoken());
    this.drawn = { lines: [] };
    if (!paths.length) return;
    const bounds = ["x", "y"].map((axis) => {
      const [low, high] = extent(paths.map((path) => path[axis]));
      const room = (high - low || 1) * 0.08;
      return [low - room, high + room];
    });
    const x = scale(...bounds[0], MARGIN.left, width - MARGIN.right);
    const y = scale(...bounds[1], this.height - MARGIN.bottom, MARGIN.top);
    this.axes(width, bounds[0], bounds[1], x, y, false);
    for (const path of paths) this.way(path, x, y);
    const [right, bottom] = [width - MARGIN.right, this.height - MARGIN.bottom];
    this.picture.append(
      draw("text", { class: "tick name", x: right, y: bottom - 6, "text-anchor": "end" }, `${this.plane.x} →`),
      draw("text", { class: "tick name", x: MARGIN.left + 4, y: MARGIN.top + 8 }, `↑ ${this.plane.y}`),
    );
  }

  axes(width, across, up, x, y) {
    super.axes(width, [0, 0], up, () => -100, y, false);
    const bottom = this.height - MARGIN.bottom;
    for (const value of ticks(...across, Math.max(2, Math.round(width / 90)))) {
      this.picture.append(draw("text", { class: "tick", x: x(value), y: bottom + 16, "text-anchor": "middle" }, short(value)));
    }
  }

  way(one, x, y) {
    const [xs, ys] = [one.x.map(x), one.y.map(y)];
    const colour = `c${one.label % COLOURS}`;
    const told = draw("title", {}, `${one.run}: to step ${one.step[0]}, …, ${one.step.at(-1)}, r = ${short(one.r, 2)} over ${one.n} steps`);
    this.picture.append(
      draw("path", { class: `line ${colour}`, d: path(xs, ys) }, told),
      mark(one.label, xs[0], ys[0], 4.5, { class: `mark hollow ${colour}` }),
      mark(one.label, xs.at(-1), ys.at(-1), 5, { class: `mark ${colour}` }),
    );
  }

  pressed(event) {
    if (event.key === "Enter" && event.target === this.element) enlarged(this);
  }

  point() {}

  listen() {
    this.element.addEventListener("keydown", (event) => this.pressed(event));
  }
}
