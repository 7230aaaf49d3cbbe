// Lets Node and Bun use the proxy of the environment; written by `lockgate exec`, and run at each start of Node
// (NODE_OPTIONS) and Bun (BUN_INSPECT_PRELOAD).
//
// From 22.21, and from 24.5 on, Node does this itself if NODE_USE_ENV_PROXY is set, but for agents that a program makes
// without `proxyEnv`. Here every `http.Agent`, every `https.Agent` and the dispatcher of `fetch` do it in every version
// from 14 on. Agents and dispatchers with connections of their own (another proxy, a Unix socket) stay as they are.
// Bun does it itself in `fetch`, and from 1.4 on not with agents that a program makes.
"use strict";

const [major, minor] = process.versions.node.split(".").map(Number);
const isBun = Boolean(process.versions.bun);
const nodeCallsProxy = isBun || major > 24 || (major === 24 && minor >= 5) || (major === 22 && minor >= 21);

const env = (name) => process.env[name.toLowerCase()] || process.env[name];
const parsed = (text) => {
  try {
    return text ? new URL(text) : null;
  } catch (error) {
    return null;
  }
};
const proxies = { "http:": parsed(env("HTTP_PROXY")), "https:": parsed(env("HTTPS_PROXY")) };
const known = (url) => url && (url.protocol === "http:" || url.protocol === "https:");

if (major >= 14 && known(proxies["http:"]) && known(proxies["https:"])) install();

