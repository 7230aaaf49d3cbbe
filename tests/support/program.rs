//! Programs under `lockgate exec`, and the gateways that were started for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::gateway::{Dir, PROGRAM};
use super::{eventually, free_port, limit};

/// A folder with a `proxy.toml` that counts what goes to this machine.
pub(crate) struct Stage {
    pub(crate) dir: Dir,
    pub(crate) port: u16,
}

impl Stage {
    /// The gateway has a port of its own.
    pub(crate) fn new(toml: &str) -> Stage {
        Stage::at(free_port(), toml)
    }

    pub(crate) fn at(port: u16, toml: &str) -> Stage {
        let dir = Dir::new();
        dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n\n{toml}"));
        Stage { dir, port }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let path = std::env::var_os("PATH").expect("a shell has a PATH");
        command.args(args).current_dir(self.dir.path()).env_clear().env("PATH", path).env("HOME", self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn exec(&self, program: &[&str]) -> Command {
        self.command(&[&["exec", "--"], program].concat())
    }

    pub(crate) fn shell(&self, script: &str) -> Command {
        // Whoever runs the tests in the background has INT and QUIT ignored, which a shell cannot trap any more.
        self.exec(&["env", "--default-signal", "sh", "-c", script])
    }

    /// A program that runs until its stdin ends; it has begun when this returns.
    pub(crate) fn waiting(&self) -> Program {
        let mut command = self.shell("echo begun $HTTP_PROXY; read line; eval \"$line\"");
        Program::start(command.stdin(Stdio::piped()))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The gateways that exec started here.
    pub(crate) fn gateways(&self) -> Vec<Pid> {
        let config = self.dir.path().join("proxy.toml");
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("there is a /proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("gateway") && line.contains(&config.display().to_string()) {
                found.extend(Pid::from_raw(pid));
            }
        }
        found
    }

    #[track_caller]
    pub(crate) fn no_gateway_is_left(&self) {
        eventually("the gateway ends", || self.gateways().is_empty());
        assert!(TcpStream::connect(self.addr()).is_err());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What a failed test leaves must not disturb others.
        for pid in self.gateways() {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// A program that runs under exec, as [`Stage::waiting`] starts it.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) out: BufReader<std::process::ChildStdout>,
    pub(crate) proxy: String,
}

impl Program {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Program {
        let mut child = command.spawn().expect("the gateway was built");
        let mut out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).expect("stdout can be read");
        let Some(proxy) = line.trim_end().strip_prefix("begun ") else {
            let mut said = String::new();
            child.stderr.take().expect("stderr is a pipe").read_to_string(&mut said).ok();
            panic!("the program did not begin: {line:?}, {said}");
        };
        Program { out, proxy: proxy.to_owned(), child }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Tells it what to run, and what it printed then.
    pub(crate) fn then(mut self, script: &str) -> (String, std::process::ExitStatus) {
        let mut stdin = self.child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(script.as_bytes()).expect("the program reads");
        drop(stdin);
        let mut text = String::new();
        self.out.read_to_string(&mut text).expect("it prints text");
        (text, self.child.wait().expect("our own child can be waited for"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every request to this machine is counted, and may go.
pub(crate) fn counted() -> String {
    limit(100_000, "1s", "")
}
