"""Calls an https origin with one Python library, knowing nothing of any gateway: the environment says it all.

usage: unchanged.py LIBRARY BASE COUNT
The origin at BASE answers a GET with its path and a POST with its content, and gRPC calls with their messages.
"""

import asyncio
import os
import sys

library, base, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
bodies = [b"", b"x", b"y" * 200_000]


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{library}: {what}: got {got[:80]!r}, wanted {wanted[:80]!r}")


def run(get, post):
    for n in range(count):
        check("GET", get(f"{base}/{library}/{n}?q=%20"), f"/{library}/{n}?q=%20".encode())
    for body in bodies:
        check("POST", post(f"{base}/post", body), body)


def with_requests():
    import requests

    def content(answer):
        answer.raise_for_status()
        return answer.content

    run(lambda url: content(requests.get(url)), lambda url, body: content(requests.post(url, data=body)))
    session = requests.Session()
    run(lambda url: content(session.get(url)), lambda url, body: content(session.post(url, data=body)))


def with_httpx(http2=False):
    import httpx

    with httpx.Client(http2=http2, timeout=60) as session:

        def content(answer):
            answer.raise_for_status()
            check("version", answer.http_version, "HTTP/2" if http2 else "HTTP/1.1")
            return answer.content

        run(lambda url: content(session.get(url)), lambda url, body: content(session.post(url, content=body)))


def with_httpx_many():
    """All on one connection, at one time."""
    import httpx

    async def main():
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(http2=True, timeout=120, limits=limits) as session:
            answers = await asyncio.gather(*(session.get(f"{base}/many/{n}") for n in range(count)))
        for n, answer in enumerate(answers):
            answer.raise_for_status()
            check("version", answer.http_version, "HTTP/2")
            check("GET", answer.content, f"/many/{n}".encode())

    asyncio.run(main())


def with_urllib3():
    import urllib3

    # urllib3 leaves it to the program to read the environment.
    pool = urllib3.ProxyManager(os.environ["HTTPS_PROXY"])

    def content(answer):
        if answer.status != 200:
            sys.exit(f"urllib3: {answer.status}: {answer.data}")
        return answer.data

    run(lambda url: content(pool.request("GET", url)), lambda url, body: content(pool.request("POST", url, body=body)))


def with_urllib():
    from urllib.request import urlopen

    run(lambda url: urlopen(url).read(), lambda url, body: urlopen(url, data=body).read())


def with_certifi():
    """urllib with the roots that certifi names, by its file and by its text, as many libraries hand them to TLS."""
    import ssl
    from urllib.request import urlopen

    import certifi

    for roots in [{"cafile": certifi.where()}, {"cadata": certifi.contents()}]:
        context = ssl.create_default_context(**roots)
        for n in range(count):
            path = f"/certifi/{n}"
            check("GET", urlopen(base + path, context=context).read(), path.encode())


def with_aiohttp():
    import aiohttp

    async def main():
        async with aiohttp.ClientSession() as session:

            async def call(method, url, body=None):
                async with session.request(method, url, data=body) as answer:
                    answer.raise_for_status()
                    return await answer.read()

            paths = [f"/aiohttp/{n}" for n in range(count)]
            got = await asyncio.gather(*(call("GET", base + path) for path in paths))
            for path, content in zip(paths, got):
                check("GET", content, path.encode())
            for body in bodies:
                check("POST", await call("POST", f"{base}/post", body), body)

    asyncio.run(main())


def with_aiohttp_websocket():
    """As with_websockets."""
    import aiohttp

    async def main():
        async with aiohttp.ClientSession() as session, session.ws_connect(base, timeout=30) as socket:
            check("via", (await socket.receive()).data, "1.1 lockgate")
            for n in range(count):
                await socket.send_str(f"message {n}")
                check("message", (await socket.receive()).data, f"message {n}")

    asyncio.run(main())


def with_websockets():
    """BASE is a WebSocket server that says through whom it was called, and then repeats what it is told."""
    from websockets.asyncio.client import connect

    async def main():
        async with connect(base.replace("http", "ws", 1), open_timeout=30) as socket:
            check("via", await socket.recv(), "1.1 lockgate")
            for n in range(count):
                for message in [f"message {n}", bytes([n % 256]) * 70_000]:
                    await socket.send(message)
                    check("message", await socket.recv(), message)

    asyncio.run(main())


def with_grpc():
    import grpc

    target = base.removeprefix("https://")
    with grpc.secure_channel(target, grpc.ssl_channel_credentials()) as channel:
        unary = channel.unary_unary("/grpc.Echo/Unary", None, None)
        for n in range(count):
            check("unary", unary(f"call {n}".encode(), timeout=30), f"call {n}".encode())
        chat = channel.stream_stream("/grpc.Echo/Chat", None, None)
        sent = [f"message {n}".encode() * 1000 for n in range(20)]
        got = list(chat(iter(sent), timeout=30))
        if got != sent:
            sys.exit(f"grpc: chat: {len(got)} of {len(sent)} messages came back")


{
    "requests": with_requests,
    "httpx": with_httpx,
    "httpx2": lambda: with_httpx(http2=True),
    "httpx-many": with_httpx_many,
    "urllib3": with_urllib3,
    "urllib": with_urllib,
    "certifi": with_certifi,
    "aiohttp": with_aiohttp,
    "aiohttp-websocket": with_aiohttp_websocket,
    "websockets": with_websockets,
    "grpc": with_grpc,
}[library]()
print("well")
