// Checks the simulation of the dashboard: what_if.mjs PATH-OF-what_if.js. Random histories, and one of a known gateway.
import { readFileSync } from "node:fs";

const source = readFileSync(process.argv[2], "utf8");
const { arrivals, observed, patience, simulated } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

let seed = 7;
const random = (below) => {
  seed = (seed * 48271) % 2147483647;
  return (seed / 2147483647) * below;
};
const whole = (below) => Math.floor(random(below));
const one = (list) => list[whole(list.length)];
const sum = (list) => list.reduce((all, next) => all + next, 0);
const fail = (...told) => {
  console.error(JSON.stringify(told));
  process.exit(1);
};

// Any history and any rule: each request has one end.
for (let turn = 0; turn < 3000; turn++) {
  const history = Array.from({ length: 2 + whole(60) }, () => ({ permits: whole(30), refused: whole(5), cancelled: whole(3), waiting: whole(40) }));
  const rule = {
    requests: 1 + whole(50), per_ms: one([1, 250, 800, 1000, 1500, 60000, 3600000]), guard_ms: whole(50),
    max_wait_ms: one([0, 500, 3000, 30000, 1e9]), when_full: one(["wait", "wait", "refuse"]), dry_run: whole(10) === 0,
  };
  const past = observed(history);
  const came = arrivals(history);
  const would = simulated(history, rule, one([Infinity, random(5000)]), whole(5));
  if (came.some((many) => many < 0) || sum(came) !== past.requests) fail("arrivals", history, came, past);
  for (const totals of [past, would]) {
    const { requests, sent, refused, waiting } = totals;
    if (requests !== sent + refused + waiting || requests !== past.requests) fail("sums", history, rule, past, would);
    if (Object.values(totals).some((value) => value < 0 || !Number.isInteger(value))) fail("numbers", rule, totals);
  }
}

// Seconds of a gateway with 20 per second whose callers wait `callers` seconds at most.
function seconds(load, callers) {
  let waiting = 0;
  return Array.from({ length: 300 }, () => {
    waiting += whole(2 * load);
    const permits = Math.min(waiting, 20);
    waiting -= permits;
    const refused = Math.max(0, waiting - 20 * callers);
    waiting -= refused;
    return { permits, refused, cancelled: 0, waiting };
  });
}

const limit = { requests: 20, per_ms: 1000, guard_ms: 0, max_wait_ms: 30000, when_full: "wait", dry_run: false };
for (const [load, callers] of [[10, 30], [40, 3], [40, 30]]) {
  const history = seconds(load, callers);
  const [past, longest] = [observed(history), patience(history, limit)];
  // The rule in force does what it did, also with callers of less patience than the limit.
  const same = simulated(history, limit, longest, 0);
  for (const key of ["sent", "refused", "waiting"]) {
    if (Math.abs(same[key] - past[key]) > 0.01 * past.requests + 1) fail("the same rule", load, callers, past, same);
  }
  // Half of it sends no more than half as much as it can, and twice as much no less than it did.
  if (simulated(history, { ...limit, requests: 10 }, longest, 0).sent > 10 * 300) fail("half", load, callers);
  if (simulated(history, { ...limit, requests: 40 }, longest, 0).sent < past.sent) fail("double", load, callers);
  const refuses = simulated(history, { ...limit, when_full: "refuse" }, longest, 0);
  if (refuses.queue !== 0 || refuses.waiting !== 0) fail("refuse", refuses);
}
// A quota of an hour that was used up before is not free again because its history is short.
const spent = Array.from({ length: 120 }, () => ({ permits: 0, refused: 3, cancelled: 0, waiting: 0 }));
const hourly = { ...limit, requests: 50, per_ms: 3600000, when_full: "refuse" };
if (simulated(spent, hourly, Infinity, 50).sent !== 0) fail("spent");
if (simulated(spent, { ...hourly, requests: 60 }, Infinity, 50).sent !== 10) fail("ten more");
