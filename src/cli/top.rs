//! `lockgate top`: the limits at a glance, in a terminal.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
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

use super::fetch::fetch;
use super::{complain, settings};
use crate::gate::clock::Clock;
use crate::time::Time;
use crate::wire::http_client;

const SECOND: Duration = Duration::from_secs(1);
/// How long the gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer that is longer is none of lockgate's.
const LONGEST: usize = 64 << 20;
const HEADINGS: [&str; 7] = ["LIMIT", "RULE", "GONE/s", "FULLEST WINDOW", "WAITING", "REFUSED/s", "KEYS"];

/// What `top` can be told.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Arguments {
    /// Where the gateway receives operators [default: `[admin] listen` of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
    /// Look for one second, print, and end
    #[arg(long)]
    once: bool,
}

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the configuration has no [admin] listen, and no --address is given")]
    NoAddress,
    #[error("nobody answers at {0}: is the gateway running, with [admin] listen = \"{0}\"?")]
    Silent(SocketAddr, #[source] io::Error),
    #[error("{0} wants a name and a password: put them into LOCKGATE_OPERATOR=name:password")]
    Unknown(SocketAddr),
    #[error("what answers at {0} is no gateway's admin listener: {1}")]
    Foreign(SocketAddr, String),
    #[error("the terminal cannot be used")]
    Terminal(#[from] io::Error),
}

pub(super) fn top(arguments: Arguments, wish: Option<&Path>) -> ExitCode {
    let address = match arguments.address {
        Some(address) => Ok(address),
        None => match settings(wish) {
            Some((_, settings)) => settings.admin.map(|admin| admin.listen).ok_or(Error::NoAddress),
            None => return ExitCode::from(2),
        },
    };
    let shown = address.and_then(|address| {
        let mut watch = Watch { address, clock: Clock::start(), before: None };
        if arguments.once || !io::stdout().is_terminal() { watch.once() } else { watch.keep_showing() }
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Permits and refusals, by limit.
type Counted = HashMap<String, (u64, u64)>;

/// What is seen of a gateway, again and again.
struct Watch {
    address: SocketAddr,
    clock: Clock,
    /// What was counted when it was looked last.
    before: Option<(Time, Counted)>,
}

impl Watch {
    fn once(&mut self) -> Result<(), Error> {
        self.look()?;
        std::thread::sleep(SECOND);
        let rows = self.look()?;
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

    fn keep_showing(&mut self) -> Result<(), Error> {
        let mut rows = self.look()?;
        let mut terminal = ratatui::init();
        let shown = (|| {
            let mut trouble = String::new();
            loop {
                terminal.draw(|frame| self.draw(frame, &rows, &trouble))?;
                if event::poll(SECOND)?
                    && let Event::Key(key) = event::read()?
                    && ends(key)
                {
                    return Ok(());
                }
                match self.look() {
                    Ok(seen) => (rows, trouble) = (seen, String::new()),
                    // It may only be starting anew.
                    Err(error) => trouble = error.to_string(),
                }
            }
        })();
        ratatui::restore();
        shown
    }

    fn draw(&self, frame: &mut ratatui::Frame<'_>, rows: &[[String; 7]], trouble: &str) {
        let [title, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        frame.render_widget(Line::from(format!("lockgate, {}", self.address)).bold(), title);
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
        let foot_line = if trouble.is_empty() { Line::from("q ends").dim() } else { Line::from(trouble).red() };
        frame.render_widget(foot_line, foot);
    }

    /// One row for each limit.
    fn look(&mut self) -> Result<Vec<[String; 7]>, Error> {
        let seen = self.ask("/v1/limits")?;
        let now = self.clock.now();
        let span = self.before.as_ref().map_or(1.0, |(before, _)| now.since(*before).as_secs_f64().max(0.001));
        let mut counted = Counted::new();
        let mut rows = Vec::new();
        for limit in seen["limits"].as_array().into_iter().flatten() {
            let name = visible(limit["name"].as_str().unwrap_or_default());
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
                rule(limit),
                rate(permits, before.map(|before| before.0)),
                fullest(limit),
                limit["waiting"].to_string(),
                rate(refused, before.map(|before| before.1)),
                limit["keys"].to_string(),
            ]);
            counted.insert(name, (permits, refused));
        }
        self.before = Some((now, counted));
        Ok(rows)
    }

    fn ask(&self, path: &str) -> Result<Value, Error> {
        let address = self.address;
        let mut request = Request::get(path).header(HOST, address.to_string()).header(CONNECTION, "close");
        if let Ok(credentials) = std::env::var("LOCKGATE_OPERATOR") {
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(credentials)));
        }
        let request = request.body(Full::default()).expect("an address and base64 are valid field values");
        let response = fetch(address, request, LONGEST, PATIENCE).map_err(|error| match error {
            http_client::Error::Broken(error) => Error::Silent(address, error),
            http_client::Error::NotHttp(error) => Error::Foreign(address, visible(&error.to_string())),
        })?;
        match response.status() {
            StatusCode::OK => serde_json::from_slice(response.body())
                .map_err(|error| Error::Foreign(address, visible(&error.to_string()))),
            StatusCode::UNAUTHORIZED => Err(Error::Unknown(address)),
            status => Err(Error::Foreign(address, status.to_string())),
        }
    }
}

/// A foreign text as a terminal may have it: its control characters are shown, and none is obeyed.
fn visible(text: &str) -> String {
    let show = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

fn ends(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    control_c || key.code == KeyCode::Char('q') || key.code == KeyCode::Esc
}

/// What a limit allows, in few words.
fn rule(limit: &Value) -> String {
    let rate = limit["requests"].as_u64().map(|requests| format!("{requests} per {}", duration(&limit["per_ms"])));
    let flights = limit["in_flight"].as_u64().map(|most| format!("{most} in flight"));
    let dry = limit["dry_run"].as_bool().filter(|dry| *dry).map(|_| "dry run".to_owned());
    [rate, flights, dry].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How full the fullest window is, by whichever of both bounds is nearer.
fn fullest(limit: &Value) -> String {
    let used = |held: &str, most: &str| Some((limit["fullest"][held].as_u64().unwrap_or(0), limit[most].as_u64()?));
    let bounds = [used("taken", "requests"), used("in_flight", "in_flight")].into_iter().flatten();
    let nearest = bounds.max_by(|one, other| (one.0 * other.1).cmp(&(other.0 * one.1)));
    let Some((taken, most)) = nearest else { return "-".to_owned() };
    let filled = usize::try_from((taken * 10).checked_div(most).unwrap_or(0).min(10)).unwrap_or(10);
    format!("{}{} {taken} of {most}", "█".repeat(filled), "░".repeat(10 - filled))
}

fn duration(millis: &Value) -> String {
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
        assert_eq!(visible("HTTP/1.1 500 \u{1b}]0;owned\u{7}é"), "HTTP/1.1 500 \\u{1b}]0;owned\\u{7}é");
    }

    #[test]
    fn a_limit_is_told_in_few_words() {
        let limit = json!({ "requests": 50, "per_ms": 90_000.0, "in_flight": 4, "dry_run": true,
                            "fullest": { "taken": 10, "in_flight": 3 } });
        assert_eq!(rule(&limit), "50 per 90s, 4 in flight, dry run");
        assert_eq!(fullest(&limit), "███████░░░ 3 of 4", "three quarters are nearer than a fifth");
        assert_eq!(fullest(&json!({ "requests": 5, "in_flight": null, "fullest": null })), "░░░░░░░░░░ 0 of 5");
        assert_eq!(duration(&json!(800.0)), "800ms");
    }
}
