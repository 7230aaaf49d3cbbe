// Calls an origin with Node's own modules, knowing nothing of any gateway: the environment says it all.
//
// usage: node unchanged.mjs BASE COUNT

import http from "node:http";
import https from "node:https";

const [base, count] = process.argv.slice(2);
const library = base.startsWith("https:") ? https : http;
const bodies = ["x", "y".repeat(200_000)];

function check(what, status, got, wanted) {
  if (status !== 200 || got !== wanted) {
    console.error(`${what}: ${status}, got ${got.slice(0, 200)}, wanted ${wanted.slice(0, 80)}`);
    process.exit(1);
  }
}

async function fetched(path, wanted, options) {
  const answer = await fetch(base + path, options);
  check("fetch", answer.status, await answer.text(), wanted);
}

/** A request of the module `http` or `https`. */
async function asked(path, wanted, options, body) {
  const answer = await new Promise((resolve, reject) => {
    const request = library.request(base + path, options, resolve).on("error", reject);
    request.end(body);
  });
  let text = "";
  for await (const piece of answer.setEncoding("utf8")) text += piece;
  check("request", answer.statusCode, text, wanted);
}

const paths = Array.from({ length: Number(count) }, (_, n) => `/node/${n}?q=%20`);
await Promise.all(paths.map((path) => fetched(path, path)));
for (const body of bodies) await fetched("/post", body, { method: "POST", body });

const agent = new library.Agent({ keepAlive: true, maxSockets: 2 });
const host = new URL(base).host;
for (const options of [{}, { agent }, { agent: false }, { headers: ["Host", host, "X-List", "1"] }]) {
  await Promise.all(paths.map((path) => asked(path, path, options)));
}
for (const body of bodies) await asked("/post", body, { method: "POST", agent }, body);

console.log("well");
process.exit(0);
