//! Programs under `exec --all`: whatever they do, each of their connections goes through the gateway.

use std::process::{Command, Output};

use crate::support::certs::Authority;
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::network::{Machine, succeed};
use crate::support::processes::top;
use crate::support::program::{self, err, out};
use crate::support::yard::Yard;
use crate::support::*;

/// Runs the program without a word of any proxy in its environment.
const WITHOUT_PROXY: &str = "unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy grpc_proxy \
    ws_proxy wss_proxy NODE_USE_ENV_PROXY PERL_LWP_ENV_PROXY NODE_OPTIONS PYTHONPATH
    JAVA_TOOL_OPTIONS=$(printf %s \"$JAVA_TOOL_OPTIONS\" | tr ' ' '\\n' | grep trustStore | tr '\\n' ' ')
    exec \"$@\"";

/// A command without a word of a proxy.
fn without_proxy(words: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", WITHOUT_PROXY, "sh"]).args(words);
    command
}

/// A script of the tests' clients without a word of a proxy, with a base URL and a count of 2.
fn script(language: &[&str], file: &str, base: &str) -> Command {
    let path = top().join("tests/clients").join(file);
    without_proxy(&[language, &[path.to_str().unwrap(), base, "2"]].concat())
}

/// Builds a Go program without its C library; returns its path.
#[track_caller]
fn built_by_go(dir: &Dir, file: &str) -> String {
    let path = dir.path().join("program").display().to_string();
    let mut build = Command::new("go");
    build.args(["build", "-o", &path]).arg(top().join("tests/clients").join(file));
    build.env("CGO_ENABLED", "0").env("GOCACHE", dir.path().join("cache")).env("GO111MODULE", "off");
    build.env("HOME", dir.path());
    succeed(&mut build);
    path
}

#[test]
fn a_static_binary_of_go_with_a_transport_of_its_own_is_counted() {
    let dir = Dir::new();
    let program = built_by_go(&dir, "unchanged.go");
    let libraries = Command::new("ldd").arg(&program).env("LC_ALL", "C").output().unwrap();
    assert!(err(&libraries).contains("not a dynamic executable"), "it is a static binary: {}", out(&libraries));
    Yard::under_all().all_go_well(2, |base| without_proxy(&[&program, base, "2"]));
}

#[test]
fn java_without_options_is_counted() {
    Yard::under_all().all_go_well(2, |base| {
        let path = top().join("tests/clients/Url.java");
        let urls = [1, 2].map(|n| format!("{}/{n}", base.replace("localhost", "127.0.0.1")));
        let mut words = vec!["sh", "-c", "java -XX:TieredStopAtLevel=1 \"$@\" >/dev/null && echo well", "sh"];
        words.extend([path.to_str().unwrap(), &urls[0], &urls[1]]);
        without_proxy(&words)
    });
}

#[test]
fn streams_of_php_are_counted() {
    Yard::under_all().all_go_well(2, |base| script(&["php"], "unchanged_streams.php", base));
}

#[test]
fn perl_without_variables_is_counted() {
    Yard::under_all().all_go_well(4, |base| script(&["perl"], "unchanged.pl", base));
}

#[test]
fn curl_that_is_told_to_use_no_proxy_is_counted() {
    Yard::under_all().all_go_well(1, |base| {
        let show = "test \"$(curl --silent --show-error --noproxy '*' \"$1/x\")\" = /x && echo well";
        without_proxy(&["sh", "-c", show, "sh", base])
    });
}

#[test]
fn programs_that_use_the_variables_are_counted_too() {
    Yard::under_all().all_go_well(1, |base| {
        let mut command = Command::new("sh");
        let show = "test -n \"$HTTPS_PROXY\" && test \"$(curl --silent --show-error \"$1/x\")\" = /x && echo well";
        command.args(["-c", show, "sh", base]);
        command
    });
}

/// A folder with a configuration, for commands under `exec --all`.
fn stage(toml: &str) -> program::Stage {
    program::Stage::new(toml)
}

/// Runs a shell's script under `exec --all`.
fn run(stage: &program::Stage, script: &str) -> Output {
    let mut command = stage.command(&["exec", "--all", "--", "sh", "-c", script]);
    command.env("LOCKGATE_EXEC_LOG", "exec.log").output().unwrap()
}

fn log(stage: &program::Stage) -> String {
    std::fs::read_to_string(stage.dir.path().join("exec.log")).unwrap_or_default()
}

#[test]
fn nothing_but_the_gateway_is_reached() {
    let origin = Origin::start();
    let toml = format!("{}[access]\nunlisted_hosts = \"deny\"\n", UNLIMITED);
    let stage = stage(&toml);
    let url = origin.url("/");
    let output = run(
        &stage,
        &format!("curl --silent --noproxy '*' --max-time 60 {url} || echo $?; ip route get 1.1.1.1; ls /sys/class/net"),
    );
    let text = out(&output);
    assert!(text.contains("no limit names the host"), "{text}{}", err(&output));
    assert!(text.contains("local 1.1.1.1 dev lo"), "{text}");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn it_is_the_program_that_exec_becomes() {
    let stage = stage(UNLIMITED);
    let output = run(&stage, "exit 7");
    assert_eq!(output.status.code(), Some(7), "{}", err(&output));
    let output = run(&stage, "echo $$; id -u; kill -TERM $$");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(15), "{}", err(&output));
    let mut lines = out(&output).lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
    let _pid: u32 = lines.next().unwrap().parse().unwrap();
    assert_eq!(lines.next().as_deref(), Some("0"));
    let mut command = stage.command(&["exec", "--all", "--", "no-such-program"]);
    assert_eq!(command.output().unwrap().status.code(), Some(127));
    let mut command = stage.command(&["exec", "--all", "--", "sh", "-c", "echo $$"]);
    let child = command.spawn().unwrap();
    let pid = child.id();
    assert_eq!(out(&child.wait_with_output().unwrap()).trim(), pid.to_string(), "it is this very process");
}

#[test]
fn servers_inside_are_reached_inside_and_others_of_the_machine_through_the_gateway() {
    let origin = Origin::start();
    let stage = stage(&program::counted());
    let script = format!(
        "python3 -m http.server 18080 --bind 127.0.0.1 >/dev/null 2>&1 & server=$!
         for n in $(seq 600); do curl --silent --fail --noproxy '*' http://127.0.0.1:18080/ -o inside && break; sleep 0.1; done
         grep -c 'Directory listing' inside | head -c1; kill $server
         curl --silent --noproxy '*' {}",
        origin.url("/outside")
    );
    let output = run(&stage, &script);
    assert!(out(&output).ends_with("/outside"), "{}{}", out(&output), err(&output));
    assert!(out(&output).starts_with(['1', '2']), "{}", out(&output));
    assert_eq!(origin.only().field("via"), Some("1.1 lockgate"));
    assert!(!log(&stage).contains("GET http://127.0.0.1:18080/ 200"), "{}", log(&stage));
}

/// Asks a name server by UDP, and by TCP; prints the codes and addresses of the answers.
const ASK: &str = r#"
import socket, struct, sys
def query(name, kind):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
def show(answer):
    code, count = answer[3] & 15, struct.unpack(">H", answer[6:8])[0]
    print(code, count, socket.inet_ntoa(answer[-4:]) if count else "-")
for name, kind in [("api.test", 1), ("api.test", 28), ("api.test", 16), ("other.test", 1), ("no-such.test", 1), ("localhost", 1)]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(50)
    udp.connect(("8.8.8.8", 53))
    udp.send(query(name, kind))
    show(udp.recv(512))
tcp = socket.create_connection(("9.9.9.9", 53), 50)
message = query("api.test", 1)
tcp.sendall(struct.pack(">H", len(message)) + message)
length = struct.unpack(">H", tcp.recv(2))[0]
show(tcp.recv(length))
quic = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
quic.settimeout(50)
quic.connect(("8.8.8.8", 443))
quic.send(b"x")
try:
    quic.recv(1)
except ConnectionRefusedError:
    print("refused")
"#;

#[test]
fn each_name_has_an_address_that_stands_for_it_and_the_gateway_is_told_the_name() {
    let machine = Machine::new();
    let dir = Dir::new();
    let hosts = dir.write("hosts", "127.0.0.1 localhost\n127.0.0.1 api.test other.test\n");
    let origin = machine.run(Origin::start);
    let names = "[[limit]]\nname = \"api\"\nmatch = { host = \"api.test\" }\nrequests = 9\nper = \"1h\"\n";
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:{}\"\n{names}", free_port()));
    dir.write("ask.py", ASK);
    let port = origin.port();
    // hosts(5) is not read by address: the program asks by DNS alone.
    let script = format!(
        "python3 ask.py; curl --silent --noproxy '*' -H 'Host: api.test:{port}' http://198.18.1.0:{port}/named"
    );
    let mut command = machine.command_with_hosts(&hosts, PROGRAM);
    command.current_dir(dir.path()).env("LOCKGATE_EXEC_LOG", "exec.log");
    let output = command.args(["exec", "--all", "--", "sh", "-c", &script]).output().unwrap();
    assert_eq!(
        // Without any name server outside, a name may exist (2, SERVFAIL).
        out(&output).replace("\n2 0 -", "\n3 0 -"),
        "0 1 198.18.1.0\n0 0 -\n0 0 -\n0 1 198.18.1.1\n3 0 -\n0 1 127.0.0.1\n0 1 198.18.1.0\nrefused\n/named",
        "{}",
        err(&output)
    );
    let line = format!("GET http://api.test:{port}/named 200 limits=api");
    eventually("its gateway writes the line", || {
        std::fs::read_to_string(dir.path().join("exec.log")).unwrap().contains(&line)
    });
    assert_eq!(origin.only().field("via"), Some("1.1 lockgate"));
}

