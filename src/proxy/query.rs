//! Query parameters, decoded from the encoding of HTML forms.

use std::borrow::Cow;
use std::iter;

use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

/// First parameter of that name in a query. Name and value are decoded, so that `api%5Fkey=%41` is
/// `api_key=A`: another spelling has no window of its own.
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

/// Values of a parameter; `None`: there is no such parameter.
pub(super) type Values<'q> = SmallVec<[Option<Cow<'q, [u8]>>; 1]>;

/// The parameter has more values than may be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooManyValues;

/// Every value that some server reads for the parameter of that name, `None` among them if some
/// server sees no such parameter.
///
/// Servers read the first of several parameters or the last (PHP, Rails, Django). Some end a
/// parameter at `;` (HTML 4.01 §B.2.2), and PHP maps several names to one. `letter` folds each
/// letter of a name before it is compared.
///
/// # Errors
/// If there are more than `most`.
pub(super) fn values<'q>(
    query: &'q str,
    name: &str,
    letter: fn(u8) -> u8,
    most: usize,
) -> Result<Values<'q>, TooManyValues> {
    let is_it = |given: &[u8]| given.iter().copied().map(letter).eq(name.bytes().map(letter));
    let is_like_it = |given: &[u8]| php_name(given).map(letter).eq(php_name(name.as_bytes()).map(letter));
    let mut found = Values::new();
    let mut is_there = false;
    for pair in query.split('&') {
        let shorter = pair.contains(';').then(|| pair.split(';')).into_iter().flatten();
        for (index, part) in iter::once(pair).chain(shorter).enumerate() {
            let (given, value) = part.split_once('=').unwrap_or((part, ""));
            let given = decode(given);
            is_there |= index == 0 && is_it(&given);
            let value = is_like_it(&given).then(|| Some(plain(decode(value))));
            found.extend(value.filter(|value| !found.contains(value)));
            if found.len() > most {
                return Err(TooManyValues);
            }
        }
    }
    if !is_there {
        found.insert(0, None);
    }
    Ok(found)
}

/// Name as PHP reads it (`php_register_variable_ex`): without spaces in front, up to a NUL, and
/// with `_` for every character that a variable's name may not hold.
fn php_name(name: &[u8]) -> impl Iterator<Item = u8> {
    let name = name.iter().copied().take_while(|byte| *byte != 0).skip_while(|byte| *byte == b' ');
    name.map(|byte| if matches!(byte, b' ' | b'.' | b'[') { b'_' } else { byte })
}

/// Canonical form of a decoded value, by which keys are compared. A plus is a space, because only
/// some servers read it as one; `%u0041` is `A` (ASP.NET, `HttpUtility.UrlDecode`).
pub(super) fn plain(value: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'+', b'%', &value).is_none() {
        return value;
    }
    let (mut spelt, mut rest) = (Vec::with_capacity(value.len()), &value[..]);
    while let Some(&byte) = rest.first() {
        match unicode_escape(rest) {
            Some(char) => {
                spelt.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[6..];
            }
            None => {
                spelt.push(if byte == b'+' { b' ' } else { byte });
                rest = &rest[1..];
            }
        }
    }
    spelt.into()
}

/// Character of the `%uXXXX` at the start of a text.
fn unicode_escape(text: &[u8]) -> Option<char> {
    let [b'%', b'u' | b'U', digits @ ..] = text else { return None };
    let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32))?
}

/// Decodes `application/x-www-form-urlencoded` text: `%XX` and `+` (WHATWG URL §5.1). An incomplete
/// `%XX` stays.
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    if memchr::memchr(b'+', text.as_bytes()).is_none() {
        return percent_decode_str(text).into();
    }
    // Before `%2B`, which is a plus sign, is decoded.
    let with_spaces = text.replace('+', " ");
    percent_decode_str(&with_spaces).collect::<Vec<u8>>().into()
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

    fn taken(query: &str) -> Vec<Option<String>> {
        let shown = |value: Option<Cow<'_, [u8]>>| value.map(|value| String::from_utf8_lossy(&value).into_owned());
        values(query, "api_key", |letter| letter, 4).expect("few").into_iter().map(shown).collect()
    }

    #[test]
    fn every_value_that_a_server_may_take_is_found() {
        let some = |values: &[&str]| values.iter().map(|value| Some((*value).to_owned())).collect::<Vec<_>>();
        assert_eq!(taken("a=1&api_key=x&api%5fkey=%78"), some(&["x"]));
        assert_eq!(taken("api_key=x&api_key=y"), some(&["x", "y"]));
        assert_eq!(taken("api_key=x;y&b"), some(&["x;y", "x"]));
        assert_eq!(taken("api_key=x&+api.key=y&api%5Bkey%00z=w"), some(&["x", "y", "w"]));
        assert_eq!(taken("api_key=a+b%2Bc%20d"), some(&["a b c d"]));
        assert_eq!(taken("api_key=%u0041%u00e9%uzz%"), some(&["A\u{e9}%uzz%"]));
        assert_eq!(taken("api_key"), some(&[""]));
    }

    #[test]
    fn a_parameter_that_only_some_servers_see_is_also_missing() {
        for query in ["api.key=x", "a;api_key=x", "%20api_key=x"] {
            assert_eq!(taken(query), [None, Some("x".to_owned())], "{query}");
        }
        assert_eq!(taken("API_KEY=x&xapi_key=y"), [None]);
        assert_eq!(taken(""), [None]);
        let folded = values("API_KEY=x&api.Key=y", "Api_key", |letter| letter.to_ascii_lowercase(), 4).expect("few");
        assert_eq!(folded.len(), 2);
        assert!(folded.iter().all(Option::is_some));
    }

    #[test]
    fn more_values_than_may_be_counted_are_too_many() {
        let query = |values: usize| (0..values).map(|value| format!("k={value}&")).collect::<String>();
        assert!(values(&query(4), "k", |letter| letter, 4).is_ok());
        assert_eq!(values(&query(5), "k", |letter| letter, 4), Err(TooManyValues));
        assert!(values(&"k=1&".repeat(10_000), "k", |letter| letter, 4).is_ok());
    }
}
