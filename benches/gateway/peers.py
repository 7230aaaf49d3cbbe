"""The gateways under test: how each is installed, configured, started, watched and stopped."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LOAD_CORE, GATEWAY_CORE = 1, 0

NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 9000; }}
http {{
    access_log off;
    keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
    uwsgi_temp_path {dir}; scgi_temp_path {dir};
    limit_req_zone $host zone=never_bites:10m rate=1000000r/s;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            limit_req zone=never_bites burst=1000000 nodelay;
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 9000
defaults
    mode http
    timeout client 1h
    timeout server 1h
    timeout connect 5s
    option http-keep-alive
    http-reuse always
frontend callers
    bind 127.0.0.1:{port}
    http-request track-sc0 req.hdr(host) table never_bites
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 10000000 }}
    default_backend origin
backend never_bites
    stick-table type string len 64 size 10k expire 10s store http_req_rate(1s)
backend origin
    server origin 127.0.0.1:{origin}
"""

LOCKGATE = """
[listen]
proxy = "127.0.0.1:{port}"

[[limit]]
name     = "never-bites"
requests = 10000000
per      = "1s"
key      = ["host"]

[[route]]
path = "/"
to   = "http://127.0.0.1:{origin}/"

[timeouts]
idle = "1h"

[log]
access = "off"
"""


def install(wanted=(("nginx", "nginx"), ("haproxy", "haproxy"))):
    """Installs the packages of programs that are missing; nothing of them is left running."""
    missing = [package for program, package in wanted if not shutil.which(program)]
    if missing:
        # RUNLEVEL=1 keeps Debian's packages from starting their services.
        environment = dict(os.environ, RUNLEVEL="1", DEBIAN_FRONTEND="noninteractive")
        sudo = [] if os.geteuid() == 0 else ["sudo", "-E"]
        subprocess.run([*sudo, "apt-get", "update", "-q"], check=True, env=environment)
        subprocess.run([*sudo, "apt-get", "install", "-qy", *missing], check=True, env=environment)


def build(benches=("gateway_load",)):
    """Builds load and gateway, in this order: the gateway's features must be those of what is shipped. Returns the paths."""
    cargo = ["cargo", "build", "--profile", "dist", "--message-format=json-render-diagnostics"]
    paths = []
    for what in [*(["--bench", name] for name in benches), ["--bin", "lockgate"]]:
        lines = subprocess.run(cargo + what, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        built = [json.loads(line) for line in lines.splitlines()]
        paths += [one["executable"] for one in built
                  if one.get("executable") and one["target"]["name"] == what[1]]
    return paths


def prepare():
    """Allows the thousands of connections that the idle measurement opens."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, most), most))


def first_line(command):
    if not shutil.which(command[0]):
        return f"no {command[0]}"
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.splitlines()[0].strip()


def machine(programs=(["nginx", "-v"], ["haproxy", "-v"])):
    """One line that says where the figures come from."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    return " | ".join([
        f"{os.cpu_count()} × {model}", f"Linux {os.uname().release}",
        *(first_line(program).split(" 20")[0].replace("nginx version: ", "").replace("version ", "") for program in programs),
        first_line(["rustc", "--version"]), "lockgate " + first_line(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]),
    ])


def machine_cpu_seconds():
    """What all processes of the machine have used; time stolen by its host counts as used."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds():
    """What this script and the loads that have ended have used."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def free_port():
    """Below those that the system gives to connections: nobody takes it while it is not bound, between two loads."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def pinned(core, command):
    """On one core, if the machine has several."""
    return ["taskset", "-c", str(core), *command] if (os.cpu_count() or 1) > 1 else command


class Peer:
    """One gateway as a process (or a master with its worker)."""

    def __init__(self, name, text, command, origin, label=None):
        self.name = name
        self.origin = origin
        self.port = free_port()
        self.dir = tempfile.mkdtemp(prefix="gateway-bench-")
        self.log = os.path.join(self.dir, "stderr")
        path = os.path.join(self.dir, "config")
        with open(path, "w") as file:
            file.write(text.format(port=self.port, origin=origin, dir=self.dir, **(label or {})))
        self.command = [word.format(config=path, dir=self.dir, port=self.port) for word in command]
        self.process = self.core = None

    def start(self, core=GATEWAY_CORE, environment=None):
        self.core = core
        command = self.command if core is None else pinned(core, self.command)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                cwd=self.dir, env=dict(os.environ, **(environment or {})))
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    with open(self.log, errors="replace") as log:
                        raise SystemExit(f"{self.name} did not start:\n{log.read()}") from None
                time.sleep(0.02)

    def pids(self):
        """The process and its workers."""
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [pid, *map(int, file.read().split())]

    def cpu_seconds(self):
        ticks = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat") as file:
                ticks += sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        """Proportional set size: what master and worker share counts once."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        return total * 1024

    def start_anew(self):
        """Another process in place of the one that runs, on the same core and port."""
        self.halt()
        return self.start(self.core)

    def stop(self):
        self.halt()
        shutil.rmtree(self.dir, ignore_errors=True)

    def halt(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def nginx(origin):
    return Peer("nginx", NGINX, ["nginx", "-c", "{config}", "-e", "{dir}/nginx.log"], origin)


def haproxy(origin):
    return Peer("HAProxy", HAPROXY, ["haproxy", "-db", "-f", "{config}"], origin)


def lockgate(binary, origin, text=LOCKGATE, label=None, name="lockgate"):
    return Peer(name, text, [binary, "run", "-c", "{config}"], origin, label)
