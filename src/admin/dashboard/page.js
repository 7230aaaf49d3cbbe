// Dashboard of the admin API: /v1/events for the state of each second, /v1/history for the seconds before the page was
// opened.

import * as detail from "./detail.js";
import { count, element, number, set, uptime, words } from "./format.js";
import { graph } from "./graph.js";
import { table } from "./table.js";

// Seconds kept for the graphs: as many as /v1/history has.
const MAX_SAMPLES = 900;
// Time between two events after which the history is read again: some were missed, as in a tab that was suspended.
const MISSED_MS = 2500;
const id = (name) => document.getElementById(name);

let gateway = [];
const past = new Map();
let before = null;
let chosen = null;
// Version of the configuration whose warnings are shown.
let configuration = null;

const perSecond = (value) => `${number(value)}/s`;
const rates = graph(id("gateway-rate"), [
  { name: "all", className: "sent", value: (one) => one.requests },
  { name: "refused by limits", className: "refused", value: (one) => one.refused },
  { name: "server errors", className: "waited", value: (one) => one.errors },
], perSecond, 1);
const queue = graph(id("gateway-waiting"), [{ name: "waiting", className: "waiting", value: (one) => one.waiting }], number, 1);
const limits = table(choose);

function header(event) {
  const state = event.draining ? ["draining", "Draining"] : event.status === "degraded" ? ["degraded", "Degraded"] : ["ok", "Serving"];
  id("status").dataset.status = state[0];
  set(id("status"), state[1]);
  set(id("version"), event.version);
  set(id("uptime"), uptime(event.uptime_ms));
  set(id("state"), event.state);
  id("state").title = words.states[event.state];
  set(id("store"), event.store);
  id("store").title = words.stores[event.store];
  set(id("drain"), event.draining ? "draining" : "off");
  const trouble = [
    event.draining ? "No new connections are accepted." : "",
    ["ok", "off"].includes(event.state) ? "" : words.states[event.state],
    ["up", "off"].includes(event.store) ? "" : words.stores[event.store],
  ];
  set(id("trouble"), trouble.filter(Boolean).join(" "));
  set(id("requests"), number(event.requests_per_s));
  set(id("refused"), number(event.refused_per_s));
  set(id("errors"), number(event.errors_per_s));
  for (const key of ["waiting", "running", "connections"]) set(id(key), number(event[key]));
  id("refused").parentElement.classList.toggle("refused", event.refused_per_s > 0);
  id("errors").parentElement.classList.toggle("refused", event.errors_per_s > 0);
  id("waiting").parentElement.classList.toggle("waiting", event.waiting > 0);
}

// Adds the second between two events to the history.
function remember(event) {
  const since = (now, old, keys) => Object.fromEntries(keys.map((key) => [key, Math.max(0, now[key] - old[key])]));
  keep(gateway, { at: event.at, ...since(event, before, ["requests", "refused", "errors"]), waiting: event.waiting });
  const last = new Map(before.limits.map((limit) => [limit.name, limit]));
  for (const limit of event.limits) {
    const old = last.get(limit.name) ?? limit;
    const sample = since(limit, old, ["permits", "refused", "cancelled", "pushbacks"]);
    if (!past.has(limit.name)) past.set(limit.name, []);
    const waited_ms = sample.permits ? (limit.waited_ms - old.waited_ms) / sample.permits : 0;
    keep(past.get(limit.name), { at: event.at, ...sample, waited_ms, waiting: limit.waiting });
  }
  for (const name of past.keys()) if (!event.limits.some((limit) => limit.name === name)) past.delete(name);
}

function keep(samples, sample) {
  samples.push(sample);
  if (samples.length > MAX_SAMPLES) samples.shift();
}

async function show(event) {
  if (!before || event.at - before.at > MISSED_MS || event.at < before.at) await readHistory();
  else remember(event);
  before = event;
  header(event);
  limits.show(event.limits);
  rates(gateway, event.at);
  queue(gateway, event.at);
  const limit = event.limits.find((one) => one.name === chosen);
  if (limit) detail.show(limit, past.get(chosen) ?? [], event.at);
  else if (chosen) choose(null);
  if (event.configuration !== configuration) warned(event.configuration);
  // The moment of the numbers that the page shows.
  document.body.dataset.at = event.at;
}

async function readHistory() {
  const history = await (await fetch("v1/history")).json();
  const samples = (lists) => {
    const keys = Object.keys(lists);
    const many = lists[keys[0]].length;
    return lists[keys[0]].map((_, at) => ({
      at: history.at - (many - 1 - at) * history.interval_ms,
      ...Object.fromEntries(keys.map((key) => [key, lists[key][at]])),
    }));
  };
  gateway = samples(history.gateway);
  past.clear();
  for (const [name, lists] of Object.entries(history.limits)) past.set(name, samples(lists));
}

// Lists the warnings about the configuration file.
async function warned(now) {
  configuration = now;
  try {
    const answer = await fetch("v1/warnings");
    if (!answer.ok || configuration !== now) return;
    const { warnings } = await answer.json();
    id("warnings").hidden = warnings.length === 0;
    set(id("warnings-title"), `${count(warnings.length, "warning")} about the configuration file`);
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

// Shows a limit in detail, or none. The address of the page names it, so that it can be kept and sent.
function choose(name) {
  if (!before && name) {
    // The first event opens it.
    location.hash = `limit=${encodeURIComponent(name)}`;
    return;
  }
  const limit = before?.limits.find((one) => one.name === name);
  const last = chosen;
  chosen = limit ? name : null;
  limits.mark(chosen);
  history.replaceState(null, "", chosen ? `#limit=${encodeURIComponent(chosen)}` : location.pathname);
  if (!limit) {
    detail.close();
    if (last) limits.focus(last);
    return;
  }
  detail.open(limit, past.get(name) ?? []);
  detail.show(limit, past.get(name) ?? [], before.at);
}

id("close").addEventListener("click", () => choose(null));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) choose(null);
});

// Events are shown one after the other: one of them may wait for the history.
let shown = Promise.resolve();
const events = new EventSource("v1/events");
events.addEventListener("limits", (event) => {
  shown = shown.then(() => show(JSON.parse(event.data))).then(() => set(id("lost"), ""), lost);
  const asked = /^#limit=(.+)$/.exec(location.hash);
  if (asked && !chosen) shown = shown.then(() => choose(decodeURIComponent(asked[1])));
});
events.addEventListener("error", () => lost());

function lost(error) {
  set(id("lost"), `The gateway does not answer; trying again …${error ? ` (${error.message})` : ""}`);
}
