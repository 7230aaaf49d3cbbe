//! Report of a mistake in a file: its place, the line itself, and advice.
//!
//! Spans are ranges of bytes of the text; lines and columns are computed when a report is made. The
//! shown line has no credentials and no control characters, because reports end up in terminals,
//! logs and the dashboard.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::Range;

use crate::proxy::warning::Warning;

/// Text of a file, with the file's name for messages.
#[derive(Clone, Debug)]
pub(super) struct SourceText {
    /// Path as the command line gives it.
    name: String,
    /// The whole content, in UTF-8.
    text: String,
}

/// Collector of the reports about a file, while it is read.
pub(super) struct Reports<'a> {
    /// The file that all spans refer to.
    source: &'a SourceText,
    /// Reports in the order of the checks. A cell, since the readers of tables share the collector.
    list: RefCell<Vec<Report>>,
}

/// A mistake, or a setting that is allowed but hardly intended.
///
/// ```text
/// error: unknown key `pers` in [[limit]]
///   --> proxy.toml:4:1
///    |
///  4 | pers = "1s"
///    | ^^^^ did you mean `per`?
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Error or warning.
    pub severity: Severity,
    /// Name of the file, as the command line gives it.
    pub file: String,
    /// Line number, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The mistake.
    pub message: String,
    /// Advice: what would be valid. May have several lines.
    pub advice: String,
    /// The whole line, without credentials in a URL.
    text: String,
    /// Number of characters under which carets stand, at least 1.
    width: usize,
}

/// Consequence of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The file is refused.
    ///
    /// Nothing of a file with an error is put in force.
    Error,
    /// The file is accepted.
    ///
    /// Shown at the start and in the dashboard.
    Warning,
}

