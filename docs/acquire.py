"""Permits of a lockgate limit for work that is not an HTTP request, with the standard library alone.

As a program it asks for COUNT permits, one after another, and prints how long each one waited:

    python3 acquire.py GATEWAY LIMIT COUNT
    python3 acquire.py 127.0.0.1:8080 partner-api 10
"""

import http.client
import json
import time
from urllib.parse import quote, urlencode


def acquire(gateway, limit, wait=None, **query):
    """Waits for a permit of the limit, at most `wait` seconds; returns the seconds that it waited."""
    parameters = urlencode({**query, **({} if wait is None else {"wait": wait})}, doseq=True)
    while True:
        # A closed connection leaves the queue, so an exception here gives the place to the next request.
        connection = http.client.HTTPConnection(gateway)
        connection.request("POST", f"/v1/limits/{quote(limit)}/acquire?{parameters}")
        response = connection.getresponse()
        answer = json.load(response)
        connection.close()
        if response.status == 200:
            return answer["waited_ms"] / 1000
        if response.status != 429 or wait is not None:
            raise RuntimeError(answer["detail"])
        time.sleep(answer["retry_after_ms"] / 1000)


if __name__ == "__main__":
    import argparse

    usage = argparse.ArgumentParser(description="Ask a lockgate for permits, and print how long each one waited.")
    usage.add_argument("gateway", metavar="GATEWAY", help="address of the gateway, such as 127.0.0.1:8080")
    usage.add_argument("limit", metavar="LIMIT", help="name of a limit in its proxy.toml")
    usage.add_argument("count", metavar="COUNT", type=int, help="number of permits to ask for")
    arguments = usage.parse_args()
    for number in range(arguments.count):
        print(f"{number}: {acquire(arguments.gateway, arguments.limit):.3f} s")
