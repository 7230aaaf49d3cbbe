#!/bin/sh
# Runs as root inside a booted Debian with the packages in /packages: installs, limits, upgrades under load, removes, purges.
# Each line that begins with "ok" is a promise that held; the first that does not ends the test.
set -eu

ok() { echo "ok: $*"; }
fail() {
    echo "FAILED: $*" >&2
    journalctl --no-pager -u lockgate 2>/dev/null | tail -n 30 >&2
    exit 1
}
main_pid() { systemctl show --property=MainPID --value lockgate; }
ask() { curl --silent --output /dev/null --write-out '%{http_code}' --max-time 20 "$@"; }

export DEBIAN_FRONTEND=noninteractive
first=$(ls /packages/lockgate_*_amd64.deb /packages/lockgate_*_arm64.deb 2>/dev/null | grep -v '+upgrade' | head -n 1)
second=$(ls /packages/*+upgrade*.deb | head -n 1)

# --- installation -----------------------------------------------------------------------------------------
apt-get install --yes --no-install-recommends "$first" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; fail "apt install"; }
systemctl is-active --quiet lockgate || fail "the service is not up"
systemctl is-enabled --quiet lockgate || fail "the service is not enabled"
[ "$(stat -c %U "/proc/$(main_pid)")" = lockgate ] || fail "the service does not run as its user"
lockgate check >/dev/null 2>&1 || fail "the first configuration is not valid"
ok "apt install: $(lockgate --version) is up, as user lockgate, and enabled"

systemd-analyze --man=no verify /usr/lib/systemd/system/lockgate.service /usr/lib/systemd/system/lockgate.socket || fail "systemd-analyze verify"
ok "systemd-analyze verify; exposure $(systemd-analyze security lockgate --no-pager | sed -n 's/.*exposure level for .*: \([0-9.]* [A-Z]*\).*/\1/p')"
for file in usr/share/man/man1/lockgate.1.gz usr/share/man/man1/lockgate-run.1.gz \
    usr/share/bash-completion/completions/lockgate usr/share/doc/lockgate/copyright; do
    [ -e "/$file" ] || dpkg -L lockgate | grep -q "^/$file$" || fail "$file is not in the package"
done

# --- the first limited request ----------------------------------------------------------------------------
cat >>/etc/lockgate/proxy.toml <<'TOML'

[[limit]]
name     = "load"
match    = { host = "127.0.0.1:9000" }
requests = 40
per      = "200ms"
counts   = "answered"

[[limit]]
name     = "hourly"
match    = { host = "127.0.0.1:9001" }
requests = 1
per      = "1h"
when_full = "refuse"
TOML
systemctl reload lockgate || fail "systemctl reload"
cp /etc/lockgate/proxy.toml /tmp/proxy.toml
python3 -m http.server --bind 127.0.0.1 --directory /usr/share/lockgate 9001 >/dev/null 2>&1 &
origin=$!
tries=0
until curl --silent --noproxy '*' --output /dev/null http://127.0.0.1:9001/; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "the test's origin does not start"
    sleep 0.1
done
[ "$(ask --proxy 127.0.0.1:8080 http://127.0.0.1:9001/)" = 200 ] || fail "the first request"
[ "$(ask --proxy 127.0.0.1:8080 http://127.0.0.1:9001/)" = 429 ] || fail "the second request is not limited"
ok "the first request is answered 200, the second of the hour 429"

# --- variables for a unit ---------------------------------------------------------------------------------
export NO_PROXY='a%b,"c",\d,$HOME,it'"'"'s'
mkdir -p /etc/systemd/system/app.service.d
lockgate env --format=systemd >/etc/systemd/system/app.service.d/lockgate.conf
cat >/etc/systemd/system/app.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'printf "%%s\n%%s\n" "$$HTTP_PROXY" "$$NO_PROXY" >/run/app.out'
UNIT
systemctl daemon-reload
systemctl start app || fail "a unit with the drop-in of lockgate env"
(eval "$(lockgate env)" && printf '%s\n%s\n' "$HTTP_PROXY" "$NO_PROXY") >/run/shell.out
cmp -s /run/app.out /run/shell.out || fail "systemd reads $(cat /run/app.out), a shell $(cat /run/shell.out)"
unset NO_PROXY
ok "a unit gets by lockgate env --format=systemd what a shell gets"

# --- upgrade under load -----------------------------------------------------------------------------------
before=$(main_pid)
rm -f /tmp/upgraded
python3 /packages/load.py 127.0.0.1:8080 6 40 0.2 --until /tmp/upgraded >/tmp/load.json &
load=$!
sleep 2
apt-get install --yes --no-install-recommends "$second" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; fail "apt upgrade"; }
sleep 2
touch /tmp/upgraded
wait "$load" || fail "requests were lost or the limit was broken in the upgrade: $(cat /tmp/load.json)"
after=$(main_pid)
[ "$before" != "$after" ] || fail "no new process has taken over"
grep -q 'restarting the service' /tmp/apt.log && fail "the upgrade was a restart, not a take-over"
[ "$(stat -Lc %i "/proc/$after/exe")" = "$(stat -Lc %i /usr/bin/lockgate)" ] || fail "the old program still runs"
systemctl is-active --quiet lockgate || fail "the service is not up after the upgrade"
[ "$(dpkg-query -W -f '${Version}' lockgate)" = "$(dpkg-deb -f "$second" Version)" ] || fail "the version"
cmp -s /etc/lockgate/proxy.toml /tmp/proxy.toml || fail "the upgrade changed proxy.toml"
ok "upgrade under load, process $before to $after: $(cat /tmp/load.json)"

# --- removal and purge ------------------------------------------------------------------------------------
apt-get remove --yes lockgate >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; fail "apt remove"; }
systemctl is-active --quiet lockgate && fail "the service runs after the removal"
[ -e /usr/bin/lockgate ] && fail "the program is still there"
[ -d /var/lib/lockgate ] && [ -n "$(ls -A /var/lib/lockgate)" ] || fail "the removal took the counts"
cmp -s /etc/lockgate/proxy.toml /tmp/proxy.toml || fail "the removal changed proxy.toml"
apt-get install --yes --no-install-recommends "$second" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; fail "apt install again"; }
cmp -s /etc/lockgate/proxy.toml /tmp/proxy.toml || fail "the second installation changed proxy.toml"
[ "$(ask --proxy 127.0.0.1:8080 http://127.0.0.1:9001/)" = 429 ] || fail "the counts did not outlive the removal"
ok "removal keeps configuration and counts: after another installation the request of that hour is still refused"
touch /etc/lockgate/users
apt-get purge --yes lockgate >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; fail "apt purge"; }
[ -e /var/lib/lockgate ] && fail "the purge left the counts"
[ -e /etc/lockgate/proxy.toml ] && fail "the purge left the configuration"
[ -e /etc/lockgate/users ] || fail "the purge took a file that it did not make"
systemctl is-enabled --quiet lockgate 2>/dev/null && fail "the purge left the service enabled"
ok "a purge removes both, and keeps files of others"
kill "$origin"