impl SourceText {
    /// `name` is shown only, never opened.
    pub(super) fn new(name: String, text: String) -> SourceText {
        SourceText { name, text }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Makes an error at `span`, a range of bytes of the text.
    pub(super) fn error(&self, span: &Range<usize>, message: String, advice: String) -> Report {
        self.report(Severity::Error, span, message, advice)
    }

    /// Makes a warning, as [`SourceText::error`] makes an error.
    pub(super) fn warning(&self, span: &Range<usize>, message: String, advice: String) -> Report {
        self.report(Severity::Warning, span, message, advice)
    }

    /// A span beyond the text counts as its end; one within a character begins with that character.
    fn report(&self, severity: Severity, span: &Range<usize>, message: String, advice: String) -> Report {
        let start = floor_char(&self.text, span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = &self.text[line_start..];
        let line_end = line_start + rest.find('\n').unwrap_or(rest.len());
        // Of a place over several lines the first is shown.
        let end = floor_char(&self.text, span.end).clamp(start, line_end.max(start));
        Report {
            severity,
            file: self.name.clone(),
            line: before.matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            message,
            advice,
            text: mask_credentials(self.text[line_start..line_end].trim_end()),
            width: self.text[start..end].trim_end().chars().count().max(1),
        }
    }
}

impl Report {
    /// The report as a warning of the dashboard.
    ///
    /// Drops the line of the file and the width of the carets.
    pub(super) fn to_warning(&self) -> Warning {
        let Report { file, line, column, message, advice, .. } = self.clone();
        Warning { file, line, column, message, advice }
    }
}

impl<'a> Reports<'a> {
    pub(super) fn new(source: &'a SourceText) -> Reports<'a> {
        Reports { source, list: RefCell::new(Vec::new()) }
    }

    /// Adds an error at `span`, a range of bytes of the text.
    pub(super) fn error(&self, span: &Range<usize>, message: impl Display, advice: impl Display) {
        let report = self.source.error(span, message.to_string(), advice.to_string());
        self.push(report);
    }

    /// Adds a warning at `span`.
    pub(super) fn warn(&self, span: &Range<usize>, message: impl Display, advice: impl Display) {
        self.push(self.warning(span, message, advice));
    }

    /// A warning that is not added.
    ///
    /// Used where a warning depends on the user of the process, and is shown by `lockgate check`
    /// alone.
    pub(super) fn warning(&self, span: &Range<usize>, message: impl Display, advice: impl Display) -> Report {
        self.source.warning(span, message.to_string(), advice.to_string())
    }

    /// Adds a report, also one about another file.
    ///
    /// Of a users file, for instance.
    pub(super) fn push(&self, report: Report) {
        self.list.borrow_mut().push(report);
    }

    /// The first line of the text at `span`, without credentials in a URL.
    ///
    /// Quoted in advice that moves a value elsewhere.
    pub(super) fn line_at(&self, span: &Range<usize>) -> String {
        mask_credentials(self.source.text().get(span.clone()).and_then(|text| text.lines().next()).unwrap_or_default())
    }

    /// All reports, in the order in which they were added.
    pub(super) fn into_vec(self) -> Vec<Report> {
        self.list.into_inner()
    }
}

#[cfg(test)]
impl Report {
    /// Number of characters under which carets stand.
    pub(super) fn width(&self) -> usize {
        self.width
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let gutter = self.line.to_string().len() + 1;
        writeln!(out, "{kind}: {}", printable(&self.message))?;
        writeln!(out, "{:gutter$}--> {}:{}:{}", "", self.file, self.line, self.column)?;
        writeln!(out, "{:gutter$} |", "")?;
        writeln!(out, "{:>gutter$} | {}", self.line, printable(&self.text))?;
        let indent: String = self
            .text
            .chars()
            .chain(std::iter::repeat(' '))
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = "^".repeat(self.width);
        let mut advice = self.advice.split('\n').map(printable);
        writeln!(out, "{:gutter$} | {indent}{carets} {}", "", advice.next().unwrap_or_default())?;
        advice.try_for_each(|line| writeln!(out, "{:gutter$} | {line}", ""))
    }
}

/// The nearest start of a character at or before the byte `at`.
fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The line with asterisks for a user name and password in a URL: reports are shown and logged.
///
/// The first `://` of the line counts, and the text from there to the next `@`.
fn mask_credentials(line: &str) -> String {
    let found = line.find("://").map(|at| at + 3).and_then(|from| Some((from, from + line[from..].find('@')?)));
    let Some((from, to)) = found else { return line.to_owned() };
    let veil: String = line[from..to].chars().map(|_| '*').collect();
    format!("{}{veil}{}", &line[..from], &line[to..])
}

/// The line with control characters replaced: they could move the cursor of a terminal, or change its colours.
///
/// A tab stays, since the line of carets copies it.
fn printable(text: &str) -> String {
    let hide = |c: char| {
        if c.is_control() && c != '\t' { '\u{fffd}' } else { c }
    };
    text.chars().map(hide).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceText {
        SourceText::new("proxy.toml".to_owned(), text.to_owned())
    }

    #[test]
    fn a_report_shows_the_line_a_caret_and_what_would_be_right() {
        let report = source("[log]\npers = \"1s\"\n").error(
            &(6..10),
            "unknown key `pers`".to_owned(),
            "did you mean `per`?".to_owned(),
        );
        let shown = "error: unknown key `pers`\n  --> proxy.toml:2:1\n   |\n 2 | pers = \"1s\"\n   | ^^^^ did you mean `per`?\n";
        assert_eq!(report.to_string(), shown);
    }

    #[test]
    fn columns_count_characters_and_tabs_keep_the_caret_in_place() {
        let text = "\tä = \"ö\" # \u{1b}[31m\r\n";
        let at = text.find('"').unwrap();
        let report = source(text).error(&(at..at + 4), "m".to_owned(), "a".to_owned());
        assert_eq!((report.line, report.column, report.width), (1, 6, 3));
        let shown = report.to_string();
        assert!(shown.contains("\n   | \t    ^^^ a\n"), "{shown}");
        assert!(!shown.contains('\u{1b}') && !shown.contains('\r'), "{shown:?}");
    }

    #[test]
    fn a_place_over_several_lines_is_shown_by_its_first() {
        let report = source("a = [\n1]\n").error(&(4..8), "m".to_owned(), "a\nb\nc".to_owned());
        assert_eq!((report.line, report.column, report.width), (1, 5, 1));
        assert!(report.to_string().ends_with("   |     ^ a\n   | b\n   | c\n"));
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let text = "url = \"redis://ada:secret@host:1\"";
        let shown = source(text).error(&(6..text.len()), "m".to_owned(), "a".to_owned()).to_string();
        assert!(shown.contains("redis://**********@host:1") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_place_past_the_end_is_the_end() {
        let report = source("a").error(&(9..9), "m".to_owned(), "a".to_owned());
        assert_eq!((report.line, report.column), (1, 2));
        let report = source("").warning(&(0..0), "m".to_owned(), "a".to_owned());
        assert!(report.to_string().starts_with("warning: m\n  --> proxy.toml:1:1\n"));
    }
}
