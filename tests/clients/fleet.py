"""One process of a fleet: calls the origin again and again, as fast as it is answered.

usage: fleet.py URL COUNT
"""

import sys

import requests

url, count = sys.argv[1], int(sys.argv[2])
for n in range(count):
    requests.get(f"{url}/{n}").raise_for_status()
print("well")
