//! Reader of TOML tables: reads them key by key, and collects every mistake instead of stopping at the first.
//!
//! Keys that were read are known; all others are reported as unknown at the end of their table.
//!
//! A schema calls [`TomlTable::get`] for each of its keys and thereby declares it; no list of keys
//! exists beside the code that reads them. An unknown key is compared with the known ones, with
//! names of other programs, and with keys of inner tables, to advise what to write.

use toml::de::{DeString, DeTable, DeValue};

use super::report::Reports;
use super::toml_value::{Setting, SourceSpan, Spanned, TomlValue, nearest, type_name};

/// A table of the document. A section that the file leaves out is an empty table.
pub(super) struct TomlTable<'a> {
    /// Collector of the mistakes in the file.
    reports: &'a Reports<'a>,
    /// Name in messages, such as `[[limit]]`; empty for the whole document.
    heading: &'static str,
    /// Place that stands for the table as a whole.
    span: SourceSpan,
    /// `None` if the file has no such table.
    entries: Option<&'a DeTable<'a>>,
    /// Keys that were read.
    known: Vec<&'static str>,
    /// Other names of known keys: `(other name, known key)`.
    synonyms: &'static [(&'static str, &'static str)],
    /// Keys of an inline table of this one: `(key, name of that table)`.
    nested: &'static [(&'static str, &'static str)],
}

