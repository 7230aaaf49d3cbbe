"""Runs the image lockgate as it is used in production, and checks what it may do, keeps and takes.

usage: image.py FOLDER podman OPTIONS...

Prints a line that begins with "ok" for each promise that held; ends with the first that does not.
"""

import http.client
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

from loopback import Origin, free_port

work, podman = pathlib.Path(sys.argv[1]), sys.argv[2:]
# Limits of this shell, as a container engine without privileges cannot raise them.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
HARDENED = [*LIMITS, "--network", "host", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all",
            "--security-opt", "no-new-privileges"]


def run(*arguments, fails=False):
    done = subprocess.run([*podman, *arguments], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def ask(port, url):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", url, headers={"Prefer": "wait=0"})
    return connection.getresponse().status


def until_ready(port):
    """Asks until the gateway answers; the time of that, in seconds."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return time.monotonic()
        except OSError:
            time.sleep(0.0005)
    raise AssertionError("the gateway is not ready after 60 s")


def mounts_writable(process):
    """Paths of the mounts of a process that are not read-only, but for the kernel's own."""
    kernel = ("/proc", "/sys", "/dev", "/run/secrets", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/run/.containerenv")
    found = []
    for line in pathlib.Path(f"/proc/{process}/mountinfo").read_text().splitlines():
        path, options = line.split()[4], line.split()[5].split(",")
        if "rw" in options and not path.startswith(kernel):
            found.append(path)
    return found


def main():
    origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{origin.server_port}/"
    proxy, admin = free_port(), free_port()
    folder = work / "image"
    shutil.rmtree(folder, ignore_errors=True)
    config = folder / "config"
    config.mkdir(parents=True)
    (config / "proxy.toml").write_text(
        f'[listen]\nproxy = "127.0.0.1:{proxy}"\n[admin]\nlisten = "127.0.0.1:{admin}"\n'
        f'[[limit]]\nmatch = {{ host = "127.0.0.1:{origin.server_port}" }}\nrequests = 2\nper = "1h"\nwhen_full = "refuse"\n'
        '[[limit]]\nmatch = { host = "zones.example" }\nrequests = 1\nper = "1d"\nwindow = "calendar"\nzone = "Europe/Berlin"\n'
    )
    subprocess.run([*podman, "rm", "--force", "gate"], capture_output=True)
    subprocess.run([*podman, "volume", "rm", "--force", "lockgate-state"], capture_output=True)
    mounted = ["-v", f"{config}:/etc/lockgate:ro", "-v", "lockgate-state:/state"]
    assert "is valid" in run("run", "--rm", *HARDENED, *mounted, "lockgate", "check")
    print("ok: zones and the mounted file are read: lockgate check")

    began = time.monotonic()
    run("run", "--detach", "--name", "gate", *HARDENED, *mounted, "lockgate")
    print(f"ok: a container is ready {(until_ready(admin) - began) * 1000:.0f} ms after the call of podman")
    process = int(run("inspect", "gate", "--format", "{{.State.Pid}}"))
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines())
    assert status["Uid"].split() == ["65532"] * 4 and status["Gid"].split() == ["65532"] * 4, status["Uid"]
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1", status
    assert mounts_writable(process) == ["/state"], mounts_writable(process)
    print("ok: it runs as uid and gid 65532 without capabilities, and only /state is mounted to be written")
    outside = run("exec", "gate", "/usr/bin/lockgate", "init", "--host", "a.example", "--rate", "1/s", "-o", "/x.toml", fails=True)
    assert "Read-only file system" in outside, outside
    run("exec", "gate", "/usr/bin/lockgate", "init", "--host", "a.example", "--rate", "1/s", "-o", "/state/x.toml")
    print("ok: a file in the root is refused, one in /state is written")
    assert [ask(proxy, url) for _ in range(3)] == [200, 200, 429]
    run("stop", "--time", "20", "gate")
    assert run("inspect", "gate", "--format", "{{.State.ExitCode}}").strip() == "0"
    run("rm", "gate")
    run("run", "--detach", "--name", "gate", *HARDENED, *mounted, "lockgate")
    until_ready(admin)
    assert ask(proxy, url) == 429
    print("ok: 200, 200, 429; after a stop, which ends with 0, another container with the volume still refuses: 429")
    run("rm", "--force", "gate")
    authority(folder, mounted)
    start(folder, proxy, admin)


def authority(folder, mounted):
    """A mounted authority with the owner and mode that Kubernetes gives to a secret's files."""
    config = folder / "config"
    (config / "ca.toml").write_text('[tls]\nintercept = ["api.example"]\nca_dir = "/authority"\n')
    made = folder / "authority"
    made.mkdir()
    os.chown(made, 65532, 65532)
    run("run", "--rm", *HARDENED, *mounted, "-v", f"{made}:/authority", "lockgate", "-c", "/etc/lockgate/ca.toml", "ca", "rotate")
    for file in made.iterdir():
        os.chown(file, 0, 65532)
        file.chmod(0o440)
    os.chown(made, 0, 0)
    made.chmod(0o755)
    shown = run("run", "--rm", *HARDENED, *mounted, "-v", f"{made}:/authority:ro", "lockgate", "-c", "/etc/lockgate/ca.toml", "ca", "show")
    assert "api.example" in shown, shown
    print("ok: an authority of root's with mode 0440 for the pod's group, as Kubernetes mounts a secret, is used")


def start(folder, proxy, admin):
    """The program's own start, without the engine: ten times in the same files, as the same user."""
    root = pathlib.Path(run("image", "mount", "lockgate").strip())
    times = []
    for index in range(10):
        state = folder / f"state-{index}"
        state.mkdir()
        os.chown(state, 65532, 65532)
        # A mount namespace of its own, whose root is read-only but for the state.
        script = (
            f'mount --bind "{root}" "{root}" && mount --bind "{state}" "{root}/state" && '
            f'mount --bind "{folder}/config" "{root}/etc/lockgate" && mount -o remount,bind,ro "{root}" && '
            f'exec chroot --userspec=65532:65532 "{root}" /usr/bin/lockgate run'
        )
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "STATE_DIRECTORY": "/state", "LOCKGATE_CONFIG": "/etc/lockgate/proxy.toml"}
        # The preparation is over when chroot has replaced the shell.
        gateway = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while os.path.basename(os.readlink(f"/proc/{gateway.pid}/exe")) != "lockgate":
            assert gateway.poll() is None, f"it ended with {gateway.returncode}"
        began = time.monotonic()
        times.append((until_ready(admin) - began) * 1000)
        memory = next(line for line in pathlib.Path(f"/proc/{gateway.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
        gateway.terminate()
        assert gateway.wait(30) == 0
    run("image", "unmount", "lockgate")
    times.sort()
    print(f"ok: the program itself is ready after {times[5]:.1f} ms (median of 10; {times[0]:.1f} to {times[-1]:.1f}), with {json.dumps(memory.split()[1])} kB of memory")


main()
