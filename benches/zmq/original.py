"""The locker of before, written anew: a loop around a REP socket, with a window that opens with its first request.

usage: original.py ENDPOINT MAX_REQUESTS IN_SECONDS
"""

import sys
import time

import zmq

endpoint, max_requests, in_seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
socket = zmq.Context().socket(zmq.REP)
socket.bind(endpoint)
opened, count = float("-inf"), 0
while True:
    socket.recv()
    now = time.monotonic()
    if now - opened >= in_seconds:
        opened, count = now, 0
    count += 1
    socket.send(b"go" if count <= max_requests else b"sorry")
