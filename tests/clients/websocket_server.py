"""A WebSocket server: says through whom it was called, then repeats what it is told. Prints its port.

It is asyncio's: the library's server of threads reads and writes one TLS object from two threads, which loses
messages under load (Python before 3.13 takes no lock for it), with and without a gateway in between.

usage: websocket_server.py [CERT KEY]
With a certificate it speaks TLS.
"""

import asyncio
import ssl
import sys

from websockets.asyncio.server import serve


async def repeat(socket):
    await socket.send(socket.request.headers.get("Via", "nobody"))
    async for message in socket:
        await socket.send(message)


async def main():
    context = None
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
    async with serve(repeat, "127.0.0.1", 0, ssl=context, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
