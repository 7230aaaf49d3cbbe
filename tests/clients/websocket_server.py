"""A WebSocket server with TLS: says through whom it was called, then repeats what it is told. Prints its port.

usage: websocket_server.py CERT KEY
"""

import ssl
import sys

from websockets.sync.server import serve


def repeat(socket):
    socket.send(socket.request.headers.get("Via", "nobody"))
    for message in socket:
        socket.send(message)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
with serve(repeat, "127.0.0.1", 0, ssl=context, max_size=None) as server:
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
