"use strict";
// What charts are made of: elements, scales, ticks, numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Children are elements or texts; a text is never read as HTML. */
function make(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same of SVG. */
function draw(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The data that stands in the page under this name. */
function payload(name) {
  return JSON.parse(document.getElementById(`${name}-data`).textContent);
}

/** At most about `count` round numbers (1, 2 or 5 times a power of ten) from `low` to `high`. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough * 0.999) || 10 * power;
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found.map((value) => (Math.abs(value) < step * 1e-9 ? 0 : value));
}

/** Powers of ten from `low` to `high`, both above 0, thinned to at most `count`; round numbers where there is none. */
function powers(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  if (last - first < 1) return ticks(low, high, count).filter((value) => value > 0);
  const every = Math.ceil((last - first + 1) / count);
  const found = [];
  for (let n = first; n <= last; n += every) found.push(10 ** n);
  return found;
}

/** A function from [low, high] to [from, to]; logarithmic where asked for. */
function scale(low, high, from, to, logarithmic = false) {
  if (logarithmic) {
    const inner = scale(Math.log(low), Math.log(high), from, to);
    return (value) => inner(Math.log(Math.max(value, low)));
  }
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

/** A number in at most `digits` significant digits: 12,800 is 12.8k, 0.00002 is 2e−5. */
function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  let text;
  if (size !== 0 && (size < 1e-3 || size >= 1e12)) text = value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  else if (size >= 1e9) text = trimmed(value / 1e9, digits) + "G";
  else if (size >= 1e6) text = trimmed(value / 1e6, digits) + "M";
  else if (size >= 1e4) text = trimmed(value / 1e3, digits) + "k";
  else text = trimmed(value, digits);
  return text.replaceAll("-", "−");
}

function trimmed(value, digits) {
  const text = Number(value.toPrecision(digits));
  return Math.abs(text) >= 10 ** digits ? String(Math.round(value)) : String(text);
}

/** Place in rising `values` that is nearest to `wanted`. */
function nearest(values, wanted) {
  let low = 0;
  let high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle;
    else high = middle;
  }
  return wanted - values[low] <= values[high] - wanted ? low : high;
}

/** The least and greatest of many arrays, as [low, high]; [Infinity, -Infinity] of none. */
function extent(arrays, fits = () => true) {
  let low = Infinity;
  let high = -Infinity;
  for (const values of arrays) {
    for (const value of values) {
      if (!fits(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}

/** A path through points; `close` goes back along `under`. */
function path(xs, ys, under = null) {
  const parts = [];
  for (let n = 0; n < xs.length; n++) parts.push(`${n ? "L" : "M"}${xs[n].toFixed(1)} ${ys[n].toFixed(1)}`);
  if (under) {
    for (let n = xs.length - 1; n >= 0; n--) parts.push(`L${xs[n].toFixed(1)} ${under[n].toFixed(1)}`);
    parts.push("Z");
  }
  return parts.join("");
}

/** A small mark that tells lines apart without colour: circle, square, triangle, diamond, cross, … */
function mark(kind, x, y, size, attributes) {
  const s = size;
  const shapes = [
    `M${x - s} ${y}a${s} ${s} 0 1 0 ${2 * s} 0a${s} ${s} 0 1 0 ${-2 * s} 0Z`,
    `M${x - s} ${y - s}h${2 * s}v${2 * s}h${-2 * s}Z`,
    `M${x} ${y - 1.2 * s}l${1.15 * s} ${2 * s}h${-2.3 * s}Z`,
    `M${x} ${y - 1.4 * s}l${1.4 * s} ${1.4 * s}l${-1.4 * s} ${1.4 * s}l${-1.4 * s} ${-1.4 * s}Z`,
    `M${x} ${y + 1.2 * s}l${1.15 * s} ${-2 * s}h${-2.3 * s}Z`,
    `M${x - s} ${y - s / 3}h${s * 0.67}v${-s * 0.67}h${s * 0.67}v${s * 0.67}h${s * 0.67}v${s * 0.67}h${-s * 0.67}v${s * 0.67}h${-s * 0.67}v${-s * 0.67}h${-s * 0.67}Z`,
  ];
  return draw("path", { d: shapes[kind % shapes.length], ...attributes });
}
