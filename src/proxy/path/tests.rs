//! How paths are read.

use super::*;

#[test]
fn dot_segments_are_removed_as_rfc_3986_says() {
    for (path, plain) in [
        ("/a/b/c/./../../g", "/a/g"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/..", "/"),
        ("/", "/"),
        ("/a/", "/a/"),
        ("/...", "/..."),
    ] {
        assert_eq!(normalise(path), plain);
    }
}

#[test]
fn segments_are_counted_from_one() {
    let path = Path::read("/v2/%61b/../c//d");
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(|index| path.segment(index)),
        [None, Some("v2"), Some("c"), Some(""), Some("d"), None]
    );
    assert_eq!(Path::read("").segment(1), None);
    assert_eq!(Path::read("/").segment(1), Some(""));
}
