//! `lockgate demo`: shows a limit at work, by a gateway, an origin that records arrivals, and seven requests.
//!
//! Needs no network and no configuration: gateway, origin and client are on loopback, on free
//! ports. The gateway is a process of this program, like one that a user starts. Takes about one
//! second, the time that the sixth request waits.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::Request;
use http::header::HOST;
use http_body_util::Full;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use super::print_error;
use crate::gate::clock::Clock;
use crate::net::dial;
use crate::time::Time;
use crate::wire::http_client;

/// Limit of the demo. One second is long enough to see a request wait, and short enough to wait for.
///
/// Counted from the response, so that the bound holds for arrivals at the origin as well.
const LIMIT: &str = "\
[[limit]]
name     = \"demo\"
match    = { host = \"127.0.0.1\" }
requests = 5
per      = \"1s\"
counts   = \"answered\"     # exact as the origin sees it
";

/// Other sections: any free port, and no output but errors, so that the terminal shows the demo alone.
///
/// The port is read from the banner on the gateway's stdout.
const QUIET: &str = "[listen]\nproxy = \"127.0.0.1:0\"\n\n[log]\nlevel = \"error\"\naccess = \"off\"\n\n";

/// Slots of the limit in a second.
///
/// The `requests` of [`LIMIT`].
const SLOTS: usize = 5;

/// The most bytes of a response: the origin sends six, a refusal of the gateway some hundred.
const MAX_CONTENT: usize = 4096;

/// Requests that are sent: one waits, and one more shows that the next slot has opened too.
const REQUESTS: usize = 7;

/// Runs the demo and prints what arrives at the origin.
pub(super) fn demo() -> ExitCode {
    match run_demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// # Errors
/// Any failure of the folder, the gateway's start, the origin or a request; shown in one line.
fn run_demo() -> Result<(), Box<dyn std::error::Error>> {
    let folder = DemoFolder::new()?;
    let mut gateway = GatewayProcess::start(&folder.0)?;
    let address = gateway.address()?;
    Builder::new_current_thread().enable_all().build()?.block_on(show(address))
}

/// Folder for the demo's configuration and state; removed when dropped.
///
/// Mode 0700, named by the process id, below the system's folder for temporary files.
struct DemoFolder(PathBuf);

impl DemoFolder {
    /// # Errors
    /// If the folder exists already, or cannot be made or written.
    fn new() -> io::Result<DemoFolder> {
        let path = std::env::temp_dir().join(format!("lockgate-demo-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let folder = DemoFolder(path);
        fs::write(folder.0.join("proxy.toml"), format!("{QUIET}{LIMIT}"))?;
        Ok(folder)
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        // Only temporary files are left if it fails.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A `lockgate run` of the same program; stopped when dropped.
struct GatewayProcess(Child);

impl GatewayProcess {
    /// Starts the process with the folder's configuration. Its stdin is empty, its stdout a pipe,
    /// and its stderr that of the demo.
    ///
    /// # Errors
    /// If the program's own path is unknown, or the system gives no process.
    fn start(folder: &Path) -> io::Result<GatewayProcess> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg("--config").arg(folder.join("proxy.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(GatewayProcess(command.spawn()?))
    }

    /// Waits until it listens, and returns its address.
    ///
    /// Reads the banner up to its line `listening on ADDRESS`.
    ///
    /// # Errors
    /// If it exits before; its own message is on stderr.
    fn address(&mut self) -> io::Result<SocketAddr> {
        let ended = || io::Error::other("the gateway of the demo did not start");
        let stdout = self.0.stdout.take().ok_or_else(ended)?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("listening on ")?.parse().ok());
        address.ok_or_else(ended)
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
        self.0.wait().ok();
    }
}

/// Arrivals at the origin, in order.
///
/// Shared by the origin, which appends, and the loop of requests, which reads.
type Arrivals = Arc<Mutex<Vec<Time>>>;

/// Starts an origin that records arrivals, and returns its address.
///
/// Runs as a task until the runtime ends.
///
/// # Errors
/// If no port can be bound.
async fn start_origin(clock: Clock, arrivals: Arrivals) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stamp = move || async move {
        arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(clock.now());
        "hello\n"
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(stamp))).await });
    Ok(address)
}

/// Sends the requests one after another, and prints each arrival.
///
/// # Errors
/// If a request fails, or is answered without reaching the origin.
async fn show(gateway: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let clock = Clock::start();
    let arrivals = Arrivals::default();
    let origin = start_origin(clock, Arc::clone(&arrivals)).await?;
    say(format_args!("A gateway at {gateway} with this limit, and an origin at {origin} that stamps arrivals:\n"));
    LIMIT.lines().for_each(|line| say(format_args!("    {line}")));
    say(format_args!("\nSeven requests, one after another, by http_proxy=http://{gateway}:\n"));
    say(format_args!("    request  status  arrived     waited"));
    for number in 1..=REQUESTS {
        let asked = clock.now();
        let status = get_through(gateway, origin).await?;
        let stamps = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(first), Some(last)) = (stamps.first(), stamps.last()) else {
            return Err("a request was answered that did not reach the origin".into());
        };
        let (arrived, waited) = (last.since(*first), last.since(asked));
        say(format_args!(
            "    {number:<7}  {status:<6}  {:.3} s     {:.3} s",
            arrived.as_secs_f64(),
            waited.as_secs_f64()
        ));
    }
    let stamps = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    say(format_args!(
        "\nMost arrivals in any second: {}. The limit is {SLOTS}.",
        most_in(&stamps, Duration::from_secs(1))
    ));
    say(format_args!(
        "Next: write your API's host into a limit in proxy.toml, then `lockgate check` and `lockgate run`."
    ));
    Ok(())
}

/// Prints a line. A closed stdout (`| head`) is no error.
fn say(line: fmt::Arguments<'_>) {
    writeln!(io::stdout().lock(), "{line}").ok();
}

/// Sends one GET through the gateway and returns the status of the response.
///
/// Each request has a connection of its own.
///
/// # Errors
/// If the gateway cannot be reached, or its response is broken.
async fn get_through(gateway: SocketAddr, origin: SocketAddr) -> Result<u16, Box<dyn std::error::Error>> {
    let request = Request::get(format!("http://{origin}/")).header(HOST, origin.to_string()).body(Full::default())?;
    let stream = dial::connect_address(gateway).await?;
    let response = http_client::send(stream, request, MAX_CONTENT).await?;
    Ok(response.status().as_u16())
}

/// The most stamps, in order of time, in any span of that length.
///
/// Counts from each stamp on, which is enough: the fullest span begins with an arrival.
fn most_in(stamps: &[Time], span: Duration) -> usize {
    let in_span = |first: usize| stamps[first..].iter().take_while(|at| at.since(stamps[first]) < span).count();
    (0..stamps.len()).map(in_span).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_in_a_span_leaves_out_what_is_a_whole_span_later() {
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        let stamps = [at(0), at(10), at(500), at(1000), at(1010)];
        assert_eq!(most_in(&stamps, Duration::from_secs(1)), 3);
        assert_eq!(most_in(&stamps[..1], Duration::from_secs(1)), 1);
        assert_eq!(most_in(&[], Duration::from_secs(1)), 0);
    }
}
