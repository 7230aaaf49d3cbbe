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

/// Lines of a complete head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeadLines {
    /// Number of lines, the empty last one included.
    pub(super) count: usize,
    /// Ends of the lines.
    pub(super) ends: LineEnds,
}

/// Number of bytes counted at a time: few enough for the sum to fit a byte, which lets the compiler count 16 in one
/// instruction. The lines of a head are short, so that a search from each end to the next costs several times as much.
const STRIDE: usize = 128;

impl HeadLines {
    /// Counts the lines, and compares their ends.
    pub(super) fn of(head: &[u8]) -> HeadLines {
        let is_end = |byte: &u8| u8::from(*byte == b'\n');
        let count = head.chunks(STRIDE).map(|part| usize::from(part.iter().map(is_end).sum::<u8>())).sum();
        let crlf: usize = head.chunks(STRIDE).zip(head.get(1..).unwrap_or_default().chunks(STRIDE)).map(crlf_in).sum();
        let ends = match crlf {
            all if all == count => LineEnds::Crlf,
            0 => LineEnds::Lf,
            _ => LineEnds::Mixed,
        };
        HeadLines { count, ends }
    }
}

/// Number of CR LF in a part of at most [`STRIDE`] bytes. `after`: the same part, one byte further on.
fn crlf_in((part, after): (&[u8], &[u8])) -> usize {
    let is_crlf = |(byte, next): (&u8, &u8)| u8::from((*byte == b'\r') & (*next == b'\n'));
    usize::from(part.iter().zip(after).map(is_crlf).sum::<u8>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_uniform_or_mixed() {
        assert_eq!(HeadLines::of(b"a\r\nb\r\n\r\n"), HeadLines { count: 3, ends: LineEnds::Crlf });
        assert_eq!(HeadLines::of(b"a\nb\n\n"), HeadLines { count: 3, ends: LineEnds::Lf });
        for mixed in [&b"a\r\nb\n\r\n"[..], b"a\nb\r\n\r\n", b"a\r\nb\r\n\n"] {
            assert_eq!(HeadLines::of(mixed).ends, LineEnds::Mixed, "{}", mixed.escape_ascii());
        }
    }

    #[test]
    fn every_line_is_counted_wherever_its_end_lies() {
        for length in 0..3 * STRIDE {
            let name = b"a".repeat(length);
            let head = [&name[..], b"\r\n", &b"b".repeat(STRIDE), b"\r\n\r\n"].concat();
            assert_eq!(HeadLines::of(&head), HeadLines { count: 3, ends: LineEnds::Crlf }, "{length}");
            let mixed = [&name[..], b"\n", &b"b".repeat(STRIDE), b"\r\n\r\n"].concat();
            assert_eq!(HeadLines::of(&mixed), HeadLines { count: 3, ends: LineEnds::Mixed }, "{length}");
        }
    }
}
