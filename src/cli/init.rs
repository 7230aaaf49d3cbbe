//! `lockgate init`: writes a first `proxy.toml`, by three questions or by flags.
//!
//! A question whose flag is given is not asked. With `--host` and `--rate` none is, so that scripts
//! never wait. Questions go to stderr, answers come from stdin. The text is checked as
//! `lockgate check` would check it before it is written, and an existing file is kept unless
//! `--force` is given.

mod template;

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use http::Uri;

use self::template::{Draft, Mode, RateText, Service};
use super::print_error;
use crate::config;

/// Times that a question is asked before the command gives up.
const TRIES: usize = 3;

/// Names of units in answers, beside those of the file.
const UNIT_NAMES: [(&str, &str); 6] =
    [("second", "s"), ("sec", "s"), ("minute", "m"), ("min", "m"), ("hour", "h"), ("day", "d")];

/// Arguments of `lockgate init`.
#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The service to limit: a host, a host pattern such as *.example.com, or a URL
    #[arg(long)]
    host: Option<String>,
    /// Requests in a time, such as 5/1s or 100/m
    #[arg(long)]
    rate: Option<String>,
    /// Mode in which programs reach the gateway [default: forward]
    #[arg(long)]
    mode: Option<Mode>,
    /// Address to listen on
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Address range that callers may come from; needed to listen beyond this machine; may be repeated
    #[arg(long, value_name = "RANGE")]
    allow_from: Vec<String>,
    /// The file to write; - for stdout
    #[arg(short, long, value_name = "FILE", default_value = "proxy.toml")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Treatment of a file that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OldFile {
    /// The default.
    Keep,
    /// `--force`.
    Replace,
}

