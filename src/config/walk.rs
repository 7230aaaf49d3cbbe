//! Reads a TOML document key by key, and notes every mistake instead of stopping at the first.
//!
//! What is read is known; what nobody read when a table ends is an unknown key.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::item::{At, Item, Place, Written, kind, nearest};
use super::report::Reader;

/// One table of the document. A section that the file leaves out is an empty table.
pub(super) struct Table<'a> {
    reader: &'a Reader<'a>,
    heading: &'static str,
    place: Place,
    entries: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The whole document as a table.
    pub(super) fn root(reader: &'a Reader<'a>, entries: &'a DeTable<'a>) -> Table<'a> {
        Table { reader, heading: "", place: 0..0, entries: Some(entries), known: Vec::new() }
    }

    /// Where the table begins: its header, or its brace.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    /// One key. `read` reports what is wrong and then returns `None`.
    pub(super) fn get<T>(&mut self, key: &'static str, read: impl FnOnce(&Item<'a>) -> Option<T>) -> Written<T> {
        match self.take(key) {
            None => Written::Absent,
            Some(item) => match read(&item) {
                Some(value) => Written::Value(At { value, place: item.place }),
                None => Written::Wrong,
            },
        }
    }

    /// Whether the file has it.
    pub(super) fn is_there(&self) -> bool {
        self.entries.is_some()
    }

    /// One section, `[key]`.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        heading: &'static str,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> T {
        let right = format!("write {heading} on a line of its own, and its keys below");
        self.sub_table(key, heading, &right, read)
    }

    /// One table in a line, `key = { … }`, such as the example shows.
    pub(super) fn inline<T>(
        &mut self,
        key: &'static str,
        example: &'static str,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> T {
        self.sub_table(key, key, &format!("a table, such as {key} = {example}"), read)
    }

    fn sub_table<T>(
        &mut self,
        key: &'static str,
        heading: &'static str,
        right: &str,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> T {
        let (entries, place) = match self.take(key) {
            None => (None, self.place()),
            Some(Item { value: DeValue::Table(entries), place, .. }) => (Some(entries), place),
            Some(item) => {
                item.wrong::<()>(format_args!("`{key}` is {}", kind(item.value)), right);
                (None, item.place)
            }
        };
        read_table(self.reader, heading, place, entries, read)
    }

    /// A list of tables, `[[key]]`.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        heading: &'static str,
        read: impl Fn(&mut Table<'a>) -> T,
    ) -> Vec<T> {
        let Some(item) = self.take(key) else {
            return Vec::new();
        };
        let right = format!("write {heading} on a line of its own, and its keys below");
        let elements = match item.value {
            DeValue::Array(elements) => elements.iter().map(|e| (e.get_ref(), e.span())).collect(),
            // Its keys are read all the same, so that their mistakes are told in the same run.
            DeValue::Table(_) => {
                item.wrong::<()>(format_args!("[{key}] is a single table, and there may be several"), &right);
                vec![(item.value, item.place.clone())]
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {
                item.wrong::<()>(format_args!("`{key}` is {}", kind(item.value)), &right);
                Vec::new()
            }
        };
        let read_one = |(value, place): (&'a DeValue<'a>, Place)| match value.as_table() {
            Some(entries) => Some(read_table(self.reader, heading, place, Some(entries), &read)),
            None => {
                self.reader.error(&place, format_args!("`{key}` holds {}", kind(value)), &right);
                None
            }
        };
        elements.into_iter().filter_map(read_one).collect()
    }

    fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let value = self.entries?.get(key)?;
        Some(Item { reader: self.reader, key, value: value.get_ref(), place: value.span() })
    }

    /// The keys that were probably meant by those that nobody has read so far.
    pub(super) fn meant(&self) -> Vec<&'static str> {
        self.strays().filter_map(|key| self.near(key.get_ref())).collect()
    }

    /// Reports the keys that nobody read.
    pub(super) fn end(self) {
        for key in self.strays() {
            let name = key.get_ref();
            let is_table = self.entries.and_then(|e| e.get(name.as_ref())).is_some_and(|v| v.get_ref().is_table());
            let what = match self.heading {
                "" if is_table => format!("unknown section `{name}`"),
                "" => format!("unknown key `{name}` outside of any section"),
                heading => format!("unknown key `{name}` in {heading}"),
            };
            let advice = match self.near(name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there is {}", self.known.join(", ")),
            };
            self.reader.error(&key.span(), what, advice);
        }
    }

    fn strays(&self) -> impl Iterator<Item = &'a Spanned<DeString<'a>>> {
        let keys = self.entries.into_iter().flat_map(|entries| entries.keys());
        keys.filter(|key| !self.known.contains(&key.get_ref().as_ref()))
    }

    fn near(&self, name: &str) -> Option<&'static str> {
        nearest(name, self.known.iter().copied())
    }
}

/// Reads one table, and reports the keys that `read` did not ask for.
fn read_table<'a, T>(
    reader: &'a Reader<'a>,
    heading: &'static str,
    place: Place,
    entries: Option<&'a DeTable<'a>>,
    read: impl FnOnce(&mut Table<'a>) -> T,
) -> T {
    let mut table = Table { reader, heading, place, entries, known: Vec::new() };
    let value = read(&mut table);
    table.end();
    value
}
