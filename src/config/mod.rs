//! Reader of the configuration: parses `proxy.toml`, checks it, and builds the settings of all
//! modules.
//!
//! It never knows how anything runs: it opens no socket and starts no task. Each module below owns
//! its `Settings` type; this one builds the values. Settings need no further checks.
//!
//! | files | hold |
//! |---|---|
//! | `toml_table`, `toml_value` | readers of TOML tables and values that report every mistake |
//! | `schema`, `*_schema` | the shape of the file: one place per setting, with its key, form and default |
//! | `value_parsers`, `duration` | parsers of strings: hosts, addresses, durations |
//! | `validate`, `*_check`, `address_rules`, `folders`, `listeners` | constraints between several settings |
//! | `lint` | warnings about settings with less effect than they seem to have |
//! | `zmq` | schema and checks of `[zmq]` |
//! | `explain`, `report` | sentences and mistakes, for users |
//! | `edit` | changes of a limit in the text of the file |
//! | `limit_diff` | differences between the limits of two files |
//!
//! All mistakes of a file are reported at once, each with its line and with what would be valid.
//!
//! Steps of [`read`]: read the bytes as UTF-8, parse TOML, read each section key by key (`schema`),
//! report unknown keys, check what several keys must have in common (`validate`), sort the reports
//! by their place. Errors leave no settings; warnings come with them.

mod access_schema;
mod address_rules;
mod balancer_schema;
mod cert_pair_schema;
mod checked_settings;
mod duration;
pub mod edit;
mod explain;
mod folders;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod limit_check;
mod limit_diff;
mod limit_schema;
mod lint;
mod listeners;
mod parent_check;
mod parent_schema;
mod process_schema;
mod report;
mod schema;
mod store_check;
mod store_schema;
#[cfg(test)]
mod tests;
mod timeouts_schema;
mod tls_check;
mod toml_table;
mod toml_value;
mod trace_check;
pub(crate) mod users;
mod validate;
mod value_parsers;
mod zmq;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use self::checked_settings::{Admin, Locks, MetricsExport, Settings};
pub use self::limit_diff::changed_limits;
pub use self::report::{Report, Severity};

use self::report::{Reports, SourceText};
use self::schema::ConfigFile;
use self::toml_table::TomlTable;
use crate::tls::ca;

/// Smallest useful file, shown for a file that is empty or no TOML.
const SMALLEST: &str = "\
the smallest useful file is

    [[limit]]
    match    = { host = \"api.example.com\" }
    requests = 5
    per      = \"1s\"";

/// Reason why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not exist, or cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The file has mistakes: all of them, in the order of the file.
    #[error("{}", join_reports(.0))]
    Invalid(Vec<Report>),
}

/// Reads and checks a file. Relative paths in it start at its folder.
///
/// Also reads the files that it names: users, certificates, roots and the store's password. Blocks
/// the thread; a reload calls it on a thread for blocking work.
///
/// # Errors
/// `Read` if the file cannot be read, `Invalid` with every mistake in it.
pub fn read(path: &Path) -> Result<Settings, Error> {
    let source = load(path)?;
    parse(&source, parent_folder(path)).map_err(Error::Invalid)
}

/// Checks a text as if it were the content of the file at `path`. The file itself is not read.
///
/// Used for changes by the admin API, which exist in memory before they are saved.
///
/// # Errors
/// `Invalid` with every mistake in the text.
pub fn read_text(path: &Path, text: String) -> Result<Settings, Error> {
    parse(&SourceText::new(path.display().to_string(), text), parent_folder(path)).map_err(Error::Invalid)
}

/// Reads the settings of the authority alone, whatever state its files are in. It covers nothing if
/// no host is intercepted.
///
/// Used by `lockgate ca`, which must work while the authority is missing or broken.
///
/// # Errors
/// `Read` if the file cannot be read, `Invalid` with the mistakes that can be found without any
/// other file.
pub fn authority(path: &Path) -> Result<ca::Settings, Error> {
    let source = load(path)?;
    let document = parse_document(&source).map_err(Error::Invalid)?;
    let reports = Reports::new(&source);
    let mut root = TomlTable::root(&reports, document.get_ref());
    let file = ConfigFile::read(&mut root);
    root.report_unknown_keys();
    let authority = tls_check::authority(&file.tls, parent_folder(path));
    let reports = reports.into_vec();
    if reports.is_empty() { Ok(authority) } else { Err(Error::Invalid(reports)) }
}

/// Reads the path of the users file, which need not exist; `None` if the file names none.
///
/// Used by `lockgate user add`, which may have to create the file. Mistakes elsewhere in the
/// configuration do not matter for it.
///
/// # Errors
/// `Read` if the file cannot be read, `Invalid` if it is not TOML.
pub fn users_file(path: &Path) -> Result<Option<PathBuf>, Error> {
    let source = load(path)?;
    let document = parse_document(&source).map_err(Error::Invalid)?;
    let reports = Reports::new(&source);
    let file = ConfigFile::read(&mut TomlTable::root(&reports, document.get_ref()));
    Ok(file.access.users.get().map(|at| parent_folder(path).join(&at.value)))
}

