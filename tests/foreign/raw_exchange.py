"""Raw exchanges through a gateway, for suites of message parsers: one request and one response at a time, judged by a
strict reader.

What the gateway passes on must be one message, with CR LF at each line, no white space before a colon, one kind of framing.
"""

import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading

CONFIG = """
[listen]
proxy = "127.0.0.1:0"
[[limit]]
match = {{ host = "elsewhere.example" }}
requests = 1
per = "1s"
[[route]]
path = "/"
to = "http://127.0.0.1:{port}/"
cross_site = "allow"
[timeouts]
head = "1s"
answer = "2s"
body_idle = "1s"
[log]
access = "off"
"""



def with_host(data):
    """A request with a Host, which llhttp does not ask for, and the gateway must (RFC 9112 section 3.2)."""
    # Empty lines before a request are a part of some cases.
    found = re.match(rb"(?:\r\n)*[^\r\n][^\n]*?\r\n", data)
    return data if b"host:" in data.lower() or not found else found[0] + b"Host: localhost\r\n" + data[found.end():]


def receive(conn, timeout=5):
    """All bytes until the peer ends the connection, or is silent."""
    conn.settimeout(timeout)
    data = b""
    try:
        while more := conn.recv(65536):
            data += more
    except OSError:
        pass
    return data


class Origin:
    """An origin of raw bytes: keeps what arrives, and sends `reply` after the first head."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.reply, self.seen = b"", []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            conn = self.listener.accept()[0]
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        data, conn_reply = b"", self.reply
        self.seen.append(b"")
        place = len(self.seen) - 1
        conn.settimeout(3)
        try:
            while b"\r\n\r\n" not in data:
                more = conn.recv(65536)
                if not more:
                    return
                data += more
            self.seen[place] = data
            # The content that follows the head arrives in a moment, or is there.
            conn.settimeout(0.2)
            try:
                while more := conn.recv(65536):
                    self.seen[place] += more
            except TimeoutError:
                pass
            conn.sendall(conn_reply)
            conn.shutdown(socket.SHUT_WR)
            receive(conn, 1)
        except OSError:
            pass
        finally:
            conn.close()


def faults(message, start):
    """What a strict reader finds wrong in the first message."""
    head, end, _ = message.partition(b"\r\n\r\n")
    if not end:
        return "no whole head"
    lines = head.split(b"\r\n")
    if not re.fullmatch(start, lines[0]):
        return f"first line {lines[0]!r}"
    names = []
    for line in lines[1:]:
        if not re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t \x21-\x7e\x80-\xff]*", line):
            return f"field line {line!r}"
        names.append(line.split(b":")[0].lower())
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        return "two kinds of framing"
    return None


def start(gateway, port, folder):
    (folder / "proxy.toml").write_text(CONFIG.format(port=port))
    child = subprocess.Popen(
        [gateway, "run", "-c", "proxy.toml"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in child.stdout:
        if found := re.search(r"listening on (?:http://)?([\d.]+):(\d+)", line):
            threading.Thread(target=child.stdout.read, daemon=True).start()
            return child, (found[1], int(found[2]))
    sys.exit("the gateway did not start")


def send(address, data):
    with socket.create_connection(address, 5) as conn:
        try:
            conn.sendall(data)
        except OSError:
            pass
        return receive(conn)


class Exchanges:
    """A gateway in a folder of its own, before an origin of raw bytes; a context manager."""

    def __init__(self, gateway):
        self.gateway = pathlib.Path(gateway).resolve()

    def __enter__(self):
        self.origin = Origin()
        self.folder = tempfile.TemporaryDirectory()
        self.child, self.address = start(self.gateway, self.origin.port, pathlib.Path(self.folder.name))
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.folder.cleanup()

    def exchange(self, kind, data, method="GET"):
        """`method` is that of a request whose response is tested. Whether the gateway passes the message on, what is wrong with that, and the first line of its answer."""
        self.origin.seen = []
        if kind == "response":
            self.origin.reply = data
            answer = send(self.address, f"{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            passed = answer != b"" and b"\r\nproxy-status: lockgate" not in answer.lower()
            wrong = faults(answer, rb"HTTP/1\.1 [1-9]\d\d [\t \x21-\x7e\x80-\xff]*") if passed else None
        else:
            self.origin.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            answer = send(self.address, with_host(data))
            arrived = [one for one in self.origin.seen if one]
            passed = bool(arrived)
            wrong = next((f for one in arrived if (f := faults(one, rb"[!#-'*+.^-z|~A-Z-]+ [^ \t]+ HTTP/1\.1"))), None)
        return passed, wrong, answer.splitlines()[0].decode("latin-1") if answer else "closed"


def verdict(passed, takes, other):
    """Says in words who of the gateway and the `other` takes a message."""
    words = {(True, True): "both take", (False, False): "neither takes"}.get((passed, takes))
    return words or ("only the gateway takes" if passed else f"only {other} takes")
