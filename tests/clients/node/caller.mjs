// Calls through the gateway from Node, as a program of a fleet would.
//
// usage: node caller.mjs KIND PROXY PLAIN SECURE CA COUNT
// KIND: fetch (undici's ProxyAgent, which tunnels), forward (undici, absolute targets), http (Node's own modules), or
// statuses (undici's ProxyAgent: one GET after the other, whose statuses are printed).
// PLAIN and SECURE are base URLs of an origin that answers a GET with its path and a POST with its content.

import { readFileSync } from "node:fs";
import http from "node:http";
import tls from "node:tls";
import { ProxyAgent, fetch } from "undici";

const [kind, proxy, plain, secure, caPath, count] = process.argv.slice(2);
const ca = secure === "-" ? undefined : readFileSync(caPath);

function check(what, got, wanted) {
  if (got !== wanted) {
    console.error(`${kind}: ${what}: got ${got.slice(0, 80)}, wanted ${wanted.slice(0, 80)}`);
    process.exit(1);
  }
}

function byFetch(proxyTunnel) {
  const dispatcher = new ProxyAgent({ uri: proxy, proxyTunnel, requestTls: { ca } });
  return async (method, url, body) => {
    const answer = await fetch(url, { method, body, dispatcher });
    if (answer.status !== 200) throw new Error(`${answer.status} for ${url}: ${await answer.text()}`);
    return answer.text();
  };
}

const agent = new http.Agent({ keepAlive: true });

function byHttp(method, url, body) {
  const { hostname, port, host, protocol, pathname, search } = new URL(url);
  const via = new URL(proxy);
  const answered = (resolve, reject) => (answer) => {
    const parts = [];
    answer.on("data", (part) => parts.push(part));
    answer.on("error", reject);
    answer.on("end", () => {
      if (answer.statusCode !== 200) reject(new Error(`${answer.statusCode} for ${url}`));
      else resolve(Buffer.concat(parts).toString());
    });
  };
  return new Promise((resolve, reject) => {
    if (protocol === "http:") {
      const options = { host: via.hostname, port: via.port, method, path: url, headers: { Host: host }, agent };
      http.request(options, answered(resolve, reject)).on("error", reject).end(body);
      return;
    }
    const options = { host: via.hostname, port: via.port, method: "CONNECT", path: `${hostname}:${port}`, agent: false };
    http
      .request(options)
      .on("error", reject)
      .on("connect", (answer, socket) => {
        if (answer.statusCode !== 200) return reject(new Error(`CONNECT: ${answer.statusCode}`));
        const inside = tls.connect({ socket, servername: hostname, ca }, () => {
          const request = { method, path: pathname + search, headers: { Host: host }, createConnection: () => inside };
          http.request(request, answered(resolve, reject)).on("error", reject).end(body);
        });
        inside.on("error", reject);
      })
      .end();
  });
}

if (kind === "statuses") {
  const dispatcher = new ProxyAgent({ uri: proxy, proxyTunnel: true });
  const statuses = [];
  for (let n = 0; n < Number(count); n++) {
    const answer = await fetch(`${plain}/statuses/${n}`, { dispatcher });
    await answer.text();
    statuses.push(answer.status);
  }
  console.log(statuses.join(" "));
  process.exit(0);
}

const call = { fetch: byFetch(true), forward: byFetch(false), http: byHttp }[kind];
const bases = secure === "-" ? [plain] : [plain, secure];
for (const base of bases) {
  const paths = Array.from({ length: Number(count) }, (_, n) => `/${kind}/${n}?q=%20`);
  const got = await Promise.all(paths.map((path) => call("GET", base + path)));
  paths.forEach((path, n) => check("GET", got[n], path));
  for (const body of secure === "-" ? [] : ["x", "y".repeat(100_000)]) {
    check("POST", await call("POST", `${base}/post`, body), body);
  }
}
console.log("well");
process.exit(0);
