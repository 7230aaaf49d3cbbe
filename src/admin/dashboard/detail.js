// One limit in detail: its window, its queue, its refusals, its history, and the form that tunes it.

import { duration, element, millis, number, rule, set, span, words } from "./format.js";
import { graph } from "./graph.js";
import { observed, patience, simulated } from "./what_if.js";

const FIELDS = ["requests", "per", "guard", "in_flight", "max_wait"];
const id = (name) => document.getElementById(name);
const form = id("tune").elements;
let limit = null;
let samples = [];
// Values of the form when it was filled; only changed ones are sent.
let filled = {};

const perSecond = (value) => `${number(value)}/s`;
const allowed = () => (limit && limit.requests !== null && limit.keys <= 1 ? (limit.requests * 1000) / limit.per_ms : null);
const graphs = [
  graph(id("rate"), [
    { name: "sent", className: "sent", value: (one) => one.permits },
    { name: "refused", className: "refused", value: (one) => one.refused },
    { name: "limit", className: "most", value: allowed },
  ], perSecond, 1),
  graph(id("queue"), [{ name: "waiting", className: "waiting", value: (one) => one.waiting }], number, 1),
  graph(id("waits"), [{ name: "mean wait", className: "waited", value: (one) => (one.permits ? one.waited_ms : null) }], span, 1),
  graph(id("pushbacks"), [{ name: "pushbacks", className: "refused", value: (one) => one.pushbacks }], perSecond, 1),
];

// Shows a limit that was chosen.
export function open(now, history) {
  [limit, samples] = [now, history];
  id("detail").hidden = false;
  set(id("detail-title"), limit.name);
  set(id("outcome"), "");
  fill();
  id("detail-title").focus();
}

export function close() {
  limit = null;
  id("detail").hidden = true;
}

// Shows what the limit does now. `history`: its samples, the last one taken at `at`.
export async function show(now, history, at) {
  [limit, samples] = [now, history];
  set(id("detail-condition"), words.conditions[limit.condition]);
  id("detail").dataset.condition = limit.condition;
  const more = limit.when_full === "wait" ? `more requests wait up to ${duration(limit.max_wait_ms)}` : "more requests are refused";
  set(id("sentence"), `${rule(limit)}; ${limit.window ?? "in flight"}, ${more}`);
  set(id("hang-ups"), limit.hang_ups?.advice ?? "");
  id("hang-ups").hidden = !limit.hang_ups;
  for (const draw of graphs) draw(samples, at);
  preview();
  try {
    const answer = await fetch(`v1/limits/${encodeURIComponent(now.name)}`);
    if (!answer.ok || limit?.name !== now.name) return;
    const close = await answer.json();
    slots(close);
    bars(id("callers"), close.callers.map((one) => [one.caller, one.waiting, ""]));
    id("no-waiters").hidden = close.callers.length > 0;
    const reasons = Object.entries(close.refused).filter(([, many]) => many > 0).sort(([, one], [, other]) => other - one);
    bars(id("reasons"), reasons.map(([code, many]) => [code, many, words.reasons[code]]));
    id("no-refusals").hidden = reasons.length > 0;
  } catch {
    // The event stream reports a gateway that does not answer.
  }
}

// Bars with a name, a number, and an explanation.
function bars(list, entries) {
  const most = Math.max(1, ...entries.map(([, many]) => many));
  list.replaceChildren(...entries.map(([name, many, text]) => {
    const item = element("li");
    const bar = element("i");
    bar.style.width = `${(100 * many) / most}%`;
    const track = element("span", undefined, "track");
    track.append(bar);
    item.append(element("span", name, "label"), track, element("b", number(many)));
    if (text) item.append(element("small", text));
    return item;
  }));
}

// The slots of the fullest window, each as wide as its share.
function slots(close) {
  const fullest = close.fullest;
  const total = close.requests ?? close.in_flight;
  const taken = fullest ? (close.requests !== null ? fullest.taken : fullest.in_flight) : 0;
  const parts = fullest ? fullest.slots.map((slot) => [slot.count, slot.opens_in_ms]) : [];
  const known = parts.reduce((sum, [many]) => sum + many, 0);
  if (taken > known) parts.push([taken - known, null]);
  id("slots").replaceChildren(...parts.map(([many, opens]) => {
    const slot = element("i", undefined, opens === null ? "flying" : "");
    slot.style.width = `${(100 * many) / Math.max(total, taken)}%`;
    slot.title = opens === null ? `${many} in flight` : `${many} open in ${span(opens)}`;
    return slot;
  }));
  const opens = fullest && fullest.opens_in_ms;
  const when = !fullest ? "no key has a window" : opens === null ? "opens when a request ends" : opens > 0 ? `opens in ${span(opens)}` : "open";
  const which = close.keys > 1 ? `the fullest of ${number(close.keys)} keys: ` : "";
  const flying = parts.some(([, opens]) => opens === null) ? "; grey: in flight" : "";
  set(id("window-note"), `${which}${number(taken)} of ${number(total)} taken, ${when}${flying}`);
  id("slots").setAttribute("aria-label", id("window-note").textContent);
}

