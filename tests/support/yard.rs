//! Programs under `lockgate exec` beside a gateway that intercepts one origin of several.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::certs::Fault;
use super::gateway::PROGRAM;
use super::processes::ENVIRONMENT;
use super::program::{err, out};
use super::stage::{Before, Stage, counted, opens};
use super::{Origin, Origin2, echo, eventually, free_port};

/// A gateway; an http origin; and two https origins, of which it intercepts one. Each answers a GET with the target, and
/// anything else with its content. All are called `localhost`.
pub(crate) struct Yard {
    pub(crate) stage: Stage,
    pub(crate) plain: Origin,
    pub(crate) secure: Origin2,
    pub(crate) closed: Origin2,
    /// The roots of the origins, which the user of the programs trusts.
    pub(crate) trust: PathBuf,
    /// Options of exec.
    pub(crate) options: &'static [&'static str],
}

impl Yard {
    pub(crate) fn new() -> Yard {
        Yard::with("", &[])
    }

    /// Programs run under `exec --all`.
    ///
    /// The gateway intercepts the address of the origin, too: Java asks for no name that has no dot.
    pub(crate) fn under_all() -> Yard {
        Yard { options: &["--all"], ..Yard::opening(Before::new(), &["localhost", "127.0.0.1"], "") }
    }

    /// The same with further lines in `[access]`, and with these files beside the configuration.
    pub(crate) fn with(more: &str, files: &[(&str, &str)]) -> Yard {
        let before = Before::new();
        for (name, text) in files {
            before.dir.write(name, text);
        }
        Yard::begin(before, more)
    }

    /// The same in the folder of `before`, with further lines in `[access]`.
    pub(crate) fn begin(before: Before, more: &str) -> Yard {
        Yard::opening(before, &["localhost"], more)
    }

    /// The same with these names of the origin that is intercepted.
    fn opening(before: Before, names: &[&str], more: &str) -> Yard {
        let plain = Origin::scripted(echo);
        let secure = Origin2::start(before.authority.both_config(Fault::None));
        let closed = Origin2::start(before.authority.both_config(Fault::None));
        let hosts: Vec<String> = names.iter().map(|name| format!("{name}:{}", secure.port())).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let toml = format!("[listen]\nproxy = \"127.0.0.1:{}\"\n\n", free_port())
            + &counted(1000, "1s", "")
            + &opens(&hosts, &[secure.port(), closed.port()], &before.trust)
            + more;
        let trust = before.trust.clone();
        Yard { stage: before.gateway_with(&toml), plain, secure, closed, trust, options: &[] }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.stage.gateway.dir.path()
    }

    /// The program under `lockgate exec`, with nothing in its environment but the user's roots and what the test has put
    /// there.
    pub(crate) fn run(&self, program: &Command) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("exec").args(self.options).arg("-c").arg(self.dir().join("proxy.toml"));
        command.arg("--").arg(program.get_program()).args(program.get_args()).current_dir(self.dir());
        for name in ENVIRONMENT {
            command.env_remove(name);
        }
        command.env("HOME", self.dir()).env_remove("XDG_CACHE_HOME").env("SSL_CERT_FILE", &self.trust);
        command.env("NODE_EXTRA_CA_CERTS", &self.trust);
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).output().expect("the gateway was built and can be started")
    }

    /// Runs to a good end, without a word of the gateway on stderr; what it printed.
    #[track_caller]
    pub(crate) fn prints(&self, program: &Command) -> String {
        let output = self.run(program);
        assert!(output.status.success(), "{}: {}{}", output.status, out(&output), err(&output));
        assert!(!err(&output).contains("lockgate:"), "{}", err(&output));
        out(&output)
    }

    /// Runs the program with each origin; it prints `well`, and `count` requests arrive each time.
    #[track_caller]
    pub(crate) fn all_go_well(&self, count: usize, program: impl Fn(&str) -> Command) {
        for base in [self.plain_base(), self.secure.url(""), self.closed.url("")] {
            assert_eq!(self.prints(&program(&base)).trim(), "well", "{base}");
        }
        self.all_came(count);
    }

    /// Runs the program with each origin, whatever its end: it asks for what the origins do not have. Fails unless requests
    /// have come to each, all through the gateway.
    #[track_caller]
    pub(crate) fn all_are_asked(&self, program: impl Fn(&str) -> Command) {
        for base in [self.plain_base(), self.secure.url(""), self.closed.url("")] {
            let output = self.run(&program(&base));
            let said = format!("{base}: {}{}", out(&output), err(&output));
            assert!(!said.contains("no request came") && !said.to_lowercase().contains("certificate"), "{said}");
        }
        let [plain, secure, closed] = [self.plain.count(), self.secure.count(), self.closed.count()];
        assert!(plain > 0 && secure > 0 && closed > 0, "{plain} {secure} {closed}");
        self.each_came();
    }

    /// Fails unless `count` requests have come to each origin, all through the gateway.
    #[track_caller]
    pub(crate) fn all_came(&self, count: usize) {
        assert_eq!([self.plain.count(), self.secure.count(), self.closed.count()], [count; 3]);
        self.each_came();
    }

    /// Fails if a request has come past the gateway.
    #[track_caller]
    fn each_came(&self) {
        let (plain, secure, closed) = (self.plain.requests(), self.secure.seen(), self.closed.seen());
        let vias = plain.iter().map(|one| one.all("via").collect()).chain(secure.iter().map(|one| one.all("via")));
        for via in vias {
            let via: Vec<&str> = via;
            assert!(matches!(via[..], ["1.1 lockgate" | "2.0 lockgate"]), "past the gateway: {via:?}");
        }
        // Of a closed tunnel the gateway knows but that it is there.
        let connections: BTreeSet<usize> = closed.iter().map(|one| one.connection).collect();
        let line = format!(":{} 200 limits=the-limit", self.closed.port());
        let is_tunnel = |text: &&String| text.contains(" CONNECT ") && text.contains(&line);
        let tunnels = || self.stage.gateway.lines().iter().filter(is_tunnel).count();
        eventually("each connection is a tunnel in the log", || tunnels() >= connections.len());
    }

    /// By name, as the origins with certificates.
    pub(crate) fn plain_base(&self) -> String {
        format!("http://localhost:{}", self.plain.port())
    }
}
