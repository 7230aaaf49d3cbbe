"""An origin and a free port on this machine's loopback address, for the tests of what is released."""

import http.server
import socket
import time

# When each request arrived, in seconds of the monotonic clock.
arrivals = []


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers every GET with an empty 200."""

    def do_GET(self):
        arrivals.append(time.monotonic())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
