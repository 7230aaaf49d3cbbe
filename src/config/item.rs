//! One value of the file: read as what it should be, or reported with what would be right.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::DeValue;

use super::report::Reader;
use super::span;

/// Where something stands in the file, in bytes.
pub(super) type Place = Range<usize>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What the file says about one key.
#[derive(Clone, Debug)]
pub(super) enum Written<T> {
    /// Nothing: the default holds.
    Absent,
    /// Something that is wrong, and reported already: no more is said about it.
    Wrong,
    /// This.
    Value(At<T>),
}

/// One value of a table, or one element of a list.
pub(super) struct Item<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) key: &'static str,
    pub(super) value: &'a DeValue<'a>,
    pub(super) place: Place,
}

impl<T> Written<T> {
    /// The value, if there is one to work with.
    pub(super) fn get(&self) -> Option<&At<T>> {
        match self {
            Written::Value(at) => Some(at),
            Written::Absent | Written::Wrong => None,
        }
    }

    /// The value, or the default where there is none. What is wrong never reaches a setting: the
    /// report about it keeps the file from being accepted.
    pub(super) fn or(self, default: T) -> T {
        match self {
            Written::Value(at) => at.value,
            Written::Absent | Written::Wrong => default,
        }
    }

    /// Takes the key as written, but with a slip: that it is missing is not another mistake.
    pub(super) fn misspelt(&mut self) {
        if self.is_absent() {
            *self = Written::Wrong;
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Written::Absent)
    }
}

impl<'a> Item<'a> {
    /// Reports this value. Returns `None`, so that a reader can end with it.
    pub(super) fn wrong<T>(&self, message: impl Display, advice: impl Display) -> Option<T> {
        self.reader.error(&self.place, message, advice);
        None
    }

    /// Reports that this value is of another type, or says nothing that we know.
    fn not<T>(&self, right: impl Display) -> Option<T> {
        match self.value {
            DeValue::String(text) => self.wrong(format_args!("`{}` cannot be {text:?}", self.key), right),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
                self.wrong(format_args!("`{}` cannot be {}", self.key, kind(self.value)), right)
            }
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.wrong(format_args!("`{}` cannot be {}", self.key, kind(self.value)), right)
            }
        }
    }

    /// A string that `parse` understands; `right` says which strings it does.
    pub(super) fn parse<T>(&self, right: impl Display, parse: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        match self.value.as_str().and_then(parse) {
            Some(value) => Some(value),
            None => self.not(right),
        }
    }

    /// The string, if it is one; no report if not.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Whether it is a number; no report if not.
    pub(super) fn is_number(&self) -> bool {
        self.value.is_integer()
    }

    /// A string such as "250ms" within the range.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let right = format!(
            "a duration in ms, s, m, h or d, such as \"250ms\" or \"1m\", from {} to {}",
            span::show(*range.start()),
            span::show(*range.end())
        );
        self.parse(right, |text| span::parse(text).filter(|value| range.contains(value)))
    }

    /// A whole number within the range.
    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let right = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(digits) = self.value.as_integer() else {
            return self.not(right);
        };
        let parsed = u32::from_str_radix(digits.as_str(), digits.radix()).ok();
        match parsed.filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => self.wrong(format_args!("`{}` cannot be {digits}", self.key), right),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.value.as_bool() {
            Some(value) => Some(value),
            None => self.not("true or false"),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Clone>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let names = words.iter().map(|(name, _)| *name);
        let right = match self.as_text().and_then(|text| nearest(text, names.clone())) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => one_of(names),
        };
        self.parse(right, |text| words.iter().find(|(name, _)| *name == text).map(|(_, value)| value.clone()))
    }

    /// The elements of a list, or the one value that stands for a list of one. `None` only if an element is wrong.
    pub(super) fn each<T>(&self, read: impl Fn(&Item<'a>) -> Option<T>) -> Option<Vec<At<T>>> {
        let DeValue::Array(elements) = self.value else {
            return read(self).map(|value| vec![At { value, place: self.place.clone() }]);
        };
        let mut values = Vec::new();
        for element in elements {
            let item = Item { reader: self.reader, key: self.key, value: element.get_ref(), place: element.span() };
            values.push(read(&item).map(|value| At { value, place: item.place }));
        }
        values.into_iter().collect()
    }

    /// As `each`, for lists that mean nothing when they are empty.
    pub(super) fn some<T>(&self, read: impl Fn(&Item<'a>) -> Option<T>) -> Option<Vec<At<T>>> {
        let values = self.each(read)?;
        if values.is_empty() {
            return self
                .wrong(format_args!("`{}` is an empty list", self.key), "name at least one, or leave the key out");
        }
        Some(values)
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    words.join(" or ")
}

/// The word that was probably meant: at most a third of its letters differ.
pub(super) fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let typed = typed.to_ascii_lowercase();
    words
        // A swap of two neighbours is one slip, as a letter put in, left out or changed is.
        .map(|word| (strsim::osa_distance(&typed, &word.to_ascii_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.len().max(typed.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_finds_the_word_that_was_meant() {
        let words = ["requests", "per", "key", "max_wait", "max_waiting"];
        let nearest = |typed| nearest(typed, words.into_iter());
        assert_eq!(nearest("request"), Some("requests"));
        assert_eq!(nearest("reqeusts"), Some("requests"));
        assert_eq!(nearest("pre"), Some("per"));
        assert_eq!(nearest("maxwait"), Some("max_wait"));
        assert_eq!(nearest("KEY"), Some("key"));
        assert_eq!(nearest("colour"), None);
    }
}
