"""A permit for something that is no HTTP request, with the standard library alone."""

import http.client
import json
import time
from urllib.parse import quote, urlencode


def acquire(gateway, limit, wait=None, **query):
    """Waits for a permit of the limit, at most `wait` seconds; returns the seconds that it took."""
    parameters = urlencode({**query, **({} if wait is None else {"wait": wait})}, doseq=True)
    while True:
        # Closing the connection leaves the line, so an exception here gives the place to the next.
        connection = http.client.HTTPConnection(gateway)
        connection.request("POST", f"/v1/limits/{quote(limit)}/acquire?{parameters}")
        answer = connection.getresponse()
        told = json.load(answer)
        connection.close()
        if answer.status == 200:
            return told["waited_ms"] / 1000
        if answer.status != 429 or wait is not None:
            raise RuntimeError(told["detail"])
        time.sleep(told["retry_after_ms"] / 1000)


if __name__ == "__main__":
    import sys

    for number in range(int(sys.argv[3])):
        print(f"{number}: {acquire(sys.argv[1], sys.argv[2]):.3f} s")
