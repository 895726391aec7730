"use strict";
// Puts the parts of the page together. Charts and cards are made when they come near the screen, and all for printing.

function start() {
  const figures = payload("figures");
  const several = figures.labels.length > 1 || figures.labels.some((label) => label.runs.length > 1);
  const coming = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      coming.unobserve(entry.target);
      entry.target.chart.draw();
    }
  }, { rootMargin: "400px" });
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.chart.drawn) target.chart.draw();
  });
  const place = (chart, grid) => {
    view.charts.add(chart);
    chart.element.chart = chart;
    grid.append(chart.element);
    coming.observe(chart.element);
    resized.observe(chart.element);
  };
  for (const element of document.querySelectorAll("section.charts")) {
    const section = figures.sections[Number(element.dataset.section)];
    const grid = element.querySelector(".grid");
    if (section.name === "score") for (const plane of figures.planes) place(new Plane(plane, figures.labels), grid);
    for (const panel of section.panels) place(new Chart(panel, figures.labels, several ? "label" : "name"), grid);
  }
  const tools = document.getElementById("tools");
  if (tools) toolbar(tools, figures, several);
  const samples = document.getElementById("samples");
  if (samples) whenNear(samples, () => new Samples(samples, figures.labels));
  window.addEventListener("beforeprint", () => {
    for (const chart of view.charts) chart.draw();
  });
}

function whenNear(element, work) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    work();
  }, { rootMargin: "800px" });
  observer.observe(element);
}

/** Labels to be hidden and shown, and how curves are drawn. */
function toolbar(tools, figures, several) {
  if (several) {
    figures.labels.forEach((label, number) => {
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
