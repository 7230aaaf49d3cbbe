//! `proxy.toml` changed in place: comments, order and layout stay as they are.

use toml_edit::{Array, DocumentMut, Item, Value};

/// What a key of a limit is to say.
#[derive(Clone, PartialEq, Debug)]
pub enum Wish {
    /// Nothing: the default holds.
    Default,
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// A word, a duration, …
    Text(String),
    /// Several of them.
    List(Vec<String>),
}

/// Why the file cannot be changed so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not TOML, or has no such limit.
    #[error("the file has no limit number {0}")]
    NoLimit(usize),
    /// What may not be changed while the limit goes by it.
    #[error("`{0}` cannot be tuned: change it in the file")]
    NotTunable(String),
}

/// What a limit is known by, and what would change which requests it counts.
const FIXED: [&str; 3] = ["name", "match", "key"];

/// The text with these keys of its `number`-th limit (from 0) as wished. Whether the values are right is for
/// [`super::read_text`] to say.
///
/// # Errors
/// See [`Error`].
pub fn tune(text: &str, number: usize, wishes: &[(String, Wish)]) -> Result<String, Error> {
    let mut document: DocumentMut = text.parse().map_err(|_| Error::NoLimit(number))?;
    let limits = document.get_mut("limit").and_then(Item::as_array_of_tables_mut);
    let limit = limits.and_then(|limits| limits.get_mut(number)).ok_or(Error::NoLimit(number))?;
    for (key, wish) in wishes {
        if FIXED.contains(&key.as_str()) {
            return Err(Error::NotTunable(key.clone()));
        }
        let mut value = match wish {
            Wish::Default => {
                limit.remove(key);
                continue;
            }
            Wish::Number(number) => Value::from(*number),
            Wish::Flag(flag) => Value::from(*flag),
            Wish::Text(text) => Value::from(text.as_str()),
            Wish::List(list) => Value::from(list.iter().map(String::as_str).collect::<Array>()),
        };
        match limit.get_mut(key).and_then(Item::as_value_mut) {
            // With the spaces around it, and the comment behind it.
            Some(before) => {
                *value.decor_mut() = before.decor().clone();
                *before = value;
            }
            None => drop(limit.insert(key, Item::Value(value))),
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n\n[[limit]]\nname     = \"a\"\nrequests = 5   # per contract\nper      = \"1s\"\n\n[[limit]]\n\
                        name = \"b\"\nrequests = 7\nper = \"1m\"\nguard = \"1ms\" # jitter\n\n[log]\naccess = \"off\"\n";

    fn wish(key: &str, wish: Wish) -> (String, Wish) {
        (key.to_owned(), wish)
    }

    #[test]
    fn only_what_is_tuned_changes() {
        let tuned = tune(FILE, 0, &[wish("requests", Wish::Number(50))]).unwrap();
        assert_eq!(tuned, FILE.replace("requests = 5 ", "requests = 50 "));
        let tuned = tune(FILE, 1, &[wish("per", Wish::Text("2m".into())), wish("guard", Wish::Default)]).unwrap();
        assert_eq!(tuned, FILE.replace("per = \"1m\"", "per = \"2m\"").replace("guard = \"1ms\" # jitter\n", ""));
        let tuned = tune(FILE, 1, &[wish("dry_run", Wish::Flag(true))]).unwrap();
        assert_eq!(tuned, FILE.replace("# jitter\n", "# jitter\ndry_run = true\n"));
    }

    #[test]
    fn a_limit_stays_the_one_that_it_is() {
        assert!(matches!(tune(FILE, 2, &[]), Err(Error::NoLimit(2))));
        for key in FIXED {
            assert!(matches!(tune(FILE, 0, &[wish(key, Wish::Default)]), Err(Error::NotTunable(_))), "{key}");
        }
    }
}
