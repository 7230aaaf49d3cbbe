//! READS `proxy.toml`: from what was written to settings that need no checking again.
//!
//! It never knows how anything runs: it opens no socket and starts no task. Each room owns its
//! `Settings`; this room stands above them and builds them.
//!
//! `file` and the `_schema` files are the shape of the file (one place per setting: key, form, default),
//! `check` and `limit` hold what several settings must agree on, `lint` warns of settings with less effect than they seem
//! to have, `report` shows a mistake. All mistakes of a file are reported at once.

mod access_schema;
mod address_rules;
mod duration;
pub mod edit;
mod explain;
mod folders;
mod limit_check;
mod limit_schema;
mod lint;
mod listeners;
mod process_schema;
mod report;
mod schema;
mod settings;
mod store_check;
mod store_schema;
#[cfg(test)]
mod tests;
mod tls_check;
mod toml_table;
mod toml_value;
pub(crate) mod users;
mod validate;
mod value_parsers;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use self::report::{Report, Severity};
pub use self::settings::{Admin, Locks, Settings};

use self::report::{Reports, SourceText};
use self::schema::ConfigFile;
use self::toml_table::TomlTable;
use crate::tls::ca;

/// The smallest file that is of use, for those whose file is empty.
const SMALLEST: &str = "\
the smallest useful file is

    [[limit]]
    match    = { host = \"api.example.com\" }
    requests = 5
    per      = \"1s\"";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there, or may not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file says what cannot be; every mistake, in the order of the file.
    #[error("{}", join_reports(.0))]
    Invalid(Vec<Report>),
}

/// Reads and checks a file. Paths in it are relative to its folder.
///
/// # Errors
/// `Read` if there is no such file, `Invalid` with all that is wrong in it.
pub fn read(path: &Path) -> Result<Settings, Error> {
    let source = load(path)?;
    parse(&source, parent_folder(path)).map_err(Error::Invalid)
}

/// As [`read`], of a text that stands for the file's.
///
/// # Errors
/// `Invalid` with all that is wrong in it.
pub fn read_text(path: &Path, text: String) -> Result<Settings, Error> {
    parse(&SourceText::new(path.display().to_string(), text), parent_folder(path)).map_err(Error::Invalid)
}

/// The authority that the file names, in whatever state its files are; it covers nothing if no host is intercepted.
///
/// # Errors
/// `Read` if there is no such file, `Invalid` with what is wrong in it, as far as that needs no other file.
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

/// The users file that the file names, whether it is there or not.
///
/// # Errors
/// `Read` if there is no such file, `Invalid` if it is not TOML.
pub fn users_file(path: &Path) -> Result<Option<PathBuf>, Error> {
    let source = load(path)?;
    let document = parse_document(&source).map_err(Error::Invalid)?;
    let reports = Reports::new(&source);
    let file = ConfigFile::read(&mut TomlTable::root(&reports, document.get_ref()));
    Ok(file.access.users.get().map(|at| parent_folder(path).join(&at.value)))
}

fn parent_folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

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
    // In the order of the file, with what is wrong in other files after it.
    reports.sort_by_key(|report| (report.file != source.name(), report.line, report.column));
    let (errors, warnings) = reports.into_iter().partition::<Vec<_>, _>(|r| r.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(errors);
    }
    settings.proxy.warnings = warnings.iter().map(Report::to_warning).collect();
    Ok(Settings { warnings, text: source.text().into(), ..settings })
}

/// Splits the text into keys and values; syntax errors are reported, all that the parser recovers from.
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
    // One slip may trip the parser several times in its line; the first says what it is.
    reports.sort_by_key(|report| (report.line, report.column));
    reports.dedup_by_key(|report| report.line);
    if reports.is_empty() { Ok(document) } else { Err(reports) }
}

/// What the parser found, with advice for those who do not know TOML by heart.
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

fn join_reports(reports: &[Report]) -> String {
    let count = match reports {
        [_] => "1 error".to_owned(),
        _ => format!("{} errors", reports.len()),
    };
    let shown: Vec<_> = reports.iter().map(Report::to_string).collect();
    format!("{}\n{count}", shown.join("\n"))
}
