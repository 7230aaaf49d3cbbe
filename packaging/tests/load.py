"""Load through a gateway: an origin of its own, eight callers, and a judge of what arrived.

usage: load.py PROXY SECONDS REQUESTS PER [--until FILE]

Half of the callers keep their connections, half open one for each request. Prints a line of JSON: requests, failures with
their reasons, and the most arrivals in any span of PER seconds. Goes on after SECONDS until FILE exists, if that is named.
Exit code 1 if a request failed, or if more than REQUESTS arrived in a span: the limit must count what is answered, since
the origin reads its clock some time between arrival and answer.
"""

import http.client
import http.server
import json
import os
import sys
import threading
import time

arrivals = []


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        arrivals.append(time.monotonic())
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


def call(proxy, url, keeps, stop, tally):
    connection = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = http.client.HTTPConnection(proxy, timeout=60)
            connection.request("GET", url, headers={} if keeps else {"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or body != b"ok":
                raise ValueError(f"{answer.status} {body[:200]!r}")
            if not keeps or answer.will_close:
                connection.close()
                connection = None
            tally["requests"] += 1
        except Exception as error:  # whatever a caller would see as a failure
            tally["failures"].append(f"{type(error).__name__}: {error}")
            connection = None
            time.sleep(0.05)


def most_in(span):
    most, first = 0, 0
    for last, stamp in enumerate(arrivals):
        while stamp - arrivals[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most


def main():
    proxy, seconds, requests, per = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    until = sys.argv[6] if sys.argv[5:6] == ["--until"] else None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 9000), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop = threading.Event()
    tallies = [{"requests": 0, "failures": []} for _ in range(8)]
    callers = [
        threading.Thread(target=call, args=(proxy, "http://127.0.0.1:9000/", index % 2 == 0, stop, tally))
        for index, tally in enumerate(tallies)
    ]
    for caller in callers:
        caller.start()
    end, last = time.monotonic() + seconds, time.monotonic() + 300
    while time.monotonic() < end or (until and not os.path.exists(until) and time.monotonic() < last):
        time.sleep(0.05)
    stop.set()
    for caller in callers:
        caller.join()
    failures = [reason for tally in tallies for reason in tally["failures"]]
    most = most_in(per)
    total = sum(tally["requests"] for tally in tallies)
    print(json.dumps({"requests": total, "failures": failures[:5], "failed": len(failures), "most": most}))
    sys.exit(bool(failures) or total == 0 or most > requests)


main()
