"""What stands beside lockgate where HTTPS, HTTP/2 and tunnels are measured, and the origins behind them."""

import os
import pwd
import shutil
import subprocess
import sys

import peers
from peers import Peer

PACKAGES = (("nginx", "nginx"), ("squid", "squid-openssl"), ("h2load", "nghttp2-client"), ("openssl", "openssl"))
CERTGEN = "/usr/lib/squid/security_file_certgen"
# A folder that cargo and git ignore both.
VENV = os.path.join(peers.ROOT, "target", "mitmproxy")
MITMDUMP = os.path.join(VENV, "bin", "mitmdump")

# The answer that the load's own origin gives, so that the load knows it by its last words.
BODY = "0123456789012345678901234567890123456789the origin's last words"

ORIGIN = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 1000; }}
http {{
    access_log off; default_type text/plain;
    keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
    uwsgi_temp_path {dir}; scgi_temp_path {dir};
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
        location / {{ return 200 "{body}\\n"; }}
    }}
}}
"""

# The reverse proxy of `run`, its callers speaking HTTP/2.
NGINX_TLS = """listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"""
NGINX_PLAIN = "listen 127.0.0.1:{port} http2;"

SQUID = """
http_port 127.0.0.1:{port} ssl-bump tls-cert={dir}/both.pem generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program /usr/lib/squid/security_file_certgen -s {dir}/ssl_db -M 4MB
sslcrtd_children 1
tls_outgoing_options cafile={dir}/ca.pem
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
http_access allow all
cache deny all
access_log none
cache_log {dir}/cache.log
pid_filename {dir}/squid.pid
coredump_dir {dir}
pinger_enable off
client_idle_pconn_timeout 1 hour
server_idle_pconn_timeout 1 hour
shutdown_lifetime 0 seconds
max_filedescriptors 4096
cache_mem 8 MB
"""

LOCKGATE = """
[listen]
proxy = "127.0.0.1:{port}"
{listen}

[[limit]]
name     = "never-bites"
requests = 10000000
per      = "1s"
key      = ["host"]

{more}

[access]
connect_ports = [{origin}]

[timeouts]
idle = "1h"

[log]
access = "off"
"""


def install():
    """Installs what is missing; nothing of it is left running."""
    # Debian keeps its servers where a user's PATH does not look.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    peers.install(PACKAGES)
    if not os.path.exists(MITMDUMP):
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([os.path.join(VENV, "bin", "pip"), "install", "-q", "mitmproxy"], check=True)


class Certificates:
    """An authority of the bench's own, and one leaf of it for localhost and further addresses; both ECDSA P-256."""

    def __init__(self, folder, addresses=("127.0.0.1",)):
        self.ca, self.ca_key, self.cert, self.key, self.both = (
            os.path.join(folder, name) for name in ("ca.pem", "ca.key", "leaf.pem", "leaf.key", "both.pem"))
        self.make("/CN=bench authority", self.ca, self.ca_key,
                  "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        self.make("/CN=localhost", self.cert, self.key, "basicConstraints=critical,CA:FALSE",
                  ",".join(["subjectAltName=DNS:localhost", *(f"IP:{address}" for address in addresses)]), signed=["-CA", self.ca, "-CAkey", self.ca_key])
        with open(self.both, "w") as both:
            for part in (self.ca, self.ca_key):
                with open(part) as file:
                    both.write(file.read())

    @staticmethod
    def make(subject, cert, key, *extensions, signed=()):
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-days", "30", "-subj", subject, "-out", cert, "-keyout", key, *signed]
        for extension in extensions:
            words += ["-addext", extension]
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)


def nginx_command():
    return ["nginx", "-c", "{config}", "-e", "{dir}/nginx.log"]


def tls_origin(certificates, name="origin"):
    label = {"cert": certificates.cert, "key": certificates.key, "body": BODY}
    return Peer(name, ORIGIN, nginx_command(), 0, label)


def nginx_h2(origin, certificates=None):
    """`run`'s nginx, with HTTP/2 towards its callers: over TLS if there are certificates."""
    text = peers.NGINX.replace("listen 127.0.0.1:{port};", NGINX_TLS if certificates else NGINX_PLAIN)
    label = {"cert": certificates.cert, "key": certificates.key} if certificates else {}
    return Peer("nginx", text, nginx_command(), origin, label)


def mitmproxy(origin, certificates):
    peer = Peer("mitmproxy", "", [
        MITMDUMP, "-q", "--listen-host", "127.0.0.1", "--listen-port", "{port}", "--set", "confdir={dir}",
        "--set", f"ssl_verify_upstream_trusted_ca={certificates.ca}"], origin)
    peer.trust = os.path.join(peer.dir, "mitmproxy-ca-cert.pem")
    return peer


def squid(origin, certificates):
    # Its authority is the bench's own, copied to where the user that squid becomes can read it.
    peer = Peer("squid", SQUID, ["squid", "-N", "-f", "{config}"], origin)
    for file in (certificates.both, certificates.ca):
        shutil.copy(file, peer.dir)
    subprocess.run([CERTGEN, "-c", "-s", os.path.join(peer.dir, "ssl_db"), "-M", "4MB"],
                   check=True, stdout=subprocess.DEVNULL)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("proxy")
        for folder, _, files in os.walk(peer.dir):
            for path in [folder, *(os.path.join(folder, name) for name in files)]:
                os.chown(path, owner.pw_uid, owner.pw_gid)
    peer.trust = certificates.ca
    return peer


def lockgate(binary, origin, listen="", more=""):
    peer = peers.lockgate(binary, origin, LOCKGATE, {"listen": listen, "more": more})
    peer.binary = binary
    return peer


def lockgate_intercepting(binary, origin, certificates):
    more = f'[tls]\nintercept = ["localhost"]\nca_dir = "ca"\ntrust = ["{certificates.ca}"]'
    return lockgate(binary, origin, more=more)


def lockgate_trust(peer):
    """The file with the authority of a lockgate that runs."""
    words = [peer.binary, "ca", "path", "-c", os.path.join(peer.dir, "config")]
    path = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=peer.dir).stdout.strip()
    return os.path.join(peer.dir, path)


def lockgate_h2(binary, origin, certificates=None):
    listen = f'tls = {{ cert = "{certificates.cert}", key = "{certificates.key}" }}' if certificates else ""
    return lockgate(binary, origin, listen, f'[[route]]\npath = "/"\nto = "http://127.0.0.1:{origin}/"')


def copy_loop(binary, origin):
    return Peer("copy loop", "", [binary, "{port}"], origin)


def plain_origin(load):
    """The load's own origin as a process of its own, for loads that are not ours."""
    return Peer("origin", "", [load, "origin", "--origin", "127.0.0.1:{port}"], 0)
