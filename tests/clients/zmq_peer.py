"""Peers of libzmq that ask the gateway in one way each; prints what they are answered.

usage: zmq_peer.py MODE ENDPOINT [ARGUMENTS]
"""

import sys

import zmq

mode, endpoint, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
context = zmq.Context()


def connected(kind, **options):
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 50_000)
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(endpoint)
    return socket


def tell(frames):
    print(b"|".join(frames).decode(), flush=True)


if mode == "req":  # sends each argument, and waits for its answer
    socket = connected(zmq.REQ)
    for ask in arguments:
        socket.send(ask.encode())
        tell(socket.recv_multipart())
elif mode == "correlated":
    socket = connected(zmq.REQ, REQ_RELAXED=1, REQ_CORRELATE=1)
    for ask in arguments:
        socket.send_multipart([ask.encode(), b"more"])
        tell(socket.recv_multipart())
elif mode == "dealer":  # three asks at once: as REQ sends them, with an id, and bare
    socket = connected(zmq.DEALER)
    socket.send_multipart([b"", b"?"])
    socket.send_multipart([b"id-7", b"", b"?"])
    socket.send(b"?")
    for _ in range(3):
        tell(socket.recv_multipart())
elif mode == "heartbeat":  # libzmq closes the connection of a peer that does not answer its PINGs
    socket = connected(zmq.REQ, HEARTBEAT_IVL=100, HEARTBEAT_TTL=30_000, HEARTBEAT_TIMEOUT=30_000)
    events = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    socket.send(b"?")
    tell(socket.recv_multipart())
    print("kept" if events.poll(1000) == 0 else "lost", flush=True)
elif mode == "plain":  # NAME PASSWORD: the answer, or the end of its handshake
    name, password = arguments
    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.plain_username, socket.plain_password = name.encode(), password.encode()
    kinds = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    events = socket.get_monitor_socket(kinds)
    socket.connect(endpoint)
    socket.send(b"?")
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(events, zmq.POLLIN)
    ready = dict(poller.poll(50_000))
    tell(socket.recv_multipart() if socket in ready else [b"rejected"] if events in ready else [b"nothing"])
elif mode == "many":  # COUNT sockets, each of which asks; their connections are open at one time
    sockets = [connected(zmq.DEALER) for _ in range(int(arguments[0]))]
    for socket in sockets:
        socket.send_multipart([b"", b"?"])
    print(sum(socket.recv_multipart() == [b"", b"go"] for socket in sockets), flush=True)
