//! Programs in processes of their own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What steers callers from outside; each test says for itself where they go and whom they trust.
pub(crate) const ENVIRONMENT: [&str; 42] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_USE_ENV_PROXY",
    "BUN_INSPECT_PRELOAD",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "JAVA_TOOL_OPTIONS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "grpc_proxy",
    "GRPC_PROXY",
    "no_grpc_proxy",
    "wss_proxy",
    "ws_proxy",
    "PYTHONPATH",
    "WGETRC",
    "PHP_INI_SCAN_DIR",
    "APT_CONFIG",
    "PERL_LWP_ENV_PROXY",
    "PERL_LWP_SSL_CA_FILE",
    "HTTPS_CA_FILE",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
    "npm_config_cafile",
    "NPM_CONFIG_CAFILE",
    "LOCKGATE_CA_BUNDLE",
    "SYSTEM_CERTIFICATE_PATH",
    "LOCKGATE_CONFIG",
    "RUST_LOG",
];

/// The top of the repository.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails unless `tests/run` has installed what is at `path`.
#[track_caller]
pub(crate) fn need(path: &Path, what: &str) {
    assert!(path.exists(), "{what} are not installed: run tests/run, which installs them");
}

/// Starts it with nothing in its environment that says where to go or whom to trust.
#[track_caller]
pub(crate) fn start(mut command: Command) -> Child {
    for name in ENVIRONMENT {
        command.env_remove(name);
    }
    spawn(command)
}

/// Starts it with the environment that it has.
#[track_caller]
pub(crate) fn spawn(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{:?}: {e}: run tests/run, which installs it", command.get_program()))
}

/// Runs to its end, which must be a good one; what it printed.
#[track_caller]
pub(crate) fn finish(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// A Python of the tests', with the libraries that they pin, running a script of `tests/clients`.
#[track_caller]
pub(crate) fn python(script: &str) -> Command {
    let python = top().join(".venv/bin/python");
    need(&python, "the Python libraries of the tests");
    let mut command = Command::new(python);
    command.arg(top().join("tests/clients").join(script));
    command
}

/// A server in a process of its own, which prints its port when it listens; ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Server {
        command.stderr(Stdio::inherit());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}: run tests/run, which installs it", command.get_program()));
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        out.read_line(&mut line).expect("it prints its port");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("{line:?} is no port"));
        // Nobody reads what else it prints.
        super::thread(move || std::io::copy(&mut out, &mut std::io::sink()).ok());
        Server { child, port }
    }

    /// `localhost:port`.
    pub(crate) fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