// Fills the form with the values in force.
function fill() {
  form.requests.value = limit.requests ?? "";
  form.per.value = duration(limit.per_ms);
  form.guard.value = duration(limit.guard_ms);
  form.in_flight.value = limit.in_flight ?? "";
  form.max_wait.value = duration(limit.max_wait_ms);
  form.dry_run.checked = limit.dry_run;
  filled = values();
  preview();
}

// Present values of the form.
function values() {
  const texts = Object.fromEntries(FIELDS.map((key) => [key, form[key].value.trim()]));
  return { ...texts, dry_run: form.dry_run.checked };
}

// The rule that the form describes; null if it is none that can be simulated.
function wanted() {
  const [requests, per_ms, guard_ms, max_wait_ms] = [Number(form.requests.value), ...["per", "guard", "max_wait"].map((key) => millis(form[key].value))];
  const isRule = Number.isInteger(requests) && requests > 0 && per_ms > 0 && guard_ms !== null && max_wait_ms !== null;
  return isRule ? { ...limit, requests, per_ms, guard_ms, max_wait_ms, dry_run: form.dry_run.checked } : null;
}

// Compares the ends of the requests of the history with those that the rule of the form would have given them.
function preview() {
  if (!limit) return;
  const isChanged = JSON.stringify(values()) !== JSON.stringify(filled);
  const rule = wanted();
  const why = limit.requests === null ? "Requests in flight are not simulated."
    : limit.keys > 1 ? "Each key has a window of its own: what another rule would have done cannot be told from their sum."
    : samples.length < 2 ? "There is no history yet."
    : !isChanged ? "Change a value to see what it would have done with these requests."
    : !rule ? "This is no rule that can be simulated." : "";
  id("what-if").hidden = samples.length < 2;
  set(id("what-if-note"), why || note());
  if (samples.length < 2) return;
  set(id("what-if-title"), `Requests of the last ${span(Math.max(1000, samples.at(-1).at - samples[0].at))}`);
  const rows = [["In force", observed(samples)]];
  if (!why) {
    const recent = samples.slice(-Math.ceil((limit.per_ms + limit.guard_ms) / 1000));
    const before = Math.max(0, limit.taken - recent.reduce((sum, one) => sum + one.permits, 0));
    rows.push(["As in the form", simulated(samples, rule, patience(samples, limit), before)]);
  }
  id("what-if-rows").replaceChildren(...rows.map(([name, totals]) => {
    const row = element("tr");
    const head = row.appendChild(element("th", name));
    head.scope = "row";
    for (const key of ["requests", "sent", "refused", "waiting", "queue"]) row.append(element("td", number(totals[key]), "number"));
    return row;
  }));
}

// The assumptions of the simulation.
function note() {
  const longest = patience(samples, limit);
  return [
    "Simulated second by second.",
    Number.isFinite(longest) ? `Callers are taken to wait ${span(longest)} at most, as they did.` : "",
    form.in_flight.value.trim() ? "The number in flight is not simulated." : "",
    ["fixed", "calendar"].includes(limit.window) ? "The window is simulated as a sliding one." : "",
    form.dry_run.checked ? "A dry run sends every request at once." : "",
  ].filter(Boolean).join(" ");
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
    set(told, `The gateway does not answer: ${error.message}`);
    return false;
  }
}

id("tune").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = (key, text) => {
    if (text === "") return null;
    return ["requests", "in_flight"].includes(key) && /^\d+$/.test(text) ? Number(text) : text;
  };
  const changed = Object.entries(values()).filter(([key, now]) => now !== filled[key]);
  const edits = Object.fromEntries(changed.map(([key, now]) => [key, value(key, now)]));
  send("PATCH", `v1/limits/${encodeURIComponent(limit.name)}`, edits).then((done) => {
    if (done) filled = values();
  });
});
id("tune").addEventListener("input", preview);
id("save").addEventListener("click", () => send("POST", "v1/config/save"));