impl<'a> TomlTable<'a> {
    /// Synonyms and inner keys come later, by [`TomlTable::suggest`].
    fn new(
        reports: &'a Reports<'a>,
        heading: &'static str,
        span: SourceSpan,
        entries: Option<&'a DeTable<'a>>,
    ) -> TomlTable<'a> {
        TomlTable { reports, heading, span, entries, known: Vec::new(), synonyms: &[], nested: &[] }
    }

    /// The whole document as a table.
    ///
    /// Its unknown keys are sections: messages about them say so.
    pub(super) fn root(reports: &'a Reports<'a>, entries: &'a DeTable<'a>) -> TomlTable<'a> {
        TomlTable::new(reports, "", 0..0, Some(entries))
    }

    /// SourceSpan of the table's header, or of its braces; for the whole document, of its beginning.
    pub(super) fn span(&self) -> SourceSpan {
        self.span.clone()
    }

    /// Reads one key. `read` returns `None` after it has reported a mistake.
    ///
    /// The key is known from here on, also if the file does not have it.
    pub(super) fn get<T>(&mut self, key: &'static str, read: impl FnOnce(&TomlValue<'a>) -> Option<T>) -> Setting<T> {
        match self.lookup(key) {
            None => Setting::Absent,
            Some(item) => match read(&item) {
                Some(value) => Setting::Value(Spanned { value, span: item.span }),
                None => Setting::Invalid,
            },
        }
    }

    /// True if the file has this table.
    pub(super) fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// Reads one section, `[key]`.
    ///
    /// Calls `read` once, with an empty table if the file lacks the section.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        heading: &'static str,
        read: impl FnOnce(&mut TomlTable<'a>) -> T,
    ) -> T {
        let advice = format!("write {heading} on a line of its own, and its keys below");
        self.sub_table(key, heading, &advice, read)
    }

    /// Reads an inline table, `key = { … }`; `example` is a valid one.
    ///
    /// The message about a value of another type shows the example.
    pub(super) fn inline_table<T>(
        &mut self,
        key: &'static str,
        example: &'static str,
        read: impl FnOnce(&mut TomlTable<'a>) -> T,
    ) -> T {
        self.sub_table(key, key, &format!("a table, such as {key} = {example}"), read)
    }

    /// Reports a value that is no table, and reads an empty one in its place.
    fn sub_table<T>(
        &mut self,
        key: &'static str,
        heading: &'static str,
        advice: &str,
        read: impl FnOnce(&mut TomlTable<'a>) -> T,
    ) -> T {
        let (entries, span) = match self.lookup(key) {
            None => (None, self.span()),
            Some(TomlValue { value: DeValue::Table(entries), span, .. }) => (Some(entries), span),
            Some(item) => {
                item.reject::<()>(format_args!("`{key}` is {}", type_name(item.value)), advice);
                (None, item.span)
            }
        };
        read_table(self.reports, heading, span, entries, read)
    }

    /// Reads an array of tables, `[[key]]`.
    ///
    /// Calls `read` for each element. A single `[key]` is reported, and read as one element.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        heading: &'static str,
        read: impl Fn(&mut TomlTable<'a>) -> T,
    ) -> Vec<T> {
        let Some(item) = self.lookup(key) else {
            return Vec::new();
        };
        let advice = format!("write {heading} on a line of its own, and its keys below");
        let elements = match item.value {
            DeValue::Array(elements) => elements.iter().map(|e| (e.get_ref(), e.span())).collect(),
            // Its keys are read all the same: their mistakes are reported in the same run.
            DeValue::Table(_) => {
                item.reject::<()>(format_args!("[{key}] is a single table, and there may be several"), &advice);
                vec![(item.value, item.span.clone())]
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {
                item.reject::<()>(format_args!("`{key}` is {}", type_name(item.value)), &advice);
                Vec::new()
            }
        };
        let read_one = |(value, span): (&'a DeValue<'a>, SourceSpan)| match value.as_table() {
            Some(entries) => Some(read_table(self.reports, heading, span, Some(entries), &read)),
            None => {
                self.reports.error(&span, format_args!("`{key}` holds {}", type_name(value)), &advice);
                None
            }
        };
        elements.into_iter().filter_map(read_one).collect()
    }

    /// Value of a key, which becomes known.
    fn lookup(&mut self, key: &'static str) -> Option<TomlValue<'a>> {
        self.known.push(key);
        let value = self.entries?.get(key)?;
        Some(TomlValue { reports: self.reports, key, value: value.get_ref(), span: value.span() })
    }

    /// Adds suggestions for unknown keys: `(other name, known key)`, and `(key, inline table that has it)`.
    ///
    /// They are for messages only: a synonym is not accepted in place of the key.
    pub(super) fn suggest(
        &mut self,
        synonyms: &'static [(&'static str, &'static str)],
        nested: &'static [(&'static str, &'static str)],
    ) {
        (self.synonyms, self.nested) = (synonyms, nested);
    }

    /// Known keys that unknown keys of the file probably stand for.
    ///
    /// Only meaningful after all keys were read.
    pub(super) fn misspelt_keys(&self) -> Vec<&'static str> {
        self.unknown_keys().filter_map(|key| self.nearest_known(key.get_ref())).collect()
    }

    /// Reports all keys that were not read.
    ///
    /// Consumes the table: no key is read afterwards. Advice, by precedence: the inner table that
    /// has the key, the nearest known key, the list of all known keys.
    pub(super) fn report_unknown_keys(self) {
        for key in self.unknown_keys() {
            let name = key.get_ref();
            let value = self.entries.and_then(|entries| entries.get(name.as_ref()));
            let what = match self.heading {
                "" if value.is_some_and(|value| value.get_ref().is_table()) => format!("unknown section `{name}`"),
                "" => format!("unknown key `{name}` outside of any section"),
                heading => format!("unknown key `{name}` in {heading}"),
            };
            let advice = match (self.outer_table(name), self.nearest_known(name), value) {
                (Some((key, outer)), _, Some(value)) => {
                    format!("write {outer} = {{ {key} = {} }}", self.reports.line_at(&value.span()))
                }
                (_, Some(near), _) => format!("did you mean `{near}`?"),
                _ if self.heading.is_empty() => format!("known sections: {}", self.known.join(", ")),
                _ => format!("known keys: {}", self.known.join(", ")),
            };
            self.reports.error(&key.span(), what, advice);
        }
    }

    /// Keys of the file that were not read.
    fn unknown_keys(&self) -> impl Iterator<Item = &'a toml::Spanned<DeString<'a>>> {
        let keys = self.entries.into_iter().flat_map(|entries| entries.keys());
        keys.filter(|key| !self.known.contains(&key.get_ref().as_ref()))
    }

    /// `None` for a key of an inner table: its advice is that table.
    fn nearest_known(&self, name: &str) -> Option<&'static str> {
        if self.outer_table(name).is_some() {
            return None;
        }
        let synonym = self.synonyms.iter().find(|(other, _)| *other == name).map(|(_, known)| *known);
        synonym.or_else(|| nearest(name, self.known.iter().copied()))
    }

    /// The inline table that a misplaced key belongs in, with that key.
    fn outer_table(&self, name: &str) -> Option<(&'static str, &'static str)> {
        self.nested.iter().copied().find(|(key, _)| *key == name)
    }
}

/// Reads one table, and reports the keys that `read` did not ask for.
fn read_table<'a, T>(
    reports: &'a Reports<'a>,
    heading: &'static str,
    span: SourceSpan,
    entries: Option<&'a DeTable<'a>>,
    read: impl FnOnce(&mut TomlTable<'a>) -> T,
) -> T {
    let mut table = TomlTable::new(reports, heading, span, entries);
    let value = read(&mut table);
    table.report_unknown_keys();
    value
}
