"""A line with a long delay between two network namespaces, over which the kernel's own TCP runs.

Two TUN devices, one of them in a namespace of its own, and a thread for each direction that hands on each packet a fixed
time after it was read, in order. Unlike a relay of TCP it leaves slow start, windows and acknowledgements to the two
ends; unlike netem it needs no module of the kernel. Segments cross it as the kernel's offload makes them, up to 64 KiB
at a time, so that Python does not limit the bandwidth. Needs root.
"""

import collections
import fcntl
import os
import struct
import subprocess
import threading
import time

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 1, 2
LARGEST = 65535 + 64

NEAR, FAR = "10.98.0.1", "10.98.0.2"
SPACE = "lockgate-far"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def tun(name):
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return device


class FarLine:
    """Up within `with`: this namespace has the address NEAR, processes started by `there` have FAR."""

    def __init__(self, round_trip):
        self.delay = round_trip / 2

    def __enter__(self):
        subprocess.run(["ip", "netns", "del", SPACE], stderr=subprocess.DEVNULL)
        near, far = tun("lockgate-near"), tun("lockgate-far0")
        ip("netns", "add", SPACE)
        ip("link", "set", "lockgate-far0", "netns", SPACE)
        ip("addr", "add", NEAR, "peer", FAR, "dev", "lockgate-near")
        ip("link", "set", "lockgate-near", "up", "txqueuelen", "100000")
        ip("-n", SPACE, "addr", "add", FAR, "peer", NEAR, "dev", "lockgate-far0")
        ip("-n", SPACE, "link", "set", "lockgate-far0", "up", "txqueuelen", "100000")
        ip("-n", SPACE, "link", "set", "lo", "up")
        for one, other in ((near, far), (far, near)):
            self.carry(one, other)
        return self

    def __exit__(self, *_):
        ip("netns", "del", SPACE)

    def carry(self, source, sink):
        """Reads in one thread and writes in another, so that a read never waits for a delay."""
        packets, arrived = collections.deque(), threading.Semaphore(0)

        def read():
            while True:
                packet = os.read(source, LARGEST)
                packets.append((time.monotonic() + self.delay, packet))
                arrived.release()

        def write():
            while True:
                arrived.acquire()
                due, packet = packets.popleft()
                left = due - time.monotonic()
                if left > 0:
                    time.sleep(left)
                try:
                    os.write(sink, packet)
                except OSError:
                    pass  # The device is down: its packets are lost, as on any line.

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()

    @staticmethod
    def there(command):
        return ["ip", "netns", "exec", SPACE, *command]
