// An origin that speaks HTTP/2 and HTTP/1.1 over TLS, and HTTP/1.1 and h2c without it, each on a port of its own.
// GET /N answers N bytes; PUT and POST answer the number of bytes that came. Its own windows are so large that they
// bound no upload: 64 MiB for a stream and for a connection.
import fs from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';

const [cert, key, tls, plain, h2c] = process.argv.slice(2);
const window = 64 << 20;
const part = Buffer.alloc(64 << 10, 'x');

function answer(request, response) {
  if (request.method !== 'GET') {
    let count = 0;
    request.on('data', (chunk) => { count += chunk.length; });
    request.on('end', () => response.end(`${count}\n`));
    return;
  }
  let left = Number(request.url.slice(1));
  const more = () => {
    while (left > 0) {
      const some = part.subarray(0, Math.min(left, part.length));
      left -= some.length;
      if (!response.write(some)) return response.once('drain', more);
    }
    response.end();
  };
  more();
}

const settings = { initialWindowSize: window };
const secure = { cert: fs.readFileSync(cert), key: fs.readFileSync(key), allowHTTP1: true, settings };
for (const [server, port] of [
  [http2.createSecureServer(secure, answer), tls], [http.createServer(answer), plain], [http2.createServer({ settings }, answer), h2c],
]) {
  server.on('session', (session) => session.setLocalWindowSize(window));
  server.listen(Number(port), '::');
}
