//! `lockgate top`: live table of the limits in a terminal.
//!
//! Reads `/v1/limits` of the admin API once a second. Counters become rates by their difference to
//! the look before, so the first table shows `-` for them. Without a terminal, or with `--once`,
//! prints one table as text and exits.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table};
use serde_json::Value;

use super::admin_endpoint::{self, AdminEndpoint, AdminUrl, TrustError};
use super::{load_settings, print_error};
use crate::gate::clock::Clock;
use crate::log::error_chain;
use crate::time::Time;
use crate::tls::verify;

/// Time between two looks; rates are per second.
const REFRESH: Duration = Duration::from_secs(1);
/// Time for one answer of the gateway, long enough for a busy one; the keys that end `top` are not read meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer. A limit takes some hundred, so a longer answer is not a gateway's.
const MAX_ANSWER: usize = 64 << 20;
/// Columns of the table; a row has as many cells.
const HEADINGS: [&str; 7] = ["LIMIT", "RULE", "SENT/s", "FULLEST WINDOW", "WAITING", "REFUSED/s", "KEYS"];

/// Arguments of `lockgate top`.
#[derive(Args, Clone, Debug)]
pub(super) struct TopArgs {
    /// Address of the gateway's admin listener, such as 127.0.0.1:8081, or its URL (`https` if it has TLS)
    /// [default: `[admin] listen` of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<AdminUrl>,
    /// PEM file of authorities that are trusted beside the system's, for https://
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Watch for one second, print one table, and exit
    #[arg(long)]
    once: bool,
}

