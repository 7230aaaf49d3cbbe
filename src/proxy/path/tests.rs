//! Tests of path readings: by rule, and in comparison with models of servers.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn all(path: &str) -> Vec<String> {
    Path::read(path).expect("few readings").readings().map(str::to_owned).collect()
}

/// Tokens of which the compared paths are made: everything that servers read in different ways.
const TOKENS: [&str; 16] =
    ["/", ".", "..", ";", "%", "2F", "%2F", "%5C", "\\", "%2e", "%3B", "%u002F", "*", "a", "v2", "|"];

#[test]
fn whatever_a_server_serves_for_a_short_path_is_one_of_its_readings() {
    let few = ["/", "..", ";", "%2F", "\\", "a"];
    let whole = ["/a", "/..", "//", "%2Fa", "%2F..", ";/.."];
    let paths = [models::paths(&TOKENS, 3), models::paths(&few, 5), models::paths(&whole, 5)].concat();
    let wrong: Vec<String> = paths.iter().filter_map(|path| models::check(path).err()).collect();
    assert!(wrong.is_empty(), "{} of {}, such as {:#?}", wrong.len(), paths.len(), &wrong[..wrong.len().min(10)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_server_serves_for_a_long_path_is_one_of_its_readings(
        tokens in prop::collection::vec(select(&TOKENS[..]), 4..16)
    ) {
        if let Err(wrong) = models::check(&format!("/{}", tokens.concat())) {
            return Err(TestCaseError::fail(wrong));
        }
    }
}

/// Reading of RFC 3986.
fn strict(path: &str) -> String {
    all(path).remove(0)
}

#[test]
fn a_plain_path_has_one_reading_which_is_no_copy() {
    for path in ["/", "/v2/items", "/v2/items/", "/a.b/c..d/~x", "/{a}|\"<b>", "/a:b@c,d=e&f$g!h(i)"] {
        let read = Path::read(path).expect("one reading");
        assert!(matches!(&read.readings[..], [Cow::Borrowed(_)]), "{path}: {read:?}");
    }
    assert_eq!(all("/.well-known/caf%C3%A9%20x"), ["/.well-known/caf%C3%A9%20x"]);
    assert!(all("").is_empty(), "a tunnel");
    assert_eq!(all("*"), ["/"]);
}

#[test]
fn dot_segments_are_removed_as_rfc_3986_says() {
    for (path, plain) in [
        ("/a/b/c/./../../g", "/a/g"),
        ("/a/.", "/a"),
        ("/a/b/..", "/a"),
        ("/..", "/"),
        ("/", "/"),
        ("/x//../v2", "/x/v2"),
        ("/...", "/..."),
    ] {
        assert_eq!(strict(path), plain);
    }
}

#[test]
fn raw_and_encoded_are_one_spelling_where_they_mean_the_same() {
    for byte in (0x21..0x7f_u8).filter(|byte| !b"%/?#".contains(byte)) {
        let (raw, encoded) = (format!("/x{}y", char::from(byte)), format!("/x%{byte:02x}y"));
        assert_eq!(strict(&raw), strict(&encoded), "{raw}");
    }
    assert_eq!(strict("/%c3%a9"), strict("/%C3%A9"));
    assert_eq!(strict("/100%"), strict("/100%25"));
    assert_ne!(strict("/a%2Fb"), strict("/a/b"));
    assert_ne!(strict("/a%3Fb"), strict("/a"));
}

#[test]
fn a_final_slash_makes_no_difference() {
    for (path, same) in [("/a/", "/a"), ("/a/.", "/a"), ("/a/b/..", "/a"), ("/a%20b/", "/a%20b"), ("/a/%2e", "/a/")] {
        assert_eq!(strict(path), strict(same), "{path}");
    }
}

#[test]
fn letter_case_can_be_ignored() {
    let read = Path::read("/V2//%49tems%2F").expect("few readings").ignoring_case();
    let readings: Vec<&str> = read.readings().collect();
    assert_eq!(readings, ["/v2//items%2f", "/v2/items%2f", "/v2//items", "/v2/items"]);
}

#[test]
fn a_path_that_mixes_everything_may_not_be_long() {
    let mixed = "//a;b%3Bc%2Fd\\e%5Cf/../g/./";
    assert!(all(mixed).len() > 16);
    assert!(Path::read(&mixed.repeat(10)).is_ok());
    assert_eq!(Path::read(&mixed.repeat(20)), Err(TooManyReadings));
    assert_eq!(all(&"/a%20b".repeat(10_000)).len(), 1);
    assert_eq!(all(&format!("/.well-known{}", "/a".repeat(30_000))).len(), 1);
    assert_eq!(all(&format!("/x%2Fy.z/{}", "a".repeat(5_000))).len(), 2);
}

#[test]
fn segments_are_counted_from_one() {
    let reading = strict("/v2/%61b/../c//d/");
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(|index| segment(&reading, index)),
        [None, Some("v2"), Some("c"), Some(""), Some("d"), None]
    );
    assert_eq!(segment("/", 1), Some(""));
}
