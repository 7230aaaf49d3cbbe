// Graphs over time, as SVG: an axis of time, an axis of values with their unit, a line for each series, and a legend with
// the values of the moment, or of the moment under the pointer.

import { element, set } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM] = [54, 10, 10, 22];
// Spans that a graph may have, in seconds: the shortest that holds all samples.
const SPANS = [120, 300, 900];
const TIME_STEPS = [15, 30, 60, 120, 300];
// Samples further apart are not joined: nothing is known of the time between them.
const GAP_MS = 3500;

function shape(kind, attributes, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Distance of the lines of the grid: 1, 2 or 5 times a power of ten, so that at most four lines are needed.
function valueStep(most, least) {
  let step = 10 ** Math.floor(Math.log10(most / 4));
  for (const factor of [2, 2.5, 2]) if (most / step > 4) step *= factor;
  return Math.max(step, least);
}

function clockTime(at, withSeconds) {
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(withSeconds && { second: "2-digit" }), hour12: false });
}

// A graph in a figure. `series`: [{ name, className, value: sample => number or null }]; `text`: a value with its unit;
// `least`: the smallest distance of two lines of the grid.
export function graph(figure, series, text, least) {
  const title = figure.querySelector("figcaption").textContent;
  const svg = figure.appendChild(shape("svg", { role: "img" }));
  const legend = figure.appendChild(element("ul", undefined, "legend"));
  const entries = series.map(({ name, className }) => {
    const entry = legend.appendChild(element("li", undefined, className));
    entry.append(`${name} `);
    return entry.appendChild(element("b"));
  });
  const when = legend.appendChild(element("li", undefined, "when"));
  let [samples, end, pointer] = [[], 0, null];

  function paint() {
    const [width, height] = [svg.clientWidth, svg.clientHeight];
    if (!width) return;
    const first = samples.length ? samples[0].at : end;
    const span = 1000 * (SPANS.find((one) => end - first <= one * 1000) ?? SPANS.at(-1));
    const most = samples.reduce((top, sample) => Math.max(top, ...series.map(({ value }) => value(sample) ?? 0)), 0);
    const step = valueStep(Math.max(most, least), least);
    const top = step * Math.max(1, Math.ceil(most / step - 1e-9));
    const x = (at) => width - RIGHT - ((end - at) / span) * (width - LEFT - RIGHT);
    const y = (value) => height - BOTTOM - (value / top) * (height - TOP - BOTTOM);
    const parts = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      parts.push(shape("line", { class: value ? "grid" : "axis", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      parts.push(shape("text", { class: "value", x: LEFT - 6, y: y(value) + 4 }, text(value)));
    }
    const timeStep = 1000 * (TIME_STEPS.find((one) => (span / 1000 / one) * 64 <= width - LEFT) ?? TIME_STEPS.at(-1));
    for (let at = Math.ceil((end - span) / timeStep) * timeStep; at <= end; at += timeStep) {
      if (x(at) < LEFT + 14 || x(at) > width - 22) continue;
      parts.push(shape("line", { class: "axis", x1: x(at), x2: x(at), y1: height - BOTTOM, y2: height - BOTTOM + 4 }));
      parts.push(shape("text", { class: "time", x: x(at), y: height - 5 }, clockTime(at, timeStep < 60000)));
    }
    const shown = samples.filter((sample) => sample.at >= end - span);
    for (const { className, value } of series) parts.push(shape("path", { class: className, d: line(shown, value, x, y) }));
    const chosen = pointer === null ? samples.at(-1) : nearest(shown, x, pointer);
    if (pointer !== null && chosen) parts.push(shape("line", { class: "pointer", x1: x(chosen.at), x2: x(chosen.at), y1: TOP, y2: height - BOTTOM }));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(...parts);
    describe(chosen, span);
  }

  function describe(chosen, span) {
    entries.forEach((entry, at) => {
      const value = chosen ? series[at].value(chosen) : null;
      entry.parentElement.hidden = value === null;
      set(entry, value === null ? "" : text(value));
    });
    set(when, pointer === null || !chosen ? "" : clockTime(chosen.at, true));
    const values = series.map(({ name, value }) => {
      const all = samples.map(value).filter((one) => one !== null);
      return all.length ? `${name} now ${text(all.at(-1))}, at most ${text(Math.max(...all))}` : "";
    });
    svg.setAttribute("aria-label", `${title}, last ${span / 60000} minutes: ${values.filter(Boolean).join("; ")}`);
  }

  svg.addEventListener("pointermove", (event) => {
    pointer = event.offsetX;
    paint();
  });
  svg.addEventListener("pointerleave", () => {
    pointer = null;
    paint();
  });
  new ResizeObserver(paint).observe(svg);
  return (all, now) => {
    [samples, end] = [all, now];
    paint();
  };
}

function line(samples, value, x, y) {
  let [path, before] = ["", null];
  for (const sample of samples) {
    const now = value(sample);
    const isJoined = before !== null && sample.at - before < GAP_MS;
    // A point without neighbours is drawn by the round ends of a line without length.
    if (now !== null) path += `${isJoined ? "L" : "M"}${x(sample.at).toFixed(1)} ${y(now).toFixed(1)}${isJoined ? "" : "h0"}`;
    before = now === null ? null : sample.at;
  }
  return path;
}

function nearest(samples, x, pointer) {
  const distance = (sample) => Math.abs(x(sample.at) - pointer);
  return samples.reduce((best, sample) => (best && distance(best) <= distance(sample) ? best : sample), null);
}