/// Reason why nothing can be shown.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Remedy: `--address`, or `[admin] listen` in the file.
    #[error("the configuration has no [admin] listen, and no --address is given")]
    NoAddress,
    /// Refused, reset, or later than [`ANSWER_TIMEOUT`].
    #[error("no answer from {0}: is the gateway running, with this address in [admin] listen?")]
    NoAnswer(String, #[source] admin_endpoint::Error),
    /// The certificate is not accepted, or the server speaks no TLS.
    #[error("{0} cannot be trusted: {1}; --cacert names the file of a further authority")]
    Untrusted(String, verify::Error),
    /// The roots for `https://` cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Status 401: no credentials, or wrong ones.
    #[error("{0} requires a password: set LOCKGATE_ADMIN_CREDENTIALS=NAME:PASSWORD")]
    Unauthorized(String),
    /// Another status, no HTTP, or no JSON.
    #[error("{0} is not the admin listener of a gateway: {1}")]
    NotLockgate(String, String),
    /// Raw mode, drawing or reading keys failed.
    #[error("the terminal cannot be used")]
    Terminal(#[from] io::Error),
}

/// Returns 0 after `q`, Esc or Ctrl-C, 1 after an error, 2 for an invalid configuration.
pub(super) fn top(arguments: &TopArgs, config_arg: Option<&Path>) -> ExitCode {
    let cacert = arguments.cacert.as_deref();
    let endpoint = match &arguments.address {
        Some(url) => AdminEndpoint::at(url.clone(), cacert).map_err(Error::from),
        None => match load_settings(config_arg) {
            Some((_, settings)) => {
                let configured = AdminEndpoint::configured(&settings, cacert);
                configured.map_err(Error::from).and_then(|endpoint| endpoint.ok_or(Error::NoAddress))
            }
            None => return ExitCode::from(2),
        },
    };
    let shown = endpoint.and_then(|endpoint| {
        let mut monitor = Monitor { endpoint, clock: Clock::start(), before: None };
        if arguments.once || !io::stdout().is_terminal() { monitor.print_once() } else { monitor.run() }
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Permits and refusals since the gateway started, by limit.
type TopCounters = HashMap<String, (u64, u64)>;

/// Admin API client that turns counters into rates.
struct Monitor {
    /// The admin listener.
    endpoint: AdminEndpoint,
    /// Measures the time between two looks.
    clock: Clock,
    /// TopCounters at the last look, and its time.
    before: Option<(Time, TopCounters)>,
}

impl Monitor {
    /// Takes one second. Columns are as wide as their longest cell.
    ///
    /// # Errors
    /// As those of `refresh`, or stdout cannot be written.
    fn print_once(&mut self) -> Result<(), Error> {
        self.refresh()?;
        std::thread::sleep(REFRESH);
        let rows = self.refresh()?;
        let width =
            |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(HEADINGS[column].len());
        let mut out = io::stdout().lock();
        for row in std::iter::once(&HEADINGS.map(str::to_owned)).chain(&rows) {
            let cells: Vec<String> =
                row.iter().enumerate().map(|(at, text)| format!("{text:<0$}", width(at))).collect();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }

    /// The terminal is restored before an error is returned.
    ///
    /// # Errors
    /// The first look failed, or the terminal cannot be used. Later failures are shown in the last
    /// line.
    fn run(&mut self) -> Result<(), Error> {
        let mut rows = self.refresh()?;
        let mut terminal = ratatui::init();
        let shown = (|| {
            let mut failure = String::new();
            loop {
                terminal.draw(|frame| self.draw(frame, &rows, &failure))?;
                if event::poll(REFRESH)?
                    && let Event::Key(key) = event::read()?
                    && is_quit(key)
                {
                    return Ok(());
                }
                match self.refresh() {
                    Ok(fresh) => (rows, failure) = (fresh, String::new()),
                    // The gateway may be restarting: the last rows stay.
                    Err(error) => failure = error.to_string(),
                }
            }
        })();
        ratatui::restore();
        shown
    }

    /// Three parts: title, table, and a line for the failure or the key that quits.
    fn draw(&self, frame: &mut ratatui::Frame<'_>, rows: &[[String; 7]], failure: &str) {
        let [title, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        frame.render_widget(Line::from(format!("lockgate, {}", self.endpoint.name())).bold(), title);
        let widths = [
            Constraint::Fill(2),
            Constraint::Fill(2),
            Constraint::Length(9),
            Constraint::Fill(2),
            Constraint::Length(8),
            Constraint::Length(10),
            Constraint::Length(8),
        ];
        let shown = rows.iter().map(|cells| Row::new(cells.iter().map(String::as_str)));
        let table = Table::new(shown, widths).header(Row::new(HEADINGS).style(Style::new().dim()));
        frame.render_widget(table, body);
        let foot_line = if failure.is_empty() { Line::from("q quits").dim() } else { Line::from(failure).red() };
        frame.render_widget(foot_line, foot);
    }

    /// Fetches the limits: one row of cells for each.
    ///
    /// A counter that went down, after a restart of the gateway, gives a rate of 0.
    ///
    /// # Errors
    /// As those of `get`.
    fn refresh(&mut self) -> Result<Vec<[String; 7]>, Error> {
        let answer = self.get("/v1/limits")?;
        let now = self.clock.now();
        let span = self.before.as_ref().map_or(1.0, |(before, _)| now.since(*before).as_secs_f64().max(0.001));
        let mut counters = TopCounters::new();
        let mut rows = Vec::new();
        for limit in answer["limits"].as_array().into_iter().flatten() {
            let name = escape_control(limit["name"].as_str().unwrap_or_default());
            let refused =
                limit["refused"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
            let permits = limit["permits"].as_u64().unwrap_or(0);
            let before = self.before.as_ref().and_then(|(_, before)| before.get(&name)).copied();
            let rate = |now: u64, before: Option<u64>| {
                before
                    .map_or_else(|| "-".to_owned(), |before| format!("{:.1}", now.saturating_sub(before) as f64 / span))
            };
            rows.push([
                name.clone(),
                describe_rule(limit),
                rate(permits, before.map(|before| before.0)),
                fullest_window(limit),
                limit["waiting"].to_string(),
                rate(refused, before.map(|before| before.1)),
                limit["keys"].to_string(),
            ]);
            counters.insert(name, (permits, refused));
        }
        self.before = Some((now, counters));
        Ok(rows)
    }

    /// Fetches a path of the admin API.
    ///
    /// Sends the credentials of `LOCKGATE_ADMIN_CREDENTIALS`, if it is set (`NAME:PASSWORD`).
    ///
    /// # Errors
    /// `NoAnswer`, `Untrusted`, `Unauthorized` or `NotLockgate`.
    fn get(&self, path: &str) -> Result<Value, Error> {
        let name = self.endpoint.name();
        let mut request = Request::get(path).header(HOST, self.endpoint.host()).header(CONNECTION, "close");
        if let Ok(credentials) = std::env::var("LOCKGATE_ADMIN_CREDENTIALS") {
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(credentials)));
        }
        let request = request.body(Full::default()).expect("the host of a URL and base64 are valid field values");
        let response = match self.endpoint.fetch(request, MAX_ANSWER, ANSWER_TIMEOUT) {
            Ok(response) => response,
            Err(admin_endpoint::Error::Tls(error)) => return Err(Error::Untrusted(name, error)),
            Err(admin_endpoint::Error::NotHttp(error)) => {
                return Err(Error::NotLockgate(name, escape_control(&error_chain(&error))));
            }
            Err(error @ (admin_endpoint::Error::Dial(_) | admin_endpoint::Error::Broken(_))) => {
                return Err(Error::NoAnswer(name, error));
            }
        };
        match response.status() {
            StatusCode::OK => serde_json::from_slice(response.body())
                .map_err(|error| Error::NotLockgate(name, escape_control(&error.to_string()))),
            StatusCode::UNAUTHORIZED => Err(Error::Unauthorized(name)),
            status => Err(Error::NotLockgate(name, describe_status(status, response.body()))),
        }
    }
}

/// Status of a response that is none of ours, with the detail of its problem document, if it has one.
fn describe_status(status: StatusCode, content: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(content).ok();
    match problem.as_ref().and_then(|problem| problem["detail"].as_str()) {
        Some(detail) => escape_control(&format!("{status}: {detail}")),
        None => status.to_string(),
    }
}

/// Escapes control characters, which the terminal would obey.
///
/// Names of limits come from a server, which may be none of ours.
fn escape_control(text: &str) -> String {
    let show = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// `q`, Esc, or Ctrl-C, which sends no signal in raw mode.
fn is_quit(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    control_c || key.code == KeyCode::Char('q') || key.code == KeyCode::Esc
}

/// Short description of a limit's rule.
///
/// For instance `5 per 1s, 10 in flight, dry run`.
fn describe_rule(limit: &Value) -> String {
    let rate = limit["requests"].as_u64().map(|requests| format!("{requests} per {}", format_millis(&limit["per_ms"])));
    let in_flight = limit["in_flight"].as_u64().map(|most| format!("{most} in flight"));
    let dry_run = limit["dry_run"].as_bool().filter(|dry| *dry).map(|_| "dry run".to_owned());
    [rate, in_flight, dry_run].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Fill level of the fullest window, by the nearer of its two bounds (slots, in flight); of equals by its slots.
///
/// For instance `████░░░░░░ 2 of 5`; `-` for a limit without bounds.
fn fullest_window(limit: &Value) -> String {
    let used = |held: &str, most: &str| Some((limit["fullest"][held].as_u64().unwrap_or(0), limit[most].as_u64()?));
    let bounds = [used("taken", "requests"), used("in_flight", "in_flight")].into_iter().flatten();
    // `max_by` takes the last of equals.
    let nearest = bounds.rev().max_by(|one, other| (one.0 * other.1).cmp(&(other.0 * one.1)));
    let Some((taken, most)) = nearest else { return "-".to_owned() };
    let filled = usize::try_from((taken * 10).checked_div(most).unwrap_or(0).min(10)).unwrap_or(10);
    format!("{}{} {taken} of {most}", "█".repeat(filled), "░".repeat(10 - filled))
}

/// A number of milliseconds in the largest unit that it is a multiple of.
///
/// For instance `1s` for 1000, `1500ms` for 1500.
fn format_millis(millis: &Value) -> String {
    let millis = millis.as_f64().unwrap_or(0.0);
    let units = [("d", 86_400_000.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)];
    let whole = units.into_iter().find(|(_, size)| millis >= *size && millis % size == 0.0);
    whole.map_or_else(|| format!("{millis}ms"), |(unit, size)| format!("{}{unit}", millis / size))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(escape_control("HTTP/1.1 500 \u{1b}]0;owned\u{7}é"), "HTTP/1.1 500 \\u{1b}]0;owned\\u{7}é");
    }

    #[test]
    fn a_limit_is_told_in_few_words() {
        let limit = json!({ "requests": 50, "per_ms": 90_000.0, "in_flight": 4, "dry_run": true,
                            "fullest": { "taken": 10, "in_flight": 3 } });
        assert_eq!(describe_rule(&limit), "50 per 90s, 4 in flight, dry run");
        assert_eq!(fullest_window(&limit), "███████░░░ 3 of 4", "three quarters are nearer than a fifth");
        assert_eq!(fullest_window(&json!({ "requests": 5, "in_flight": null, "fullest": null })), "░░░░░░░░░░ 0 of 5");
        assert_eq!(fullest_window(&json!({ "requests": 5, "in_flight": 20, "fullest": null })), "░░░░░░░░░░ 0 of 5");
        assert_eq!(format_millis(&json!(800.0)), "800ms");
    }
}
