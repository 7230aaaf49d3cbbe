"""One process of a fleet that asks over ZeroMQ, until it has asked long enough; prints a line for each answer.

usage: zmq_fleet.py ENDPOINT SECONDS PAUSE [relaxed]

A line is the answer, and the time of the machine's monotonic clock in nanoseconds at which it came. `relaxed`: asks again
after a second without an answer, as a REQ socket may with ZMQ_REQ_RELAXED. Without it an answer that does not come for 30
seconds ends the process with an error: it is stuck.
"""

import sys
import time

import zmq

endpoint, seconds, pause = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
relaxed = "relaxed" in sys.argv[4:]
socket = zmq.Context().socket(zmq.REQ)
socket.setsockopt(zmq.LINGER, 0)
socket.setsockopt(zmq.RCVTIMEO, 1000 if relaxed else 30_000)
if relaxed:
    socket.setsockopt(zmq.REQ_RELAXED, 1)
    socket.setsockopt(zmq.REQ_CORRELATE, 1)
socket.connect(endpoint)
end = time.monotonic() + seconds
answered = time.monotonic()
while time.monotonic() < end:
    socket.send(b"?")
    try:
        answer = socket.recv().decode()
    except zmq.Again:
        if not relaxed or time.monotonic() - answered > 30:
            sys.exit("stuck")
        continue
    answered = time.monotonic()
    print(answer, time.monotonic_ns(), flush=True)
    if answer != "go":
        time.sleep(pause)
print("well")
