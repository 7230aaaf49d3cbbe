//! Decoder and encoder of chunked bodies (RFC 9112 §7.1); the decoder works piece by piece and
//! collects nothing.
//!
//! The caller owns the bytes: the decoder looks at the start of the input and says how many of the
//! next bytes are framing and how many content. `5;x=y\r\nhello\r\n0\r\n\r\n` yields `Framing(7)`,
//! `Data(5)`, `Framing(2)`, `Framing(3)` and `End(2)`, however the bytes arrive. Chunk extensions
//! are dropped (RFC 9112 §7.1.1 has them ignored), trailers are checked and left to the caller.
//!
//! Lines must end with CR LF, and sizes of requests are plain hexadecimal digits: a reader that takes
//! more than this can be led to another end of the message than the next reader (request smuggling).
//! Sizes of responses may have leading zeros, and white space behind them, which a recipient must
//! parse before an extension (RFC 9110 §5.6.3). They are written anew.

use super::trailer_section::{self, Grammar, Section};

/// Longest line of a chunk's size with its extensions, in bytes. Extensions have no known use; a
/// long one is an attack.
const MAX_SIZE_LINE: usize = 256;

/// Most digits of a size: it is below 2^60.
const MAX_DIGITS: usize = 15;

/// Most leading zeros of a size. Some servers pad sizes to a fixed width.
const MAX_ZEROS: usize = 64;

/// Decoder of one chunked body.
///
/// Starts before the first size line, and is of no use after [`Piece::End`] or an error. The default
/// is strict.
#[derive(Debug, Default)]
pub struct ChunkedDecoder {
    state: ChunkState,
    grammar: Grammar,
}

/// Position in the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum ChunkState {
    /// Before a size line.
    #[default]
    Size,
    /// Inside a chunk, with this number of bytes of it still to come, at least 1.
    Data(u64),
    /// Before the CR LF behind a chunk's data.
    DataEnd,
    /// Behind the last chunk (size 0): before or in the trailer section.
    Trailers {
        /// Number of bytes of the trailer section at the last look.
        seen: usize,
    },
}

/// Classification of the start of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Number of bytes of framing, to be skipped.
    Framing(usize),
    /// Number of bytes of content.
    Data(usize),
    /// End of the body: number of bytes of the trailer section with its empty last line.
    End(usize),
    /// Incomplete: more input is needed.
    More,
}

/// Violation of the chunked grammar.
///
/// The text is a whole clause in lower case, made for a log line or a response: `a chunk's size is
/// not hexadecimal`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadChunk(pub &'static str);

impl ChunkedDecoder {
    /// Decoder by this grammar.
    pub fn new(grammar: Grammar) -> ChunkedDecoder {
        ChunkedDecoder { state: ChunkState::default(), grammar }
    }

    /// Classifies the start of `input`. The caller consumes that piece before the next call.
    ///
    /// # Errors
    /// A size that is not hexadecimal, a line that does not end with CR LF, a size line or trailer
    /// section that is too long, a trailer that would change the message's framing or routing.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, BadChunk> {
        match self.state {
            ChunkState::Size => self.size(input),
            ChunkState::Data(_) if input.is_empty() => Ok(Piece::More),
            ChunkState::Data(left) => {
                let here = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                let left = left - here as u64;
                self.state = if left == 0 { ChunkState::DataEnd } else { ChunkState::Data(left) };
                Ok(Piece::Data(here))
            }
            ChunkState::DataEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = ChunkState::Size;
                    Ok(Piece::Framing(2))
                }
                [] | [b'\r'] => Ok(Piece::More),
                _ => Err(BadChunk("a chunk is longer than its size says")),
            },
            ChunkState::Trailers { seen } => {
                self.state = ChunkState::Trailers { seen: input.len() };
                Ok(match trailer_section::read(input, seen, self.grammar).map_err(BadChunk)? {
                    Section::More => Piece::More,
                    Section::Complete(length) => Piece::End(length),
                })
            }
        }
    }

    /// Reads a size line with its line end.
    fn size(&mut self, input: &[u8]) -> Result<Piece, BadChunk> {
        let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(MAX_SIZE_LINE)]) else {
            return if input.len() < MAX_SIZE_LINE {
                Ok(Piece::More)
            } else {
                Err(BadChunk("a chunk's size line is too long"))
            };
        };
        let Some((b'\r', line)) = input[..end].split_last() else {
            return Err(BadChunk("a chunk's size line does not end with CR LF"));
        };
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(BadChunk("a chunk's size line holds a control character"));
        }
        let digits = line.iter().position(|byte| *byte == b';').map_or(line, |at| &line[..at]);
        let digits = match self.grammar {
            Grammar::Strict => digits,
            Grammar::Lenient => without_padding(digits),
        };
        if digits.is_empty() || digits.len() > MAX_DIGITS {
            return Err(BadChunk("a chunk's size is missing or too large"));
        }
        let mut size = 0_u64;
        for digit in digits {
            let digit = char::from(*digit).to_digit(16).ok_or(BadChunk("a chunk's size is not hexadecimal"))?;
            size = size * 16 + u64::from(digit);
        }
        self.state = if size == 0 { ChunkState::Trailers { seen: 0 } } else { ChunkState::Data(size) };
        Ok(Piece::Framing(end + 1))
    }
}