/// Runs lockgate without the right to make a network namespace as root does.
const UNPRIVILEGED: [&str; 4] = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"];

#[test]
fn it_needs_no_root() {
    let origin = Origin::start();
    let stage = stage(&program::counted());
    let mut command = Command::new(UNPRIVILEGED[0]);
    command.args(&UNPRIVILEGED[1..]).arg(PROGRAM).args(["exec", "--all", "--", "sh", "-c"]);
    command.arg(format!("readlink /proc/self/ns/user; curl --silent --noproxy '*' {}", origin.url("/user")));
    let output = command.current_dir(stage.dir.path()).env("HOME", stage.dir.path()).output().unwrap();
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert!(out(&output).ends_with("/user"), "{}{}", out(&output), err(&output));
    assert!(!out(&output).contains(own.to_str().unwrap()), "it is in a user namespace of its own");
    assert_eq!(origin.only().field("via"), Some("1.1 lockgate"));
}

#[test]
fn a_system_that_refuses_namespaces_is_told_which_setting_does() {
    let stage = stage(UNLIMITED);
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {} {PROGRAM} exec --all -- echo began",
        UNPRIVILEGED.join(" ")
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c"]).arg(format!("ip link set lo up; {script}"));
    let output = command.current_dir(stage.dir.path()).env("HOME", stage.dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}{}", out(&output), err(&output));
    assert!(err(&output).contains("sysctl -w user.max_user_namespaces=15000"), "{}", err(&output));
    assert_eq!(out(&output), "");
}

