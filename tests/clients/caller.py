"""Calls through the gateway with one Python library, as a program of a fleet would.

usage: caller.py LIBRARY PROXY PLAIN SECURE CA COUNT
PLAIN and SECURE are base URLs of an origin that answers a GET with its path and a POST with its content.
"""

import asyncio
import ssl
import sys

library, proxy, plain, secure, ca, count = sys.argv[1:]
bodies = [b"", b"x", b"y" * 100_000]


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{library}: {what}: got {got[:80]!r}, wanted {wanted[:80]!r}")


def run(get, post):
    """All calls, with functions that return the content of a 200 and raise on anything else."""
    for base in [plain, secure] if secure != "-" else [plain]:
        for n in range(int(count)):
            check("GET", get(f"{base}/{library}/{n}?q=%20"), f"/{library}/{n}?q=%20".encode())
        for body in bodies if secure != "-" else []:
            check("POST", post(f"{base}/post", body), body)


def with_requests():
    import requests

    session = requests.Session()
    session.proxies = {"http": proxy, "https": proxy}
    session.verify = ca if secure != "-" else None

    def content(answer):
        answer.raise_for_status()
        return answer.content

    run(lambda url: content(session.get(url)), lambda url, body: content(session.post(url, data=body)))
    if secure != "-":
        parts = iter([b"one", b"two"])
        check("chunks", content(session.post(f"{plain}/post", data=parts)), b"onetwo")


def with_httpx():
    import httpx

    verify = ssl.create_default_context(cafile=ca) if secure != "-" else True
    with httpx.Client(proxy=proxy, verify=verify, timeout=60) as session:

        def content(answer):
            answer.raise_for_status()
            return answer.content

        run(lambda url: content(session.get(url)), lambda url, body: content(session.post(url, content=body)))


def with_urllib3():
    import urllib3

    pool = urllib3.ProxyManager(proxy, ca_certs=ca if secure != "-" else None)

    def content(answer):
        if answer.status != 200:
            sys.exit(f"urllib3: {answer.status}")
        return answer.data

    run(lambda url: content(pool.request("GET", url)), lambda url, body: content(pool.request("POST", url, body=body)))


def with_urllib():
    import urllib.request

    handlers = [urllib.request.ProxyHandler({"http": proxy, "https": proxy})]
    if secure != "-":
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca)))
    opener = urllib.request.build_opener(*handlers)
    run(lambda url: opener.open(url).read(), lambda url, body: opener.open(url, data=body).read())


def with_aiohttp():
    import aiohttp

    async def main():
        context = ssl.create_default_context(cafile=ca) if secure != "-" else None
        async with aiohttp.ClientSession() as session:

            async def call(method, url, body=None):
                options = {"ssl": context} if url.startswith("https") else {}
                async with session.request(method, url, data=body, proxy=proxy, **options) as answer:
                    answer.raise_for_status()
                    return await answer.read()

            for base in [plain, secure] if secure != "-" else [plain]:
                paths = [f"/aiohttp/{n}" for n in range(int(count))]
                got = await asyncio.gather(*(call("GET", base + path) for path in paths))
                for path, content in zip(paths, got):
                    check("GET", content, path.encode())
                for body in bodies if secure != "-" else []:
                    check("POST", await call("POST", f"{base}/post", body), body)

    asyncio.run(main())


{
    "requests": with_requests,
    "httpx": with_httpx,
    "urllib3": with_urllib3,
    "urllib": with_urllib,
    "aiohttp": with_aiohttp,
}[library]()
print("well")
