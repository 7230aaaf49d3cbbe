// Numbers, durations and rules in words; the first state of the page is written in the same way (first_state.rs).

export const words = JSON.parse(document.getElementById("words").textContent);
// In their order: the condition that needs attention most stands first.
words.conditions = Object.fromEntries(words.conditions);

export function number(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

export function count(value, thing) {
  return `${number(value)} ${thing}${value === 1 ? "" : "s"}`;
}

// A duration as in the file.
export function duration(ms) {
  if (ms === null || ms === undefined) return "";
  for (const [unit, size] of [["d", 86400000], ["h", 3600000], ["m", 60000], ["s", 1000]]) {
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return `${+ms.toFixed(3)}ms`;
}

// Milliseconds of a duration of the file; null if it is none.
export function millis(text) {
  const found = /^([\d.]+)\s*(ms|s|m|h|d)$/.exec(text.trim());
  return found ? found[1] * { ms: 1, s: 1000, m: 60000, h: 3600000, d: 86400000 }[found[2]] : null;
}

// A duration that was measured, in a unit that suits its size.
export function span(ms) {
  if (ms < 1000) return `${number(ms < 10 ? ms : Math.round(ms))} ms`;
  if (ms < 10000) return `${number(ms / 1000)} s`;
  if (ms < 120000) return `${number(Math.round(ms / 1000))} s`;
  return ms < 7200000 ? `${number(Math.round(ms / 60000))} min` : `${number(Math.round(ms / 3600000))} h`;
}

export function uptime(ms) {
  if (ms === null) return "–";
  const [days, hours, minutes] = [86400000, 3600000, 60000].map((size) => Math.floor(ms / size));
  if (days) return `${days} d ${hours - days * 24} h`;
  if (hours) return `${hours} h ${minutes - hours * 60} min`;
  return minutes ? `${minutes} min` : `${Math.floor(ms / 1000)} s`;
}

export function rule(limit) {
  const parts = [];
  if (limit.requests !== null) parts.push(`${limit.requests} per ${duration(limit.per_ms)}`);
  if (limit.in_flight !== null) parts.push(`${limit.in_flight} in flight`);
  return parts.join(", ") + (limit.dry_run ? " (dry run)" : "");
}

export function element(kind, text, className) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Sets a text only if it differs, so that screen readers and selections are not disturbed.
export function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
