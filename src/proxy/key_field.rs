//! Header fields that limits count by: a field has one value that every server reads, or the request is refused.

use std::borrow::Cow;

use super::credentials;
use crate::wire::{Name, RequestHead, members};

/// Canonical value of the field of that name; `None` without the field.
///
/// # Errors
/// A description for the caller: the field has several values, or only some servers would see it.
pub(super) fn value<'h>(head: &'h RequestHead, name: &str) -> Result<Option<Cow<'h, [u8]>>, String> {
    // Connection names the field, so it is hop-by-hop and not forwarded.
    let mut hop_by_hop = head.all(Name::Connection).flat_map(members);
    if hop_by_hop.any(|member| is_same(member, name)) {
        return Err(format!("Connection names the field {name}, which would then not reach the server"));
    }
    let mut found = None;
    for (_, given, value) in head.fields().filter(|(_, given, _)| is_same(given, name)) {
        if !given.eq_ignore_ascii_case(name.as_bytes()) {
            let given = String::from_utf8_lossy(given);
            return Err(format!("the field {given} is {name} to some servers and another field to others"));
        }
        // A field that is no list occurs once (RFC 9110 §5.3).
        if found.replace(value).is_some_and(|before| before != value) {
            return Err(format!("the field {name} has several values"));
        }
    }
    found.map(|value| spell(name, value)).transpose()
}

/// Canonical form of the value, by which keys are compared.
///
/// # Errors
/// As [`value`].
pub(super) fn spell<'v>(name: &str, value: &'v [u8]) -> Result<Cow<'v, [u8]>, String> {
    if !name.eq_ignore_ascii_case("authorization") {
        return Ok(value.into());
    }
    credentials::spell(value).map_err(|_| "its Basic credentials are no base64".to_owned())
}

/// Compares names as CGI does: without letter case, and with `_` for every character that is neither letter nor digit
/// (RFC 3875 §4.1.18, lighttpd).
fn is_same(given: &[u8], name: &str) -> bool {
    let folded = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'_' };
    given.len() == name.len() && given.iter().zip(name.bytes()).all(|(a, b)| folded(*a) == folded(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Result<Option<String>, String> {
        let head = RequestHead::parse_for_test(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        let value = value(&head, "x-key")?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    #[test]
    fn a_field_has_one_value_in_any_letter_case_of_its_name() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("X-Key: a\r\nY-Key: b\r\nX-Keys: c\r\n"), Ok(Some("a".into())));
        assert_eq!(read("X-KEY: a\r\nx-key:  a \r\nConnection: close, y-key\r\n"), Ok(Some("a".into())));
    }

    #[test]
    fn what_servers_could_read_in_two_ways_is_told() {
        for (fields, why) in [
            ("X-Key: a\r\nX-Key: b\r\n", "the field x-key has several values"),
            ("X-Key: a\r\nX-Key:\r\n", "the field x-key has several values"),
            ("X-Key: a\r\nX_Key: a\r\n", "the field X_Key is x-key to some servers and another field to others"),
            ("x.key: a\r\n", "the field x.key is x-key to some servers and another field to others"),
            ("Connection: X_KEY\r\n", "Connection names the field x-key, which would then not reach the server"),
        ] {
            assert_eq!(read(fields), Err(why.to_owned()));
        }
    }
}