/// Digits of a size without the white space behind them, and without leading zeros as far as these
/// are in bounds; one digit stays.
fn without_padding(digits: &[u8]) -> &[u8] {
    let digits = digits.trim_ascii_end();
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros.min(MAX_ZEROS).min(digits.len().saturating_sub(1))..]
}

/// Appends one chunk. Appends nothing for empty data, since an empty chunk would end the body.
///
/// `hello` becomes `5\r\nhello\r\n`. The last chunk (`0\r\n\r\n`, or with trailers) is written by
/// the caller.
pub fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    let mut digits = [0_u8; 16];
    let mut at = digits.len();
    let mut left = data.len();
    while left > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::super::trailer_section::tests::READ;
    use super::*;

    /// Body, and its trailer section.
    type Whole = (Vec<u8>, Vec<u8>);

    #[test]
    fn trailers_that_come_byte_by_byte_are_not_read_anew_for_each() {
        let section = [&b"A: "[..], &[b'x'; 16_000], b"\r\nB: c\r\n\r\n"].concat();
        let input = [&b"0\r\n"[..], &section].concat();
        READ.set(0);
        assert_eq!(read(&input, 1).unwrap().unwrap().1, section);
        assert!(READ.get() < 8 * section.len(), "{} bytes were read", READ.get());
    }

    /// Decodes `input` in steps of `step` bytes; `None` if the body has no end.
    fn read(input: &[u8], step: usize) -> Result<Option<Whole>, BadChunk> {
        read_by(Grammar::Strict, input, step)
    }

    fn read_by(grammar: Grammar, input: &[u8], step: usize) -> Result<Option<Whole>, BadChunk> {
        let (mut reader, mut body, mut start) = (ChunkedDecoder::new(grammar), Vec::new(), 0);
        let mut end = step.min(input.len());
        loop {
            match reader.next(&input[start..end])? {
                Piece::Framing(length) => start += length,
                Piece::Data(length) => {
                    body.extend_from_slice(&input[start..start + length]);
                    start += length;
                }
                Piece::End(length) => return Ok(Some((body, input[start..start + length].to_vec()))),
                Piece::More if end == input.len() => return Ok(None),
                Piece::More => end = (end + step).min(input.len()),
            }
        }
    }

    #[test]
    fn a_body_is_the_same_however_its_bytes_arrive() {
        let input = b"5\r\nhello\r\n00A;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\nnext";
        for step in 1..=input.len() {
            let (body, trailers) = read(input, step).unwrap().unwrap();
            assert_eq!((&body[..], &trailers[..]), (&b"hello0123456789"[..], &b"A: b\r\n\r\n"[..]), "{step}");
        }
    }

    #[test]
    fn a_body_that_stops_early_has_no_end() {
        let input = b"5\r\nhello\r\n0\r\n\r\n";
        for cut in 0..input.len() {
            assert_eq!(read(&input[..cut], 7), Ok(None), "{cut}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut out = Vec::new();
        write_chunk(&[7; 300], &mut out);
        write_chunk(&[], &mut out);
        write_chunk(b"end", &mut out);
        out.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(read(&out, 64).unwrap().unwrap().0, [&[7; 300][..], b"end"].concat());
    }

    #[test]
    fn sizes_of_origins_may_be_padded() {
        for input in [
            &b"5 \t\r\nhello\r\n0 \r\n\r\n"[..],
            b"5 ; a = b\r\nhello\r\n00;c\r\n\r\n",
            b"00000000000000000000005\r\nhello\r\n0\r\n\r\n",
        ] {
            for step in 1..=input.len() {
                let (body, _) = read_by(Grammar::Lenient, input, step).unwrap().unwrap();
                assert_eq!(body, b"hello", "{}", input.escape_ascii());
            }
            assert!(read(input, 3).is_err(), "{}", input.escape_ascii());
        }
        for zeros in [MAX_ZEROS, MAX_ZEROS + MAX_DIGITS, 200] {
            let input = [&b"0".repeat(zeros), &b"5\r\nhello\r\n0\r\n\r\n"[..]].concat();
            assert_eq!(read_by(Grammar::Lenient, &input, 7).is_ok(), zeros < MAX_ZEROS + MAX_DIGITS, "{zeros}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for input in [
            &b"5\nhello\r\n"[..],
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"1000000000000000\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
            b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA b\r\n\r\n",
            b"5;\0\r\nhello\r\n",
        ] {
            assert!(read(input, 3).is_err(), "{}", input.escape_ascii());
            let is_padded = input.starts_with(b"5 \r\n");
            assert_eq!(read_by(Grammar::Lenient, input, 3).is_err(), !is_padded, "{}", input.escape_ascii());
        }
        assert!(read(&[b"5;".to_vec(), vec![b'a'; 300]].concat(), 100).is_err());
        let endless = [b"0\r\n".to_vec(), b"A: b\r\n".repeat(4000)].concat();
        assert!(read(&endless, 1000).is_err());
    }
}
