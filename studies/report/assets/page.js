"use strict";
// Puts the parts of the page together. Charts are drawn when the page has time, cards when they come near
// the screen.

function start() {
  const figures = payload("figures");
  const several = figures.labels.length > 1 || figures.labels.some((label) => label.runs.length > 1);
  const waiting = [];
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.chart.drawn) target.chart.draw();
  });
  const place = (chart, grid) => {
    view.charts.add(chart);
    chart.element.chart = chart;
    grid.append(chart.element);
    waiting.push(chart);
    resized.observe(chart.element);
  };
  for (const element of document.querySelectorAll("section.charts")) {
    const section = figures.sections[Number(element.dataset.section)];
    const grid = element.querySelector(".grid");
    if (section.name === "score") for (const plane of figures.planes) place(new Plane(plane, figures.labels), grid);
    for (const panel of section.panels) place(new Chart(panel, figures.labels, several ? "label" : "name"), grid);
  }
  whenIdle(() => {
    const chart = waiting.shift();
    if (chart && !chart.drawn) chart.draw();
    return waiting.length > 0;
  });
  const tools = document.getElementById("tools");
  if (tools) toolbar(tools, figures, several);
  const samples = document.getElementById("samples");
  const browse = samples ? whenNear(samples, () => new Samples(samples, figures.labels)) : () => {};
  window.addEventListener("beforeprint", () => {
    for (const chart of view.charts) chart.draw();
    for (const folded of document.querySelectorAll("#runs details")) folded.open = true;
    browse();
  });
}

/** Does work in pieces, between which the page answers; `piece` tells whether there is more. */
function whenIdle(piece) {
  const later = window.requestIdleCallback || ((work) => setTimeout(() => work({ timeRemaining: () => 10 }), 1));
  const go = (deadline) => {
    let more = true;
    do more = piece(); while (more && deadline.timeRemaining() > 4);
    if (more) later(go, { timeout: 300 });
  };
  later(go, { timeout: 100 });
}

/** Does work once: when the element comes near the screen, or when what is returned is called. */
function whenNear(element, work) {
  let done = false;
  const now = () => {
    observer.disconnect();
    if (!done) work();
    done = true;
  };
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) now();
  }, { rootMargin: "800px" });
  observer.observe(element);
  return now;
}

/** Labels to be hidden and shown, and how curves are drawn. */
function toolbar(tools, figures, several) {
  if (several) {
    figures.labels.forEach((label, number) => {
      if (!label.runs.length) return; // it was evaluated only
      const seeds = label.runs.length > 1 ? ` (${label.runs.length} runs)` : "";
      const button = make("button", { type: "button", class: "label", "aria-pressed": "true", title: label.runs.join(", ") },
        make("i", { class: `swatch s${number % COLOURS}` }), label.name + seeds);
      button.addEventListener("click", () => {
        if (!view.hidden.delete(number)) view.hidden.add(number);
        button.setAttribute("aria-pressed", String(!view.hidden.has(number)));
        redraw();
      });
      tools.append(button);
    });
  }
  for (const [name, said] of [["smooth", "Smoothed"], ["logarithmic", "Log scale"]]) {
    const box = make("input", { type: "checkbox" });
    box.checked = view[name];
    box.addEventListener("change", () => {
      view[name] = box.checked;
      redraw();
    });
    tools.append(make("label", { class: "switch" }, box, ` ${said}`));
  }
  tools.hidden = false;
}

start();
