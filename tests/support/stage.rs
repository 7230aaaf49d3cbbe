//! What tests of opened tunnels share: a gateway with an authority of its own, and the way in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ClientConfig;

use super::caller2::Caller2;
use super::certs::{self, Authority, Fault};
use super::frames::Frames;
use super::gateway::{Dir, Gateway, PROGRAM};
use super::{Answer, Caller, Next, Origin};

/// `[tls]` and `[access]` of a gateway that opens tunnels to these hosts, and lets tunnels go to these ports.
pub(crate) fn opens(hosts: &[&str], ports: &[u16], trust: &Path) -> String {
    format!(
        "[tls]\nintercept = {hosts:?}\nca_dir = \"ca\"\ntrust = [{:?}]\n\n[access]\nconnect_ports = {ports:?}\n\n",
        trust.display().to_string()
    )
}

/// One limit on every request to this machine, by name or by address; `more` is further lines of it.
pub(crate) fn counted(requests: u32, per: &str, more: &str) -> String {
    format!(
        "[[limit]]\nname = \"the-limit\"\nmatch = {{ host = [\"localhost\", \"127.0.0.1\"] }}\nrequests = {requests}\nper = \"{per}\"\n{more}\n\n"
    )
}

/// A gateway that opens tunnels, and whom its callers and origins are to trust.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    /// Who vouches for the origins.
    pub(crate) authority: Authority,
}

/// Makes the stage's authority first, so that origins can be started before the gateway.
pub(crate) struct Before {
    pub(crate) dir: Dir,
    pub(crate) authority: Authority,
    pub(crate) trust: PathBuf,
}

impl Before {
    pub(crate) fn new() -> Before {
        Before::in_dir(Dir::new())
    }

    pub(crate) fn in_dir(dir: Dir) -> Before {
        let authority = Authority::new();
        let trust = authority.write(dir.path());
        Before { dir, authority, trust }
    }

    /// An origin that is written frame by frame; `script` serves one connection.
    pub(crate) fn origin_by_hand(&self, script: impl Fn(usize, Frames<'_>) + Send + Sync + 'static) -> Origin {
        let config = self.authority.both_config(Fault::None);
        Origin::scripted_tls(config, move |request, link| {
            assert_eq!(request.method, "PRI", "HTTP/2 was agreed upon");
            script(request.connection, Frames::origin(link.stream));
            Next::Close
        })
    }

    /// Starts the gateway: it opens `localhost` and `127.0.0.1`, on these ports.
    #[track_caller]
    pub(crate) fn gateway(self, toml: &str, ports: &[u16]) -> Stage {
        let toml = format!("{toml}{}", opens(&["localhost", "127.0.0.1", "::1"], ports, &self.trust));
        self.gateway_with(&toml)
    }

    /// The same on one core, so that all callers are served by one thread and share its connections to origins.
    #[track_caller]
    pub(crate) fn gateway_on_one_core(self, toml: &str, ports: &[u16]) -> Stage {
        let opens = opens(&["localhost", "127.0.0.1", "::1"], ports, &self.trust);
        self.dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n\n{toml}{opens}"));
        let mut command = Command::new("taskset");
        command.args(["-c", &a_core_of_ours(), PROGRAM, "run", "-c", "proxy.toml"]);
        Stage { gateway: Gateway::start_by(&mut command, Arc::new(self.dir)), authority: self.authority }
    }

    /// Starts the gateway with a configuration that says it all.
    #[track_caller]
    pub(crate) fn gateway_with(self, toml: &str) -> Stage {
        Stage { gateway: Gateway::start_in(self.dir, toml), authority: self.authority }
    }
}

/// The first core on which we may run.
fn a_core_of_ours() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("it runs somewhere");
    list.trim().split([',', '-']).next().expect("at least one core").to_owned()
}

/// A stage whose origin is written frame by frame; `script` serves one connection.
#[track_caller]
pub(crate) fn by_hand(toml: &str, script: impl Fn(usize, Frames<'_>) + Send + Sync + 'static) -> (Stage, Origin) {
    let before = Before::new();
    let origin = before.origin_by_hand(script);
    let stage = before.gateway(toml, &[origin.port()]);
    (stage, origin)
}

impl Stage {
    /// The file with the certificate of the gateway's authority.
    #[track_caller]
    pub(crate) fn ca(&self) -> PathBuf {
        ca_of(self.gateway.dir.path())
    }

    /// A caller that trusts the gateway's authority and nobody else.
    #[track_caller]
    pub(crate) fn trusting(&self) -> ClientConfig {
        certs::trusting_file(&self.ca())
    }

    /// A tunnel for which the gateway has said 200.
    #[track_caller]
    pub(crate) fn tunnel(&self, to: &str) -> Caller {
        self.tunnel_with(to, "")
    }

    /// The same, with further field lines.
    #[track_caller]
    pub(crate) fn tunnel_with(&self, to: &str, fields: &str) -> Caller {
        let mut caller = self.gateway.caller();
        let answer = caller.send(connect(to, fields)).answer_to("CONNECT");
        assert_eq!(answer.status, 200, "{}{}", answer.raw, answer.text());
        caller
    }

    /// An opened tunnel in which HTTP/1.1 is spoken.
    #[track_caller]
    pub(crate) fn opened(&self, to: &str) -> Caller {
        self.tunnel(to).into_tls_with(&name_of(to), certs::offering(self.trusting(), &["http/1.1"]))
    }

    /// An opened tunnel in which HTTP/2 is spoken.
    #[track_caller]
    pub(crate) fn opened2(&self, to: &str) -> Caller2 {
        Caller2::inside(self.tunnel(to), &name_of(to), self.trusting())
    }

    /// One GET through a tunnel of its own.
    #[track_caller]
    pub(crate) fn get(&self, to: &str, path: &str) -> Answer {
        self.opened(to).send(get(to, path)).answer()
    }
}

/// The head of a CONNECT.
pub(crate) fn connect(to: &str, fields: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{fields}\r\n")
}

/// A GET in origin form.
pub(crate) fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// The host of `host:port`, without brackets.
pub(crate) fn name_of(to: &str) -> String {
    let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
    host.trim_matches(['[', ']']).to_owned()
}

/// What `lockgate ca path` prints for the configuration in `dir`.
#[track_caller]
pub(crate) fn ca_of(dir: &Path) -> PathBuf {
    let output = Command::new(PROGRAM).args(["ca", "path", "-c", "proxy.toml"]).current_dir(dir).output();
    let output = output.expect("the gateway was built and can be started");
    let text = String::from_utf8(output.stdout).expect("a path of ours is text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    dir.join(text.trim())
}
