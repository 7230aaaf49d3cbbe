// Table of the limits: its rows, their order, and the search.

import { count, number, rule, set, words } from "./format.js";

// Rows that are shown before "Show all".
const FEW = 20;
const conditions = Object.keys(words.conditions);
const id = (name) => document.getElementById(name);

// [used, bound] of the fullest window: of its slots or of its requests in flight, whichever is nearer to its bound.
export function fullest(limit) {
  const bounds = [[limit.taken, limit.requests], [limit.in_flight_taken, limit.in_flight]].filter(([, most]) => most !== null);
  return bounds.reduce((worst, one) => (one[0] / one[1] > worst[0] / worst[1] ? one : worst), bounds[0] ?? [0, 0]);
}

// Sort keys of the columns: text upwards, numbers from the largest on.
const KEYS = {
  name: (limit) => limit.name.toLowerCase(),
  condition: (limit) => conditions.indexOf(limit.condition),
  sent: (limit) => -limit.permits_per_s,
  window: (limit) => {
    const [used, most] = fullest(limit);
    return most ? -used / most : 0;
  },
  waiting: (limit) => -limit.waiting,
  refused: (limit) => -limit.refused_per_s,
  keys: (limit) => -limit.keys,
};
// A column whose first order is from the largest value on.
const DESCENDING = ["sent", "window", "waiting", "refused", "keys"];

// Makes the table. `choose(name)` is called for the limit that is chosen.
export function table(choose) {
  const body = id("limits");
  const rows = new Map();
  let [limits, sorted, reversed, showsAll, isHeld] = [[], "condition", false, false, false];
  // The rows of the first state.
  for (const line of body.rows) rows.set(line.querySelector("button").textContent, cells(line));

  function cells(line) {
    const cell = (name) => line.querySelector(`.${name}`);
    const name = cell("name").firstElementChild;
    name.addEventListener("click", () => choose(name.textContent));
    return {
      line, name, badge: cell("badge"), bar: line.querySelector("rect"), used: line.querySelector(".window span"),
      ...Object.fromEntries(["rule", "sent", "waiting", "refused", "keys"].map((one) => [one, cell(one)])),
    };
  }

  function row(name) {
    if (!rows.has(name)) {
      const line = id("row").content.firstElementChild.cloneNode(true);
      set(line.querySelector("button"), name);
      rows.set(name, cells(line));
      body.append(line);
    }
    return rows.get(name);
  }

  function fill(limit) {
    const of = row(limit.name);
    const [used, most] = fullest(limit);
    if (of.line.dataset.condition !== limit.condition) of.line.dataset.condition = limit.condition;
    set(of.badge, words.conditions[limit.condition]);
    set(of.rule, rule(limit));
    set(of.sent, number(limit.permits_per_s));
    of.bar.setAttribute("width", Math.min(100, (100 * used) / Math.max(1, most)).toFixed(1));
    set(of.used, `${number(used)} of ${number(most)}`);
    set(of.waiting, number(limit.waiting) + (limit.hang_ups ? `, hang up after ${(limit.hang_ups.after_ms / 1000).toFixed(1)} s` : ""));
    of.waiting.title = limit.hang_ups?.advice ?? "";
    set(of.refused, number(limit.refused_per_s));
    set(of.keys, number(limit.keys));
    of.waiting.classList.toggle("some", limit.waiting > 0);
    of.refused.classList.toggle("some", limit.refused_per_s > 0);
  }

  // Sorts the rows, but not while the pointer or the focus is in one of them: it must not move away.
  function arrange() {
    if (!isHeld) {
      const key = KEYS[sorted];
      const order = limits.map((limit, at) => [key(limit), at, limit.name]);
      const compare = ([one, place], [other, second]) => (one < other ? -1 : one > other ? 1 : place - second);
      order.sort(compare);
      if (reversed) order.reverse();
      order.forEach(([, , name], at) => {
        const { line } = rows.get(name);
        if (body.children[at] !== line) body.insertBefore(line, body.children[at] ?? null);
      });
    }
    const wanted = id("find").value.toLowerCase();
    let matching = 0;
    for (const line of body.rows) {
      const matches = line.querySelector("button").textContent.toLowerCase().includes(wanted);
      matching += matches;
      line.hidden = !matches || (!showsAll && matching > FEW);
    }
    id("none").hidden = matching > 0;
    id("more").hidden = showsAll || matching <= FEW;
    set(id("show-all"), `Show all ${count(matching, "limit")}`);
  }

  function summarize() {
    const attention = conditions.slice(0, 3).map((code) => [limits.filter((limit) => limit.condition === code).length, words.conditions[code].toLowerCase()]);
    const parts = attention.filter(([many]) => many > 0).map(([many, word]) => `${number(many)} ${word}`);
    set(id("summary"), parts.join(", "));
    set(id("limits-title"), count(limits.length, "limit"));
  }

  function sortBy(key) {
    [sorted, reversed] = [key, key === sorted && !reversed];
    for (const button of document.querySelectorAll("[data-sort]")) {
      const column = button.parentElement;
      if (button.dataset.sort !== sorted) column.removeAttribute("aria-sort");
      else column.setAttribute("aria-sort", DESCENDING.includes(sorted) !== reversed ? "descending" : "ascending");
    }
    arrange();
  }

  for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => sortBy(button.dataset.sort));
  id("find").addEventListener("input", arrange);
  id("show-all").addEventListener("click", () => {
    showsAll = true;
    arrange();
  });
  const holds = () => {
    isHeld = body.matches(":hover") || body.contains(document.activeElement);
  };
  for (const event of ["pointerover", "pointerleave", "focusin", "focusout"]) body.addEventListener(event, () => setTimeout(holds));

  return {
    show(now) {
      limits = now;
      const names = new Set(limits.map((limit) => limit.name));
      for (const [name, { line }] of rows) {
        if (names.has(name)) continue;
        line.remove();
        rows.delete(name);
      }
      limits.forEach(fill);
      arrange();
      summarize();
    },
    mark(name) {
      for (const [other, { line, name: button }] of rows) {
        line.classList.toggle("chosen", other === name);
        button.setAttribute("aria-expanded", String(other === name));
      }
    },
    focus(name) {
      rows.get(name)?.name.focus();
    },
  };
}
