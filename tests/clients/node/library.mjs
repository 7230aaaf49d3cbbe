// Calls an origin with a library of Node that knows nothing of any gateway; prints the status and the content.
//
// usage: node library.mjs LIBRARY URL

const [library, url] = process.argv.slice(2);
const module = await import(library);

/** Status and content of the answer, by the library's own means. */
const calls = {
  // Calls a proxy by itself.
  axios: () => module.default.get(url).then((answer) => [answer.status, answer.data]),
  got: () => module.default(url).then((answer) => [answer.statusCode, answer.body]),
  "node-fetch": () => module.default(url).then(async (answer) => [answer.status, await answer.text()]),
  undici: () => module.request(url).then(async (answer) => [answer.statusCode, await answer.body.text()]),
};

console.log(...(await calls[library]()));
process.exit(0);
