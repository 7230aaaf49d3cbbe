//! Values in files of the form `key = value`, as npm, wget and PHP read them.

/// The value of a key, without quotes around it: the last one, as later lines go before earlier ones. `None` if it is
/// absent or empty.
///
/// Lines that begin with `;` or `#` are comments.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim().eq_ignore_ascii_case(key).then(|| value.trim().trim_matches(['"', '\'']))
    });
    values.next_back().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_key_counts() {
        assert_eq!(value("a=1\n A = '/x y' \n b=3", "a"), Some("/x y"));
        assert_eq!(value("a=1\na=\n", "a"), None);
        for none in ["", "; a=1", "# a=1", "ab=1", "a 1"] {
            assert_eq!(value(none, "a"), None, "{none}");
        }
    }
}
