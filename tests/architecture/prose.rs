//! Prose of comments: shares of lines that begin with a wh-clause or speak of persons, and the share of doc lines.
//!
//! The rules are simple, so that the counts can be repeated by hand. A comment line is a line of `src` outside of tests
//! that has only a comment (`//`, `///`, `//!`) with some text in it.

use super::File;
use super::syntax::{Facts, sources};

/// First words that make a clause the subject of a comment ("What is there is read at once").
const CLAUSES: [&str; 12] =
    ["What", "Who", "Whose", "Whom", "Whether", "How", "When", "Where", "Why", "Which", "Whoever", "Whatever"];

/// Words for persons, where a process, a thread or a request is meant. In any case, as words of their own.
const PERSONS: [&str; 8] = ["whoever", "nobody", "somebody", "anybody", "everybody", "who", "whom", "whose"];

/// Bounds per mille of comment lines; quinn, governor, mini-redis and hudsucker have 5 to 28, and 0 to 3.
const MOST_CLAUSES: usize = 30;
const MOST_PERSONS: usize = 5;

/// Bound in percent of all lines; governor and mini-redis have 28 and 29.
const FEWEST_DOCS: usize = 20;

/// Numbers of files, and of lines in each, that a message lists.
const LISTED_FILES: usize = 15;
const LISTED_LINES: usize = 3;

/// Counts of one file.
#[derive(Default)]
struct Counts {
    path: String,
    /// All lines but those of unit tests.
    lines: usize,
    comments: usize,
    docs: usize,
    /// Comment lines, with their numbers, that break the rule at hand.
    found: Vec<(usize, String)>,
}

/// Comment lines that begin with What, Who, Whether, How, When, Which, …
pub(super) fn clauses(files: &[File]) -> Vec<String> {
    let counts = count(files, |text| {
        let first: String = text.chars().take_while(|c| is_word(*c)).collect();
        CLAUSES.contains(&first.as_str())
    });
    too_many(counts, MOST_CLAUSES, "wh-clause", "begin with a wh-clause", "begin with a noun or a verb")
}

#[test]
fn comments_begin_with_nouns_and_verbs() {
    super::hold(clauses, &["src"]);
}

/// Comment lines that speak of persons.
pub(super) fn persons(files: &[File]) -> Vec<String> {
    let counts =
        count(files, |text| text.split(|c| !is_word(c)).any(|word| PERSONS.contains(&word.to_lowercase().as_str())));
    too_many(counts, MOST_PERSONS, "persons", "speak of persons", "name the process, thread, request or connection")
}

#[test]
fn comments_do_not_speak_of_persons() {
    super::hold(persons, &["src"]);
}

/// Doc lines (`///`, `//!`) as a share of all lines.
pub(super) fn docs(files: &[File]) -> Vec<String> {
    let mut counts = count(files, |_| false);
    let docs: usize = counts.iter().map(|file| file.docs).sum();
    let lines: usize = counts.iter().map(|file| file.lines).sum();
    if docs * 100 >= lines * FEWEST_DOCS {
        return Vec::new();
    }
    let missing = |file: &Counts| (file.lines * FEWEST_DOCS).saturating_sub(file.docs * 100);
    counts.sort_by_key(|file| std::cmp::Reverse(missing(file)));
    let mut message = format!(
        "{}:1: docs: {docs} of {lines} lines are docs ({}), at least {FEWEST_DOCS} %; document meaning, unit, \
         range and errors of fields, types and functions",
        counts[0].path,
        share(docs, lines)
    );
    for file in counts.iter().take(LISTED_FILES).filter(|file| missing(file) > 0) {
        message +=
            &format!("\n  {}: {} of {} lines ({})", file.path, file.docs, file.lines, share(file.docs, file.lines));
    }
    vec![message]
}

#[test]
fn a_fifth_of_the_lines_are_docs() {
    super::hold(docs, &["src"]);
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `part` of `whole` with one decimal: `12.5 %`.
fn share(part: usize, whole: usize) -> String {
    let permille = (part * 1000).checked_div(whole).unwrap_or(0);
    format!("{}.{} %", permille / 10, permille % 10)
}

fn count(files: &[File], breaks: fn(&str) -> bool) -> Vec<Counts> {
    sources(files).iter().map(|(file, facts)| count_file(file, facts, breaks)).collect()
}

fn count_file(file: &File, facts: &Facts, breaks: fn(&str) -> bool) -> Counts {
    let mut counts = Counts { path: file.path.clone(), ..Counts::default() };
    for (line, text) in (1..).zip(file.text.lines()) {
        if facts.test_lines.iter().any(|lines| lines.contains(&line)) {
            continue;
        }
        counts.lines += 1;
        let Some(comment) = text.trim_start().strip_prefix("//") else {
            continue;
        };
        let doc = comment.strip_prefix(['/', '!']);
        counts.docs += usize::from(doc.is_some());
        let comment = doc.unwrap_or(comment);
        let comment = comment.strip_prefix(' ').unwrap_or(comment);
        if comment.trim().is_empty() {
            continue;
        }
        counts.comments += 1;
        if breaks(comment) {
            counts.found.push((line, comment.to_owned()));
        }
    }
    counts
}

/// One message with the worst files and their first lines, if more than `most` per mille of the comment lines were found.
fn too_many(mut counts: Vec<Counts>, most: usize, rule: &str, fault: &str, mend: &str) -> Vec<String> {
    let found: usize = counts.iter().map(|file| file.found.len()).sum();
    let comments: usize = counts.iter().map(|file| file.comments).sum();
    if found * 1000 < comments * most || found == 0 {
        return Vec::new();
    }
    counts.sort_by_key(|file| std::cmp::Reverse(file.found.len()));
    let first = counts[0].found[0].0;
    let mut message = format!(
        "{}:{first}: {rule}: {found} of {comments} comment lines ({}) {fault}, under {} are allowed; {mend}",
        counts[0].path,
        share(found, comments),
        share(most, 1000)
    );
    for file in counts.iter().take(LISTED_FILES).filter(|file| !file.found.is_empty()) {
        message += &format!("\n  {}: {} of {}", file.path, file.found.len(), file.comments);
        for (line, text) in file.found.iter().take(LISTED_LINES) {
            message += &format!("\n    {line}: {text}");
        }
    }
    vec![message]
}
