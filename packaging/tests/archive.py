"""Runs the program of an archive, through an emulator where it is for another processor, and judges its limit.

usage: archive.py PROGRAM [EMULATOR]
"""

import concurrent.futures
import http.client
import http.server
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

from loopback import Origin, arrivals, free_port

REQUESTS, PER = 5, 1.0


def ask(port, url):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", url)
    return connection.getresponse().status


def until_listening(process, port):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, "the gateway has ended"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.01)
    raise AssertionError("the gateway does not listen after 60 s")


def main():
    command = [*sys.argv[2:], sys.argv[1]]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        config = pathlib.Path(folder, "proxy.toml")
        # A slot settles once the origin has stamped its request, so that no delay on the way brings two arrivals closer.
        config.write_text(f"""
            [listen]
            proxy = "127.0.0.1:{port}"
            [[limit]]
            name = "all"
            requests = {REQUESTS}
            per = "{PER:g}s"
            counts = "answered"
        """)
        process = subprocess.Popen([*command, "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until_listening(process, port)
            with concurrent.futures.ThreadPoolExecutor(20) as callers:
                statuses = list(callers.map(lambda _: ask(port, f"http://127.0.0.1:{origin.server_port}/"), range(20)))
            process.terminate()
            assert process.wait(30) == 0, f"the gateway ended with {process.returncode}"
        finally:
            process.kill()
    assert statuses == [200] * 20, statuses
    early = [later - first for first, later in zip(arrivals, arrivals[REQUESTS:]) if later - first < PER]
    assert not early, f"{REQUESTS + 1} requests arrived within {min(early):.3f} s"
    print(f"ok: {version} started, let {REQUESTS} of 20 requests go in any {PER:g} s, and ended")


main()
