// Simulates another rule with the requests of the history, second by second.
//
// Every request of the history was sent, was refused, was cancelled by its caller, or waits still. The totals of a rule add
// up to the same number of requests, whatever the rule.

// Totals of what has happened.
export function observed(samples) {
  const sum = (of) => samples.reduce((all, sample) => all + of(sample), 0);
  const sent = sum((sample) => sample.permits);
  const refused = sum((sample) => sample.refused + sample.cancelled);
  const waiting = samples.at(-1).waiting;
  return { requests: sent + refused + waiting, sent, refused, waiting, queue: Math.max(...samples.map((sample) => sample.waiting)) };
}

// Number of requests that came in each second; those that waited before the first one count in it.
export function arrivals(samples) {
  let gone = 0;
  const all = samples.map((sample) => {
    gone += sample.permits + sample.refused + sample.cancelled;
    return gone + sample.waiting;
  });
  // Counters and queue are read one after the other, so that a second may seem to have had fewer than none.
  for (let at = all.length - 2; at >= 0; at--) all[at] = Math.min(all[at], all[at + 1]);
  return all.map((now, at) => now - (at ? all[at - 1] : 0));
}

// Milliseconds that callers wait at most, if that is clearly less than the limit in force lets them: the longest queue at
// which requests were refused or cancelled. Infinity if nothing is known of it.
export function patience(samples, limit) {
  const impatient = samples.filter((sample) => sample.refused + sample.cancelled > 0).map((sample) => sample.waiting);
  if (limit.when_full !== "wait" || impatient.length === 0) return Infinity;
  const longest = (Math.max(...impatient) * (limit.per_ms + limit.guard_ms)) / limit.requests;
  return longest < 0.8 * limit.max_wait_ms ? longest : Infinity;
}

// Totals under a rule: { requests, per_ms, guard_ms, max_wait_ms, when_full, dry_run }. `longest`: milliseconds that callers
// wait at most; `before`: slots that were taken before the history, and still are.
//
// The window slides, in steps of a second. A request is refused on arrival if no slot opens for it in the time that it may
// wait.
export function simulated(samples, rule, longest, before) {
  const came = arrivals(samples);
  const window = (rule.per_ms + rule.guard_ms) / 1000;
  const patient = rule.when_full === "wait" ? Math.min(rule.max_wait_ms, longest) / 1000 : 0;
  const taken = window > samples.length ? before : 0;
  const log = [];
  // Slots that were taken in the last `seconds`.
  const used = (seconds) => {
    const whole = Math.floor(seconds);
    const recent = whole > 0 ? log.slice(-whole).reduce((sum, one) => sum + one, 0) : 0;
    return recent + (log.at(-whole - 1) ?? 0) * (seconds - whole) + taken;
  };
  const free = window < 1 ? parts(rule.requests / window) : () => Math.floor(rule.requests - used(window - 1));
  // Slots that open in the time that a request may wait.
  const opening = () => {
    if (window < 1) return Math.floor((patient * rule.requests) / window);
    const turns = Math.floor(patient / window);
    return turns * rule.requests + Math.max(0, Math.floor(rule.requests - used(window - (patient - turns * window))));
  };
  const totals = { requests: 0, sent: 0, refused: 0, waiting: 0, queue: 0 };
  for (const now of came) {
    totals.requests += now;
    totals.waiting += now;
    const sent = rule.dry_run ? totals.waiting : Math.max(0, Math.min(totals.waiting, free()));
    log.push(sent);
    totals.sent += sent;
    totals.waiting -= sent;
    const late = Math.max(0, totals.waiting - opening());
    totals.refused += late;
    totals.waiting -= late;
    totals.queue = Math.max(totals.queue, totals.waiting);
  }
  return totals;
}

// Whole numbers whose mean is `rate`, one for each call.
function parts(rate) {
  let rest = 0;
  return () => {
    rest += rate;
    const whole = Math.floor(rest + 1e-9);
    rest -= whole;
    return whole;
  };
}
