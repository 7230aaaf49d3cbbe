"""A load's run, and the wait for a machine that is ours alone."""

import json
import subprocess
import sys
import time

import peers

# As many cores as others may use before a measurement is called disturbed.
QUIET = 0.04


def output(command, seconds):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + 30)
    if done.returncode:
        raise SystemExit(f"the load failed: {' '.join(command)}\n{done.stdout}")
    return done.stdout


def measured(command, seconds):
    """The figures of our own load, which it prints as JSON."""
    result = json.loads(output(command, seconds))
    if result["failed"]:
        print(f"  {result['failed']} requests failed: {' '.join(command)}", file=sys.stderr)
    return result


class Strangers:
    """How many cores the rest of the machine kept busy meanwhile."""

    def __init__(self, gateways):
        self.gateways = gateways

    def others(self):
        ours = peers.own_cpu_seconds() + sum(peer.cpu_seconds() for peer in self.gateways)
        return peers.machine_cpu_seconds() - ours

    def __enter__(self):
        self.begin, self.before = time.monotonic(), self.others()
        return self

    def __exit__(self, *_):
        self.cores = max(0.0, (self.others() - self.before) / (time.monotonic() - self.begin))


class Calm:
    """Runs measurements; with --quiet one by one again, until nobody else worked meanwhile, for an hour at most."""

    def __init__(self, gateways, args):
        self.gateways, self.quiet = gateways, args.quiet
        self.deadline = time.monotonic() + 3600
        self.cores = []

    def __call__(self, measure):
        while True:
            with Strangers(self.gateways) as others:
                result = measure()
            if not self.quiet or others.cores <= QUIET or time.monotonic() > self.deadline:
                self.cores.append(others.cores)
                return result
            time.sleep(1)
