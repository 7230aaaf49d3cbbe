//! Query parameters, as HTML forms encode them.

use std::borrow::Cow;

/// The first parameter of that name in a query. Name and value are decoded, so that `api%5Fkey=%41` is `api_key=A`:
/// another spelling gets no window of its own.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    parameters(query, name).next()
}

/// All parameters of that name in a query, decoded.
pub(super) fn parameters<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split('&').filter_map(move |pair| {
        let (given, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(given) == *name.as_bytes()).then(|| decode(value))
    })
}

/// Undoes the encoding of HTML forms: `%XX` and `+`. What is no such thing stays.
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return bytes.into();
    }
    let digit = |at: usize| {
        bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok())
    };
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(high << 4 | low);
                at += 3;
                continue;
            }
            (b'+', ..) => plain.push(b' '),
            _ => plain.push(*byte),
        }
        at += 1;
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_of_forms_is_undone() {
        assert_eq!(&*decode("a+b%20c%2"), b"a b c%2");
        assert_eq!(&*decode("%zz%"), b"%zz%");
        assert_eq!(&*decode("%c3%A4"), "\u{e4}".as_bytes());
        assert_eq!(parameter("a&b=&c=d=e", "c").as_deref(), Some(&b"d=e"[..]));
        assert_eq!(parameter("a&b=", "a").as_deref(), Some(&b""[..]));
        assert_eq!(parameter("", "a"), None);
    }
}
