// Reads the bytes of HTTP/1 connections as llhttp does, Node's own parser, in the WebAssembly build that undici ships.
// Input: for each connection 4 bytes of length (big-endian), then its bytes. Output: for each one a line of JSON with
// its requests, and the name of llhttp's error if there was one.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const wasm = require("undici/lib/llhttp/llhttp-wasm.js");
const { TYPE, METHODS, ERROR } = require("undici/lib/llhttp/constants.js");
const methods = Object.fromEntries(Object.entries(METHODS).map(([name, number]) => [number, name]));
const errors = Object.fromEntries(Object.entries(ERROR).map(([name, number]) => [number, name]));

let requests, current;
const bytes = (at, length) => Buffer.from(llhttp.memory.buffer, at, length);
const append = (list, start, at, length) => {
  // A value may come in pieces; the first piece of the next name starts another field.
  if (start) list.push(Buffer.from(bytes(at, length)));
  else list[list.length - 1] = Buffer.concat([list[list.length - 1], bytes(at, length)]);
};
const { exports: llhttp } = new WebAssembly.Instance(new WebAssembly.Module(wasm), {
  env: {
    wasm_on_message_begin: () => {
      current = { url: [], names: [], values: [], body: [], complete: false };
      requests.push(current);
      return 0;
    },
    wasm_on_url: (parser, at, length) => (current.url.push(Buffer.from(bytes(at, length))), 0),
    wasm_on_status: () => 0,
    wasm_on_header_field: (parser, at, length) => {
      append(current.names, current.names.length === current.values.length, at, length);
      return 0;
    },
    wasm_on_header_value: (parser, at, length) => {
      append(current.values, current.values.length < current.names.length, at, length);
      return 0;
    },
    wasm_on_headers_complete: (parser) => ((current.method = methods[llhttp.llhttp_get_method(parser)]), 0),
    wasm_on_body: (parser, at, length) => (current.body.push(Buffer.from(bytes(at, length))), 0),
    wasm_on_message_complete: () => ((current.complete = true), 0),
  },
});
llhttp._initialize();

function read(input) {
  requests = [];
  const parser = llhttp.llhttp_alloc(TYPE.REQUEST);
  const at = llhttp.malloc(input.length + 1);
  new Uint8Array(llhttp.memory.buffer, at, input.length).set(input);
  const error = llhttp.llhttp_execute(parser, at, input.length);
  llhttp.free(at);
  llhttp.llhttp_free(parser);
  const text = (parts) => Buffer.concat(parts).toString("latin1");
  const shown = requests.map(({ method, url, names, values, body, complete }) => ({
    method,
    target: text(url),
    fields: names.map((name, index) => [name.toString("latin1"), (values[index] ?? "").toString("latin1")]),
    body: text(body),
    complete,
  }));
  return JSON.stringify({ error: errors[error], methods: Object.keys(METHODS), requests: shown });
}

const parts = [];
for await (const part of process.stdin) parts.push(part);
const input = Buffer.concat(parts);
for (let at = 0; at < input.length; ) {
  const length = input.readUInt32BE(at);
  console.log(read(input.subarray(at + 4, at + 4 + length)));
  at += 4 + length;
}