function install() {
  const net = require("net");
  const tls = require("tls");
  const http = require("http");
  const https = require("https");

  // Node's `fetch` and `WebSocket`, and the package undici, ask the dispatcher that is known by this symbol.
  const dispatcherName = Symbol.for("undici.globalDispatcher.1");
  const bare = (host) => host.replace(/^\[|\]$/g, "").toLowerCase();
  const portOf = (url) => Number(url.port) || (url.protocol === "https:" ? 443 : 80);
  const exceptions = readExceptions(env("NO_PROXY") || "");

  function readExceptions(list) {
    const ranges = net.BlockList ? new net.BlockList() : { addSubnet: () => {}, check: () => false };
    const names = [];
    for (const entry of list.split(/[\s,]+/).filter(Boolean)) {
      const range = /^([0-9a-fA-F.:]+)\/(\d+)$/.exec(entry);
      if (range && net.isIP(range[1])) {
        try {
          ranges.addSubnet(range[1], Number(range[2]), net.isIPv6(range[1]) ? "ipv6" : "ipv4");
        } catch (error) {
          // A prefix that is too long excepts nothing.
        }
        continue;
      }
      const port = net.isIPv6(entry) ? null : /^(.*):(\d+)$/.exec(entry);
      const host = bare(port ? port[1] : entry);
      names.push({ host: host === "*" ? host : host.replace(/^\*?\.?/, ""), port: port && Number(port[2]) });
    }
    return { ranges, names };
  }

  /** The proxy for a host, or null if the host is excepted. */
  function proxyFor(protocol, host, port) {
    const name = bare(String(host || "localhost"));
    const excepted = ({ host, port: only }) =>
      (!only || only === Number(port)) && (host === "*" || name === host || name.endsWith(`.${host}`));
    const family = net.isIP(name);
    if (exceptions.names.some(excepted)) return null;
    if (family && exceptions.ranges.check(name, family === 6 ? "ipv6" : "ipv4")) return null;
    return proxies[protocol];
  }

  const credentials = ({ username, password }) =>
    username || password
      ? `Basic ${Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`).toString("base64")}`
      : null;

  /** A connection to the proxy itself. */
  function connect(proxy, { timeout, keepAlive, keepAliveInitialDelay, noDelay }) {
    const host = bare(proxy.hostname);
    const options = { host, port: portOf(proxy), timeout, keepAlive, keepAliveInitialDelay, noDelay };
    if (proxy.protocol === "http:") return net.connect(options);
    return tls.connect({ ...options, servername: net.isIP(host) ? undefined : host, ALPNProtocols: ["http/1.1"] });
  }

  /** Opens a tunnel through the proxy; calls back with an error, or with the connection. */
  function tunnel(proxy, host, port, options, callback) {
    const name = bare(String(host));
    const target = `${net.isIPv6(name) ? `[${name}]` : name}:${port}`;
    const socket = connect(proxy, options);
    let head = Buffer.alloc(0);
    const done = (error) => {
      for (const [event, listener] of Object.entries(listeners)) socket.removeListener(event, listener);
      if (error) socket.destroy();
      if (error) callback(error);
      else callback(null, socket);
    };
    const broken = (error) =>
      Object.assign(new Error(`the proxy at ${proxy.host} closed the connection before its tunnel to ${target}`), {
        code: "ECONNRESET",
        ...(error && { cause: error, code: error.code }),
      });
    const listeners = {
      error: (error) => done(broken(error)),
      close: () => done(broken()),
      readable: () => {
        for (let piece; (piece = socket.read()) !== null; ) head = Buffer.concat([head, piece]);
        const end = head.indexOf("\r\n\r\n");
        if (end < 0) return head.length > 65536 ? done(broken()) : undefined;
        const status = /^HTTP\/1\.[01] (\d{3})([^\r]*)/.exec(head.toString("latin1"));
        if (!status) return done(broken());
        if (status[1][0] !== "2") {
          const error = new Error(`the proxy at ${proxy.host} refused a tunnel to ${target}: ${status[1]}${status[2]}`);
          return done(Object.assign(error, { code: "ERR_PROXY_TUNNEL", statusCode: Number(status[1]) }));
        }
        if (head.length > end + 4) socket.unshift(head.subarray(end + 4));
        done();
      },
    };
    for (const [event, listener] of Object.entries(listeners)) socket.on(event, listener);
    const login = credentials(proxy);
    const fields = login ? `Proxy-Authorization: ${login}\r\n` : "";
    socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${fields}\r\n`);
  }

  patchAgents();
  if (typeof globalThis.fetch === "function" && !isBun) patchFetch();

  function patchAgents() {
    const plain = http.Agent.prototype;
    const secure = https.Agent.prototype;
    const { addRequest, createConnection: connectPlain } = plain;
    const { createConnection: connectSecure } = secure;
    // The proxy of a request, in the options that its connection is made by.
    const chosen = Symbol("proxy");
    const isNodes = (agent) => agent === http.globalAgent || agent === https.globalAgent || agent.options.proxyEnv;

    plain.addRequest = function (request, options, ...rest) {
      const proxy = typeof options === "object" ? proxyOf(this, request, { ...options, ...this.options }) : null;
      if (!proxy) return addRequest.call(this, request, options, ...rest);
      if (request.agent.protocol === "http:") pointAt(proxy, request);
      return addRequest.call(this, request, { ...options, [chosen]: proxy }, ...rest);
    };

    function proxyOf(agent, request, { host, port, socketPath }) {
      const { protocol, createConnection } = agent;
      const known = protocol === "https:" ? secure : plain;
      if (createConnection !== known.createConnection || socketPath || (nodeCallsProxy && isNodes(agent))) return null;
      // A CONNECT and an absolute target are those of a program that calls a proxy by itself.
      if (request.method === "CONNECT" || !request.path.startsWith("/")) return null;
      return proxyFor(protocol, host, port);
    }

    /** Makes the request one for a proxy. */
    function pointAt(proxy, request) {
      const written = request._header;
      const host = written ? (/\r\nhost: *([^\r]*)/i.exec(written) || [])[1] : request.getHeader("host");
      request.path = `http://${host}${request.path}`;
      const login = credentials(proxy);
      if (!written) {
        if (login && !request.hasHeader("proxy-authorization")) request.setHeader("Proxy-Authorization", login);
        return;
      }
      // The fields were given as a list, and are written already.
      const field = login ? `\r\nProxy-Authorization: ${login}` : "";
      request._header = `${request.method} ${request.path} HTTP/1.1${field}${written.slice(written.indexOf("\r\n"))}`;
    }

    plain.createConnection = function (options, ...rest) {
      const proxy = options && options[chosen];
      return proxy ? connect(proxy, options) : connectPlain.call(this, options, ...rest);
    };

    secure.createConnection = function (options, ...rest) {
      const proxy = options && options[chosen];
      const [callback] = rest;
      if (!proxy || typeof callback !== "function") return connectSecure.call(this, options, ...rest);
      tunnel(proxy, options.host, options.port, options, (error, socket) => {
        if (error) callback(error);
        else callback(null, connectSecure.call(this, { ...options, [chosen]: null, socket }));
      });
    };
  }

  /** Takes the place of the default dispatcher; one that the program sets stays. */
  function patchFetch() {
    const { fetch } = globalThis;
    let ours = null;
    let isPrograms = false;
    const replace = () => {
      const agent = globalThis[dispatcherName];
      if (!agent || agent === ours || isPrograms) return;
      if (agent.constructor.name === "Agent") ours = dispatcher(agent);
      // Node's own for proxies opens a tunnel also for a request without TLS, unless it is told not to.
      else if (agent.constructor.name === "EnvHttpProxyAgent") ours = new agent.constructor({ proxyTunnel: false });
      else return;
      globalThis[dispatcherName] = ours;
    };
    globalThis.fetch = function (input, init) {
      // Node loads its dispatcher at the first use of one of these.
      if (!globalThis[dispatcherName]) void globalThis.Response;
      replace();
      return fetch(input, init);
    };
    for (const property of ["name", "length"]) {
      Object.defineProperty(globalThis.fetch, property, Object.getOwnPropertyDescriptor(fetch, property));
    }
    // The package undici shares the dispatcher, or makes it while it is loaded.
    const Module = require("module");
    const { _load: load } = Module;
    Module._load = function (request, ...rest) {
      const loaded = load.call(this, request, ...rest);
      if (typeof request !== "string" || !request.includes("undici")) return loaded;
      replace();
      const set = loaded && loaded.setGlobalDispatcher;
      if (typeof set === "function" && !seen.has(loaded)) {
        seen.add(loaded);
        loaded.setGlobalDispatcher = (agent) => {
          isPrograms = true;
          return set(agent);
        };
      }
      return loaded;
    };
    const seen = new WeakSet();
  }

  /** A dispatcher that calls the proxy, and `direct` for hosts that are excepted. */
  function dispatcher(direct) {
    const Agent = direct.constructor;
    const settle = (socket, event, callback) => {
      const failed = (error) => callback(error, null);
      socket.setNoDelay(true).once("error", failed);
      socket.once(event, () => {
        socket.removeListener("error", failed);
        callback(null, socket);
      });
    };
    /** Makes a connection for an origin, as undici asks for it. */
    const connector = ({ hostname, port, protocol, servername }, callback) => {
      const proxy = proxies[protocol];
      if (protocol === "http:") {
        return settle(connect(proxy, {}), proxy.protocol === "https:" ? "secureConnect" : "connect", callback);
      }
      const host = bare(hostname);
      tunnel(proxy, host, Number(port) || 443, {}, (error, socket) => {
        if (error) return callback(error, null);
        const name = servername || (net.isIP(host) ? undefined : host);
        settle(tls.connect({ host, socket, servername: name, ALPNProtocols: ["http/1.1"] }), "secureConnect", callback);
      });
    };
    class ProxyAgent extends Agent {
      dispatch(options, handler) {
        const origin = new URL(options.origin);
        const proxy = proxyFor(origin.protocol, origin.hostname, portOf(origin));
        if (!proxy) return direct.dispatch(options, handler);
        if (origin.protocol === "https:") return super.dispatch(options, handler);
        const login = credentials(proxy);
        const headers = login ? [...pairs(options.headers), "proxy-authorization", login] : options.headers;
        return super.dispatch({ ...options, path: origin.origin + options.path, headers }, handler);
      }
    }
    return new ProxyAgent({ connect: connector });
  }

  /** Header fields in a flat list: names and values in turn. */
  function pairs(headers) {
    if (Array.isArray(headers)) return headers;
    if (headers && typeof headers[Symbol.iterator] === "function") return [...headers].flat();
    return Object.entries(headers || {}).flat();
  }
}
