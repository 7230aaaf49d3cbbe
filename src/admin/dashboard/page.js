// Dashboard of the admin API: /v1/events for the state of each second, /v1/history for the seconds before the page was opened.
"use strict";

// Seconds kept for the charts (as many as /v1/history has), and the shortest span of a chart.
const MAX_SECONDS = 900;
const MIN_SECONDS = 120;
const id = (name) => document.getElementById(name);
const rows = new Map();
const past = new Map();
let limits = [];
let chosen = null;
let before = null;
// Version of the configuration whose warnings are shown.
let configuration = null;
let span = 1;
// Values of the form when it was filled; only changed ones are sent.
let filled = {};

function element(kind, text, className) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

function duration(ms) {
  if (ms === null || ms === undefined) return "";
  for (const [unit, size] of [["d", 86400000], ["h", 3600000], ["m", 60000], ["s", 1000]]) {
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return `${+ms.toFixed(3)}ms`;
}

function millis(text) {
  const found = /^([\d.]+)(ms|s|m|h|d)$/.exec(text.trim());
  return found ? found[1] * { ms: 1, s: 1000, m: 60000, h: 3600000, d: 86400000 }[found[2]] : null;
}

function rule(limit) {
  const parts = [];
  if (limit.requests !== null) parts.push(`${limit.requests} per ${duration(limit.per_ms)}`);
  if (limit.in_flight !== null) parts.push(`${limit.in_flight} in flight`);
  return parts.join(", ") + (limit.dry_run ? " (dry run)" : "");
}

// [used, bound] of the fullest window: of its slots or of its requests in flight, whichever is nearer to its bound.
function used(limit) {
  const bounds = [[limit.taken, limit.requests], [limit.in_flight_taken, limit.in_flight]].filter(([, most]) => most !== null);
  return bounds.reduce((worst, one) => (one[0] / one[1] > worst[0] / worst[1] ? one : worst));
}

function row(name) {
  const line = element("tr");
  const cells = Array.from({ length: 7 }, () => line.appendChild(element("td")));
  const button = cells[0].appendChild(element("button", name));
  button.type = "button";
  button.addEventListener("click", () => choose(name));
  for (const cell of [2, 4, 5, 6]) cells[cell].className = "number";
  const meter = cells[3].appendChild(element("meter"));
  const words = cells[3].appendChild(element("span"));
  return { line, cells, meter, words };
}

function show(event) {
  limits = event.limits;
  const last = new Map((before ? before.limits : []).map((limit) => [limit.name, limit]));
  span = before ? Math.max((event.at - before.at) / 1000, 0.001) : 1;
  const names = new Set();
  for (const limit of limits) {
    names.add(limit.name);
    const old = last.get(limit.name) || limit;
    limit.rate = (limit.permits - old.permits) / span;
    limit.refusals = (limit.refused - old.refused) / span;
    const sent = limit.permits - old.permits;
    // Rates are differences to the event before.
    if (before) remember(limit.name, [limit.rate, limit.refusals, limit.waiting, sent ? (limit.waited_ms - old.waited_ms) / sent : 0, limit.pushbacks - old.pushbacks]);
    if (!rows.has(limit.name)) {
      rows.set(limit.name, row(limit.name));
      id("limits").append(rows.get(limit.name).line);
      filter();
    }
    const { cells, meter, words } = rows.get(limit.name);
    set(cells[1], rule(limit));
    set(cells[2], number(limit.rate));
    const [taken, most] = used(limit);
    meter.max = most;
    meter.value = taken;
    set(words, ` ${number(taken)} of ${number(most)}`);
    set(cells[4], number(limit.waiting) + (limit.hang_ups ? `, hang up after ${(limit.hang_ups.after_ms / 1000).toFixed(1)} s` : ""));
    cells[4].title = limit.hang_ups?.advice ?? "";
    set(cells[5], number(limit.refusals));
    set(cells[6], number(limit.keys));
  }
  for (const [name, { line }] of rows) {
    if (!names.has(name)) {
      line.remove();
      rows.delete(name);
    }
  }
  const unwritable = ", the state folder cannot be written";
  const state = {
    ok: "",
    off: ", no state folder",
    degraded: unwritable,
    blocked: `${unwritable}: long limits wait`,
  }[event.state];
  set(id("process"), `${number(event.connections)} connections, ${number(event.running)} requests running${state}${event.draining ? ", draining" : ""}`);
  before = event;
  if (chosen) detail();
  if (event.configuration !== configuration) warned(event.configuration);
}

// Lists the warnings about the configuration file.
async function warned(now) {
  configuration = now;
  try {
    const answer = await fetch("v1/warnings");
    if (!answer.ok || configuration !== now) return;
    const { warnings } = await answer.json();
    id("warnings").hidden = warnings.length === 0;
    set(id("warnings-title"), warnings.length === 1 ? "1 warning about the file" : `${number(warnings.length)} warnings about the file`);
    id("warned").replaceChildren(...warnings.map((one) => {
      const item = element("li");
      item.append(element("code", `${one.file}:${one.line}:${one.column}`), ` ${one.message}. `, element("small", one.advice));
      return item;
    }));
  } catch {
    // Fetched again at the next event.
    configuration = null;
  }
}

function remember(name, sample) {
  if (!past.has(name)) past.set(name, []);
  const samples = past.get(name);
  samples.push(sample);
  if (samples.length > MAX_SECONDS) samples.shift();
}

function filter() {
  const wanted = id("find").value.toLowerCase();
  let shown = 0;
  for (const [name, { line }] of rows) {
    line.hidden = !name.toLowerCase().includes(wanted);
    shown += !line.hidden;
  }
  id("none").hidden = shown > 0;
}

function choose(name) {
  chosen = name;
  for (const [other, { line }] of rows) line.setAttribute("aria-selected", String(other === name));
  id("detail").hidden = name === null;
  if (name === null) return;
  set(id("detail-title"), name);
  set(id("outcome"), "");
  fill();
  detail();
  id("detail-title").focus();
}

// Fills the form with the values in force.
function fill() {
  const limit = limits.find((one) => one.name === chosen);
  if (!limit) return;
  const form = id("tune").elements;
  form.requests.value = limit.requests ?? "";
  form.per.value = duration(limit.per_ms);
  form.guard.value = duration(limit.guard_ms);
  form.in_flight.value = limit.in_flight ?? "";
  form.max_wait.value = duration(limit.max_wait_ms);
  form.dry_run.checked = limit.dry_run;
  filled = formValues();
  preview();
}

// Present values of the form.
function formValues() {
  const form = id("tune").elements;
  const texts = Object.fromEntries(["requests", "per", "guard", "in_flight", "max_wait"].map((key) => [key, form[key].value.trim()]));
  return { ...texts, dry_run: form.dry_run.checked };
}

function bars(list, entries) {
  const most = Math.max(1, ...entries.map(([, count]) => count));
  list.replaceChildren(...entries.map(([name, count]) => {
    const item = element("li");
    const bar = element("i");
    bar.style.width = `${(100 * count) / most}%`;
    const label = element("span", name);
    label.title = name;
    item.append(label, bar, element("span", number(count)));
    return item;
  }));
}

async function detail() {
  const name = chosen;
  const limit = limits.find((one) => one.name === name);
  if (!limit) return;
  set(id("sentence"), `${rule(limit)}; ${limit.window ?? "in flight"}, ${limit.when_full === "wait" ? `more requests wait up to ${duration(limit.max_wait_ms)}` : "more requests are refused"}`);
  set(id("hang-ups"), limit.hang_ups?.advice ?? "");
  id("hang-ups").hidden = !limit.hang_ups;
  draw();
  try {
    const answer = await fetch(`v1/limits/${encodeURIComponent(name)}`);
    if (!answer.ok || chosen !== name) return;
    const close = await answer.json();
    window_of(close);
    bars(id("callers"), close.callers.map((one) => [one.caller, one.waiting]));
    id("no-waiters").hidden = close.callers.length > 0;
    const reasons = Object.entries(close.refused).filter(([, count]) => count > 0);
    bars(id("reasons"), reasons);
    id("no-refusals").hidden = reasons.length > 0;
  } catch {
    // The event stream reports a gateway that does not answer.
  }
}

function window_of(close) {
  const box = id("slots");
  const fullest = close.fullest;
  const total = close.requests ?? close.in_flight;
  const taken = fullest ? (close.requests !== null ? fullest.taken : fullest.in_flight) : 0;
  const parts = fullest ? fullest.slots.map((slot) => [slot.count, slot.opens_in_ms]) : [];
  const known = parts.reduce((sum, [count]) => sum + count, 0);
  if (taken > known) parts.push([taken - known, null]);
  box.replaceChildren(...parts.map(([count, opens]) => {
    const slot = element("i", undefined, opens === null ? "open" : "");
    slot.style.width = `${(100 * count) / Math.max(total, taken)}%`;
    slot.title = opens === null ? `${count} in flight` : `${count} open in ${Math.round(opens)} ms`;
    return slot;
  }));
  const opens = fullest && fullest.opens_in_ms;
  const when = !fullest ? "no key has a window" : opens === null ? "opens when a request ends" : opens > 0 ? `opens in ${number(opens)} ms` : "open";
  const which = close.keys > 1 ? `the fullest of ${number(close.keys)} keys: ` : "";
  set(id("window-note"), `${which}${number(taken)} of ${number(total)} taken, ${when}`);
  box.setAttribute("aria-label", id("window-note").textContent);
}

function chart(canvas, series, label) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const seconds = Math.max(MIN_SECONDS, ...series.map(({ values }) => values.length));
  const top = Math.max(1, ...series.flatMap(({ values }) => values.reduce((most, value) => Math.max(most, value), 0)));
  for (const { values, colour, dashed } of series) {
    pen.strokeStyle = style.getPropertyValue(`--${colour}`);
    pen.lineWidth = 1.5;
    pen.setLineDash(dashed ? [4, 4] : []);
    pen.beginPath();
    values.forEach((value, at) => {
      const x = width - ((values.length - 1 - at) * width) / (seconds - 1);
      const y = height - 2 - (value / top) * (height - 16);
      if (at) pen.lineTo(x, y); else pen.moveTo(x, y);
    });
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.fillStyle = style.getPropertyValue("--dim");
  pen.font = "12px system-ui, sans-serif";
  pen.fillText(number(top), 2, 12);
  canvas.setAttribute("aria-label", `${label}, at most ${number(top)}, now ${series.map(({ values }) => number(values.at(-1) ?? 0)).join(" and ")}`);
}

function draw() {
  const samples = past.get(chosen) || [];
  const limit = limits.find((one) => one.name === chosen);
  if (!limit) return;
  const of = (at) => samples.map((sample) => sample[at]);
  const series = [{ values: of(0), colour: "sent" }, { values: of(1), colour: "refused" }];
  if (limit.requests !== null && limit.keys <= 1) {
    series.push({ values: samples.map(() => (limit.requests * 1000) / limit.per_ms), colour: "most", dashed: true });
  }
  chart(id("rate"), series, "Requests per second, sent and refused");
  chart(id("waiting"), [{ values: of(2), colour: "waiting" }], "Waiting");
  chart(id("waits"), [{ values: of(3), colour: "waited" }, { values: of(4), colour: "refused" }], "Mean wait and pushbacks");
}

// Simulates the rule in the form with the requests of the history, second by second.
function preview() {
  const form = id("tune").elements;
  const [requests, per, patience] = [Number(form.requests.value), millis(form.per.value), millis(form.max_wait.value)];
  const samples = past.get(chosen) || [];
  if (!(requests > 0) || !per || samples.length < 2) return set(id("preview"), "");
  let [queued, arrived, sent, deepest, late] = [0, 0, 0, 0, 0];
  const rate = (requests * 1000) / per;
  // The window is taken as empty at first.
  let free = requests;
  samples.forEach(([granted, refused, waiting], at) => {
    const came = Math.max(0, granted + refused + (at ? waiting - samples[at - 1][2] : waiting));
    arrived += came;
    queued += came;
    free = Math.min(requests, free + rate);
    const now = Math.min(queued, free, Math.max(rate, requests));
    queued -= now;
    free -= now;
    sent += now;
    const most = patience === null ? Infinity : (patience / 1000) * rate;
    if (queued > most) {
      late += queued - most;
      queued = most;
    }
    deepest = Math.max(deepest, queued);
  });
  const minutes = Math.max(1, Math.round(samples.length / 60));
  const waits = deepest < 1 ? "waits would have been short" : `the queue would have grown to ${number(Math.round(deepest))} requests, a wait of ${number(deepest / rate)} s`;
  set(id("preview"), `Of about ${number(Math.round(arrived))} requests of the last ${minutes} min, ${number(Math.round(sent))} would have been sent and ${number(Math.round(late))} refused; ${waits}.`);
}

async function send(method, path, body) {
  const options = { method, headers: { "content-type": "application/json" } };
  if (body) options.body = JSON.stringify(body);
  const told = id("outcome");
  try {
    const answer = await fetch(path, options);
    const text = await answer.json();
    told.className = answer.ok ? "" : "bad";
    set(told, answer.ok ? (text.changes || [`${text.name}: ${rule(text)}`]).join("\n") : text.detail);
    return answer.ok;
  } catch (error) {
    told.className = "bad";
    set(told, `the gateway does not answer: ${error.message}`);
    return false;
  }
}

id("tune").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = (key, text) => {
    if (text === "") return null;
    return ["requests", "in_flight"].includes(key) && /^\d+$/.test(text) ? Number(text) : text;
  };
  const wanted = Object.entries(formValues()).filter(([key, now]) => now !== filled[key]);
  const edits = Object.fromEntries(wanted.map(([key, now]) => [key, value(key, now)]));
  send("PATCH", `v1/limits/${encodeURIComponent(chosen)}`, edits).then((done) => {
    if (done) filled = formValues();
  });
});
id("tune").addEventListener("input", preview);
id("save").addEventListener("click", () => send("POST", "v1/config/save"));
id("close").addEventListener("click", () => {
  const { line } = rows.get(chosen) || {};
  choose(null);
  if (line) line.querySelector("button").focus();
});
id("find").addEventListener("input", filter);
window.addEventListener("resize", () => chosen && draw());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) id("close").click();
});

async function begin() {
  const answer = await fetch("v1/history");
  const history = await answer.json();
  for (const [name, seconds] of Object.entries(history.limits)) {
    past.set(name, seconds.permits.map((_, at) => [seconds.permits[at], seconds.refused[at], seconds.waiting[at], seconds.waited_ms[at], seconds.pushbacks[at]]));
  }
  const events = new EventSource("v1/events");
  events.addEventListener("limits", (event) => show(JSON.parse(event.data)));
  events.addEventListener("error", () => set(id("process"), "the gateway does not answer; trying again …"));
}
begin().catch((error) => set(id("process"), `the gateway does not answer: ${error.message}`));
