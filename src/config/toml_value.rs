//! Reader of TOML values: reads a value as a type, or reports what would be valid.
//!
//! A reader returns `None` after it has reported the value; the caller reports nothing more. Types
//! are strict: `"5"` is no number, and `5.0` no whole one. A message says what the key cannot be,
//! the advice says what would be valid.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::DeValue;

use super::duration;
use super::report::Reports;

/// Range of bytes in the file.
pub(super) type SourceSpan = Range<usize>;

/// A value with its span.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    /// Parsed and valid by itself.
    pub(super) value: T,
    /// Place of the value, without its key.
    pub(super) span: SourceSpan,
}

/// A key's value as the file has it.
#[derive(Clone, Debug)]
pub(super) enum Setting<T> {
    /// The key is not in the file: the default holds.
    Absent,
    /// The value is invalid, and reported already: nothing else is reported about this key.
    Invalid,
    /// A valid value.
    Value(Spanned<T>),
}

/// A value of a table, or an element of a list.
pub(super) struct TomlValue<'a> {
    /// Collector of the mistakes.
    pub(super) reports: &'a Reports<'a>,
    /// Key for messages; elements of a list have that of the list.
    pub(super) key: &'static str,
    /// As the parser of TOML has it.
    pub(super) value: &'a DeValue<'a>,
    /// Place of the value, or of the element.
    pub(super) span: SourceSpan,
}

impl<T> Setting<T> {
    /// The value, if it is valid.
    pub(super) fn get(&self) -> Option<&Spanned<T>> {
        match self {
            Setting::Value(at) => Some(at),
            Setting::Absent | Setting::Invalid => None,
        }
    }

    /// The value, or the default if it is absent or invalid. The default of an invalid one reaches no setting:
    /// its report keeps the file from being accepted.
    pub(super) fn or(self, default: T) -> T {
        match self {
            Setting::Value(at) => at.value,
            Setting::Absent | Setting::Invalid => default,
        }
    }

    /// Marks an absent key as present but misspelt: its absence is no second mistake.
    pub(super) fn mark_misspelt(&mut self) {
        if self.is_absent() {
            *self = Setting::Invalid;
        }
    }

    /// False for an invalid value: its key is there.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Setting::Absent)
    }
}

impl<'a> TomlValue<'a> {
    /// Reports this value, and returns `None` as the result of a parser.
    ///
    /// `message` is the mistake, `advice` the remedy; both without a full stop.
    pub(super) fn reject<T>(&self, message: impl Display, advice: impl Display) -> Option<T> {
        self.reports.error(&self.span, message, advice);
        None
    }

    /// Reports that this value is of another type, or not among the valid ones. `advice`: the valid ones.
    ///
    /// Shows a string, which may be misspelt, and the name of any other type.
    fn unexpected<T>(&self, advice: impl Display) -> Option<T> {
        match self.value {
            DeValue::String(text) => self.reject(format_args!("`{}` cannot be {text:?}", self.key), advice),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
                self.reject(format_args!("`{}` cannot be {}", self.key, type_name(self.value)), advice)
            }
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.reject(format_args!("`{}` cannot be {}", self.key, type_name(self.value)), advice)
            }
        }
    }

    /// Reads a string by `parse`. `advice` describes the strings that it accepts.
    ///
    /// A value that is no string gets the same report as a string that `parse` refuses.
    pub(super) fn parse<T>(&self, advice: impl Display, parse: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        match self.value.as_str().and_then(parse) {
            Some(value) => Some(value),
            None => self.unexpected(advice),
        }
    }

    /// The string, if it is one. Reports nothing.
    pub(super) fn as_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// True if it is an integer. Reports nothing.
    pub(super) fn is_number(&self) -> bool {
        self.value.is_integer()
    }

    /// Reads a duration such as "250ms", within the range.
    ///
    /// A sum such as `"1h30m"` is refused with the duration to write instead, `"90m"`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let sum = self.as_str().and_then(duration::parse_sum).filter(|sum| range.contains(sum));
        let advice = match sum {
            Some(sum) => format!("one number with one unit: write \"{}\"", duration::format(sum)),
            None => format!(
                "a duration in ms, s, m, h or d, such as \"250ms\" or \"1m\", from {} to {}",
                duration::format(*range.start()),
                duration::format(*range.end())
            ),
        };
        self.parse(advice, |text| duration::parse(text).filter(|value| range.contains(value)))
    }

    /// Reads an integer within the range.
    ///
    /// Other radixes of TOML are read as well, such as `0x10`. A negative number is out of range.
    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let advice = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(digits) = self.value.as_integer() else {
            return self.unexpected(advice);
        };
        let parsed = u32::from_str_radix(digits.as_str(), digits.radix()).ok();
        match parsed.filter(|value| range.contains(value)) {
            Some(value) => Some(value),
            None => self.reject(format_args!("`{}` cannot be {digits}", self.key), advice),
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value.as_bool() {
            Some(value) => Some(value),
            None => self.unexpected("true or false"),
        }
    }

    /// Reads one of a few keywords.
    ///
    /// Letter case matters. A near miss is answered with the keyword, anything else with all of
    /// them.
    pub(super) fn keyword<T: Clone>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let names = words.iter().map(|(name, _)| *name);
        let advice = match self.as_str().and_then(|text| nearest(text, names.clone())) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => one_of(names),
        };
        self.parse(advice, |text| words.iter().find(|(name, _)| *name == text).map(|(_, value)| value.clone()))
    }

    /// Reads a list, or a single value as a list of one. `None` if an element is invalid.
    ///
    /// All elements are read, so that every invalid one is reported.
    pub(super) fn list<T>(&self, read: impl Fn(&TomlValue<'a>) -> Option<T>) -> Option<Vec<Spanned<T>>> {
        let DeValue::Array(elements) = self.value else {
            return read(self).map(|value| vec![Spanned { value, span: self.span.clone() }]);
        };
        let mut values = Vec::new();
        for element in elements {
            let item =
                TomlValue { reports: self.reports, key: self.key, value: element.get_ref(), span: element.span() };
            values.push(read(&item).map(|value| Spanned { value, span: item.span }));
        }
        values.into_iter().collect()
    }

    /// Reads a list as [`TomlValue::list`] does, and reports an empty one, which would have no meaning.
    pub(super) fn non_empty_list<T>(&self, read: impl Fn(&TomlValue<'a>) -> Option<T>) -> Option<Vec<Spanned<T>>> {
        let values = self.list(read)?;
        if values.is_empty() {
            return self
                .reject(format_args!("`{}` is an empty list", self.key), "name at least one, or leave the key out");
        }
        Some(values)
    }
}

/// Name of a value's type, with its article.
///
/// For messages such as "`per` cannot be a whole number".
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `"sliding" or "fixed" or "calendar"`.
fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    words.join(" or ")
}

/// The nearest of several words to a misspelt one: at most a third of its letters differ.
///
/// Compares without letter case by the distance of optimal string alignment. At least one slip is
/// allowed, also in words of one or two letters.
pub(super) fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let typed = typed.to_ascii_lowercase();
    words
        // A swap of two neighbours is one slip, as is a letter inserted, deleted or replaced.
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