/// Reason why no file was written.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Exit code 1, as for all but `Answer` and `Invalid`.
    #[error("{} exists already and is kept; --force replaces it, --output names another", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the answer cannot be read")]
    Input(#[source] io::Error),
    /// stdin ended, or none of the answers was right.
    #[error("no answer to {question:?}; {flag} gives it")]
    NoAnswer { question: &'static str, flag: &'static str },
    /// A flag's value. Exit code 2.
    #[error("{flag} {value:?}: {reason}")]
    Flag { flag: &'static str, value: String, reason: String },
    /// Exit code 2.
    #[error("these answers make no valid configuration:\n{0}")]
    Invalid(String),
}

/// Returns 0, 2 for flags that cannot be right, 1 if the file exists or cannot be written.
pub(super) fn init(arguments: &InitArgs) -> ExitCode {
    match execute(arguments, &mut io::stdin().lock()) {
        Ok(text) => {
            // A closed stdout is no error.
            io::stdout().lock().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            match error {
                Error::Flag { .. } | Error::Invalid(_) => ExitCode::from(2),
                Error::Exists(_) | Error::Write { .. } | Error::Input(_) | Error::NoAnswer { .. } => ExitCode::FAILURE,
            }
        }
    }
}

/// Returns the text for stdout: the file itself for `-`, else what was done and what comes next.
///
/// # Errors
/// See [`Error`].
fn execute(arguments: &InitArgs, input: &mut impl BufRead) -> Result<String, Error> {
    let to_stdout = arguments.output == Path::new("-");
    let old_file = if arguments.force { OldFile::Replace } else { OldFile::Keep };
    // Before the questions: answers are not asked for in vain.
    if !to_stdout && old_file == OldFile::Keep && arguments.output.exists() {
        return Err(Error::Exists(arguments.output.clone()));
    }
    let draft = draft(arguments, input)?;
    let text = draft.text();
    let settings = config::read_text(&arguments.output, text.clone()).map_err(|e| Error::Invalid(e.to_string()))?;
    if to_stdout {
        return Ok(text);
    }
    write_file(&arguments.output, &text, old_file)?;
    let (limits, next) = (settings.explanations.join("\n"), draft.next_step(&arguments.output));
    Ok(format!("{} is written:\n{limits}\nnext: {next}\n", arguments.output.display()))
}

/// Asks for what no flag says.
///
/// # Errors
/// `Flag`, `Input`, `NoAnswer`.
fn draft(arguments: &InitArgs, input: &mut impl BufRead) -> Result<Draft, Error> {
    let asks = arguments.host.is_none() || arguments.rate.is_none();
    let service = match &arguments.host {
        Some(value) => from_flag("--host", value, parse_service)?,
        None => ask(
            input,
            "Which service has the limit? A host or URL, such as api.example.com",
            "--host",
            None,
            parse_service,
        )?,
    };
    let rate = match &arguments.rate {
        Some(value) => from_flag("--rate", value, parse_rate)?,
        None => ask(input, "How many requests in which time? Such as 5/1s or 100/m", "--rate", None, parse_rate)?,
    };
    let question = "Do programs use HTTP_PROXY (forward), or a base URL (reverse)?";
    let mode = match arguments.mode {
        Some(mode) => mode,
        None if asks => ask(input, question, "--mode", Some("forward"), parse_mode)?,
        None => Mode::Forward,
    };
    if mode == Mode::Reverse && service.host.contains('*') {
        let reason = "a base URL leads to one host, not to a pattern".to_owned();
        return Err(Error::Flag { flag: "--host", value: service.host, reason });
    }
    let is_below_etc = std::path::absolute(&arguments.output).is_ok_and(|path| path.starts_with("/etc"));
    let (listen, allow_from) = (arguments.listen.clone(), arguments.allow_from.clone());
    Ok(Draft { service, rate, mode, listen, allow_from, is_below_etc })
}

/// # Errors
/// `Flag` with the parser's reason.
fn from_flag<T>(flag: &'static str, value: &str, parse: fn(&str) -> Result<T, String>) -> Result<T, Error> {
    parse(value.trim()).map_err(|reason| Error::Flag { flag, value: value.to_owned(), reason })
}

/// Asks up to [`TRIES`] times. An empty answer is the default, if there is one.
///
/// # Errors
/// `NoAnswer` if stdin ends or no answer is right, `Input` if it cannot be read.
fn ask<T>(
    input: &mut impl BufRead,
    question: &'static str,
    flag: &'static str,
    default: Option<&str>,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, Error> {
    for _ in 0..TRIES {
        let shown = default.map(|default| format!(" [{default}]")).unwrap_or_default();
        eprint!("{question}{shown}: ");
        let mut line = String::new();
        if input.read_line(&mut line).map_err(Error::Input)? == 0 {
            eprintln!();
            break;
        }
        let answer = Some(line.trim()).filter(|answer| !answer.is_empty()).or(default);
        match answer.map(parse) {
            Some(Ok(value)) => return Ok(value),
            Some(Err(reason)) => eprintln!("  {reason}"),
            None => eprintln!("  an answer is needed"),
        }
    }
    Err(Error::NoAnswer { question, flag })
}

/// A host, a pattern, or a URL.
///
/// # Errors
/// The reason, for the user.
fn parse_service(text: &str) -> Result<Service, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(format!("the scheme is {scheme}; write http:// or https://"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A pattern is no host of a URL.
    let uri: Uri = format!("{scheme}://{}", rest.replace('*', "x"))
        .parse()
        .map_err(|error| format!("no host and no URL: {error}"))?;
    if authority.is_empty() || authority.contains('@') || uri.query().is_some() || rest.contains('#') {
        return Err("write a host, or a URL without user, query and fragment".to_owned());
    }
    let own_port = if scheme == "http" { ":80" } else { ":443" };
    let host = authority.to_ascii_lowercase();
    let host = host.strip_suffix(own_port).map(str::to_owned).unwrap_or(host);
    let slash = if rest.ends_with('/') { "" } else { "/" };
    Ok(Service { host, url: format!("{scheme}://{rest}{slash}") })
}

/// `5/1s`, `5 per 800ms`, `100/m`, `10/minute`.
///
/// The numbers are checked with the whole file.
///
/// # Errors
/// The reason, for the user.
fn parse_rate(text: &str) -> Result<RateText, String> {
    let advice = || "write a number of requests and a time, such as 5/1s, 100/m or 10000/1d".to_owned();
    let (requests, per) = text.split_once('/').or_else(|| text.split_once(" per ")).ok_or_else(advice)?;
    let (requests, per) = (requests.trim(), per.trim());
    if requests.is_empty() || !requests.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(advice());
    }
    let unit_at = per.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or_else(advice)?;
    let (number, unit) = per.split_at(unit_at);
    let unit = unit.trim();
    let singular = unit.strip_suffix('s').filter(|rest| rest.len() > 1).unwrap_or(unit);
    let unit = UNIT_NAMES.iter().find(|(name, _)| *name == singular).map_or(unit, |(_, short)| short);
    let number = if number.is_empty() { "1" } else { number };
    // The file has no leading zeros.
    let requests = Some(requests.trim_start_matches('0')).filter(|rest| !rest.is_empty()).unwrap_or("0");
    Ok(RateText { requests: requests.to_owned(), per: format!("{number}{unit}") })
}

/// # Errors
/// The words that are known.
fn parse_mode(text: &str) -> Result<Mode, String> {
    match text.to_ascii_lowercase().as_str() {
        "forward" | "f" => Ok(Mode::Forward),
        "reverse" | "r" => Ok(Mode::Reverse),
        _ => Err("write forward or reverse".to_owned()),
    }
}

/// Writes the file, and makes its folder. An existing file is kept unless it may be replaced,
/// also one that appeared since the first look.
///
/// # Errors
/// `Exists`, `Write`.
fn write_file(path: &Path, text: &str, old_file: OldFile) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    let replace = old_file == OldFile::Replace;
    options.write(true).create_new(!replace).create(replace).truncate(replace);
    match options.open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists(path.to_owned())),
        Err(error) => Err(failed(error)),
    }
}
