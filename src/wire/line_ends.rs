//! Line ends of a message head, CR LF or LF alone (RFC 9112 §2.2).

/// Line ends of a head, the empty last line included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LineEnds {
    /// Each line ends with CR LF.
    Crlf,
    /// Each line ends with LF alone.
    Lf,
    /// Some lines end with CR LF and some with LF alone.
    ///
    /// A reader that takes a lone LF for a part of a value (RFC 9110 §5.5) finds other fields, and
    /// may find another end.
    Mixed,
}

impl LineEnds {
    /// Line ends of a complete head.
    pub(super) fn of(head: &[u8]) -> LineEnds {
        let is_crlf = |at: usize| at > 0 && head[at - 1] == b'\r';
        let mut ends = memchr::memchr_iter(b'\n', head).map(is_crlf);
        let first = ends.next().unwrap_or(true);
        match ends.all(|end| end == first) {
            true if first => LineEnds::Crlf,
            true => LineEnds::Lf,
            false => LineEnds::Mixed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_uniform_or_mixed() {
        assert_eq!(LineEnds::of(b"a\r\nb\r\n\r\n"), LineEnds::Crlf);
        assert_eq!(LineEnds::of(b"a\nb\n\n"), LineEnds::Lf);
        for mixed in [&b"a\r\nb\n\r\n"[..], b"a\nb\r\n\r\n", b"a\r\nb\r\n\n"] {
            assert_eq!(LineEnds::of(mixed), LineEnds::Mixed, "{}", mixed.escape_ascii());
        }
    }
}