#[test]
fn a_missing_program_of_the_system_is_named_with_its_package() {
    let stage = stage(UNLIMITED);
    // Hides nft from exec alone.
    let script = format!(
        "for nft in /usr/sbin/nft /sbin/nft; do mount --bind /dev/null $nft; done; exec {PROGRAM} exec --all -- echo began"
    );
    let mut command = Command::new("unshare");
    let output = command
        .args(["--mount", "sh", "-c", &script])
        .current_dir(stage.dir.path())
        .env("PATH", "/usr/bin:/bin:/usr/sbin")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}{}", out(&output), err(&output));
    assert!(err(&output).contains("nft"), "{}", err(&output));
    assert_eq!(out(&output), "");
}

#[test]
fn a_password_for_the_gateway_is_given_for_the_program() {
    let origin = Origin::start();
    let stage = stage(&format!("{}[access]\nusers = \"users\"\n", program::counted()));
    let path = stage.dir.write("users", &format!("me:{}\n", bcrypt::hash("secret", 4).unwrap()));
    crate::support::certs::private(&path);
    for (credentials, wanted) in [("me:secret", Some("/login")), ("me:wrong", None)] {
        let mut command =
            stage.command(&["exec", "--all", "--", "curl", "--silent", "--noproxy", "*", &origin.url("/login")]);
        let output = command.env("LOCKGATE_CREDENTIALS", credentials).output().unwrap();
        assert_eq!(output.status.success().then(|| out(&output)).as_deref(), wanted, "{}", err(&output));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_gateway_that_speaks_tls_is_not_used() {
    let authority = Authority::new();
    let stage = stage("");
    let (cert, key) = authority.issue(crate::support::certs::Fault::None).write(stage.dir.path(), "gateway");
    let listen =
        format!("[listen]\nproxy = \"127.0.0.1:{}\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n", stage.port);
    stage.dir.write("proxy.toml", &format!("{listen}{UNLIMITED}"));
    let output = run(&stage, "echo began");
    assert_eq!((output.status.code(), out(&output)), (Some(1), String::new()));
    assert!(err(&output).contains("leave `tls` out"), "{}", err(&output));
}