/// Reason of an [`enum@Error`] for an audit line, by the text that it displays: the place of the first mistake alone,
/// because the text shows lines of the file; else the first line.
pub fn brief(error: &str) -> String {
    let place = error.lines().find_map(|line| line.trim_start().strip_prefix("--> "));
    place.map_or_else(|| error.lines().next().unwrap_or_default().to_owned(), |place| format!("invalid at {place}"))
}

/// Folder of a file; empty, which stands for the working directory, for a bare name.
fn parent_folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Reads the file as UTF-8.
///
/// A byte that is no UTF-8 is reported with its line.
fn load(path: &Path) -> Result<SourceText, Error> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(SourceText::new(name, text)),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let source = SourceText::new(name, String::from_utf8_lossy(error.as_bytes()).into_owned());
            let report =
                source.error(&(good..good + 1), "this is not UTF-8".to_owned(), "save the file as UTF-8".to_owned());
            Err(Error::Invalid(vec![report]))
        }
    }
}

/// Checks a text and builds its settings. `folder`: where relative paths start.
///
/// An empty document is an error: a gateway that limits nothing is not what its file was written
/// for.
fn parse(source: &SourceText, folder: &Path) -> Result<Settings, Vec<Report>> {
    let document = parse_document(source)?;
    if document.get_ref().is_empty() {
        let nothing = "this file sets nothing".to_owned();
        return Err(vec![source.error(&(0..0), nothing, SMALLEST.to_owned())]);
    }
    let reports = Reports::new(source);
    let mut root = TomlTable::root(&reports, document.get_ref());
    let file = ConfigFile::read(&mut root);
    root.report_unknown_keys();
    if file.limits.is_empty() {
        reports.warn(&(0..0), "there is no [[limit]], so everything goes at once", SMALLEST);
    }
    let mut settings = validate::validate(file, folder, &reports);
    let mut reports = reports.into_vec();
    // In the order of the file; mistakes in other files come last.
    reports.sort_by_key(|report| (report.file != source.name(), report.line, report.column));
    let (errors, warnings) = reports.into_iter().partition::<Vec<_>, _>(|r| r.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(errors);
    }
    settings.proxy.warnings = warnings.iter().map(Report::to_warning).collect();
    Ok(Settings { warnings, text: source.text().into(), ..settings })
}

/// Parses the text as TOML, and reports every syntax error that the parser recovers from.
///
/// JSON is told by its brace, because the parser's own message would not help.
fn parse_document(source: &SourceText) -> Result<toml::Spanned<DeTable<'_>>, Vec<Report>> {
    // No TOML document begins with a brace.
    if let Some(at) =
        source.text().find(|c: char| !c.is_whitespace()).filter(|at| source.text()[*at..].starts_with('{'))
    {
        let message = "this is JSON, and the configuration is TOML".to_owned();
        return Err(vec![source.error(&(at..at + 1), message, SMALLEST.to_owned())]);
    }
    let (document, errors) = DeTable::parse_recoverable(source.text());
    let report = |error: &toml::de::Error| syntax_error(source, error);
    let mut reports: Vec<_> = errors.iter().map(report).collect();
    // One slip may cause several errors in its line; the first names the cause.
    reports.sort_by_key(|report| (report.line, report.column));
    reports.dedup_by_key(|report| report.line);
    if reports.is_empty() { Ok(document) } else { Err(reports) }
}

/// Turns an error of the parser into a report, with advice for users new to TOML.
///
/// The parser's message is split at `, expected `: the second half becomes the advice.
fn syntax_error(source: &SourceText, error: &toml::de::Error) -> Report {
    let end = source.text().len();
    let span = error.span().unwrap_or(end..end);
    let written = source.text().get(span.clone()).unwrap_or_default().trim();
    let (message, expected) = error.message().split_once(", expected ").unwrap_or((error.message(), ""));
    let (message, advice) = match (message, expected) {
        ("string values must be quoted", _) if written.is_empty() => {
            ("a value is missing", "such as \"1s\", 5 or true".to_owned())
        }
        ("string values must be quoted", _) => (message, format!("write \"{written}\"")),
        ("duplicate key", _) => (message, "leave one of them out".to_owned()),
        (_, "nothing") => (message, "leave this out, or put all of it in quotes".to_owned()),
        (_, "") => (message, "see https://toml.io for how values are written".to_owned()),
        _ => (message, format!("expected {expected}")),
    };
    source.error(&span, message.to_owned(), advice)
}

/// All reports with their number.
///
/// Last line: `1 error`, or `3 errors`.
fn join_reports(reports: &[Report]) -> String {
    let count = match reports {
        [_] => "1 error".to_owned(),
        _ => format!("{} errors", reports.len()),
    };
    let shown: Vec<_> = reports.iter().map(Report::to_string).collect();
    format!("{}\n{count}", shown.join("\n"))
}
