//! Owns reading and writing the chunked transfer coding (RFC 9112, section 7.1), for bodies of unknown length.
//!
//! The decoder is as strict as the definition. If a proxy and the tracker parsed a body differently, a request could be
//! smuggled in it. Lines end with CR LF, and a size consists of hexadecimal digits only. Extensions and trailers are
//! skipped, because they are not used.

use std::fmt;

use crate::limits::{WEB_CHUNK_EXTENSIONS_BYTES, WEB_CHUNK_LINE_BYTES, WEB_TRAILERS_BYTES};

/// The end of a body: the empty chunk, without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Maximum number of digits of a size: 64 bits.
const SIZE_DIGITS: u16 = 16;

/// The error for a malformed chunked body. It names the malformed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed chunked body: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// The result of a call of [`Decoder::decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Number of input bytes consumed. 0 means that more input is needed, unless the body has ended.
    pub taken: usize,
    /// Data of the body in the consumed bytes. May be empty.
    pub data: &'a [u8],
    /// Whether the body has ended. The bytes after the consumed ones are not part of it.
    pub done: bool,
}

/// The part of a chunked body that the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Size,
    /// White space between size and extension.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Part {
    /// Returns the message for an invalid byte in this part.
    fn error(self) -> &'static str {
        match self {
            Self::Size | Self::Blank => "invalid chunk size",
            Self::Extension | Self::SizeLf => "invalid chunk extension or line end",
            Self::Data | Self::DataCr | Self::DataLf => "a chunk does not end where its size says",
            Self::TrailerStart | Self::TrailerName | Self::TrailerValue | Self::TrailerLf => {
                "invalid trailers"
            }
            Self::EndLf | Self::Done => "invalid end",
        }
    }
}

/// Decodes a chunked body from input that may be split anywhere. Does not buffer.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::wire::chunked::Decoder;
///
/// let mut decoder = Decoder::default();
/// let first = decoder.decode(b"3\r\nabc\r\n0\r\n\r\nGET").unwrap();
/// assert_eq!((first.taken, first.data, first.done), (6, &b"abc"[..], false));
/// let last = decoder.decode(b"\r\n0\r\n\r\nGET").unwrap();
/// assert_eq!((last.taken, last.data, last.done), (7, &b""[..], true));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    part: Part,
    /// Remaining bytes of the chunk. While its size is being read: the value of the digits so far.
    left: u64,
    /// Bytes read of the chunk's first line.
    line_bytes: u16,
    /// Bytes read of the extensions of all chunks.
    extensions_bytes: u16,
    trailers_bytes: u16,
}

impl Decoder {
    /// Decodes input up to the end of the first contiguous data in it.
    ///
    /// # Errors
    ///
    /// [`Malformed`]. No input is consumed then, and another call with the same input fails in the same way.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<'a>, Malformed> {
        let mut ahead = *self;
        let mut taken = 0;
        while ahead.part != Part::Data && ahead.part != Part::Done {
            let Some(&byte) = input.get(taken) else { break };
            ahead.step(byte)?;
            taken += 1;
        }
        let mut data: &[u8] = &[];
        if ahead.part == Part::Data {
            let rest = &input[taken..];
            data = &rest[..usize::try_from(ahead.left).map_or(rest.len(), |left| left.min(rest.len()))];
            taken += data.len();
            ahead.left -= data.len() as u64;
            if ahead.left == 0 {
                ahead.part = Part::DataCr;
            }
        }
        *self = ahead;
        Ok(Decoded { taken, data, done: self.part == Part::Done })
    }

    /// Advances by one byte that is not data.
    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        let sized = self.line_bytes > 0;
        self.part = match (self.part, byte) {
            (Part::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.line_bytes < SIZE_DIGITS => {
                self.left = self.left << 4 | u64::from(hex_value(byte));
                self.line_bytes += 1;
                Part::Size
            }
            (Part::Size, b'\r') if sized => Part::SizeLf,
            (Part::Size, b' ' | b'\t') if sized => Part::Blank,
            (Part::Blank, b' ' | b'\t') => Part::Blank,
            (Part::Size, b';') if sized => Part::Extension,
            (Part::Blank, b';') => Part::Extension,
            (Part::Extension, b'\r') => Part::SizeLf,
            (Part::Extension, text) if is_text(text) => Part::Extension,
            (Part::SizeLf, b'\n') if self.left == 0 => Part::TrailerStart,
            (Part::SizeLf, b'\n') => Part::Data,
            (Part::DataCr, b'\r') => Part::DataLf,
            (Part::DataLf, b'\n') => {
                self.line_bytes = 0;
                Part::Size
            }
            (Part::TrailerStart, b'\r') => Part::EndLf,
            (Part::TrailerName, b':') => Part::TrailerValue,
            (Part::TrailerStart | Part::TrailerName, name) if is_token(name) => Part::TrailerName,
            (Part::TrailerValue, b'\r') => Part::TrailerLf,
            (Part::TrailerValue, text) if is_text(text) => Part::TrailerValue,
            (Part::TrailerLf, b'\n') => Part::TrailerStart,
            (Part::EndLf, b'\n') => Part::Done,
            (part, _) => return Err(Malformed(part.error())),
        };
        self.check_bounds()
    }

    /// Counts the last byte if it belongs to a part that is skipped, and checks the limits.
    fn check_bounds(&mut self) -> Result<(), Malformed> {
        match self.part {
            Part::Blank | Part::Extension => {
                self.line_bytes += 1;
                self.extensions_bytes += 1;
                if self.line_bytes > WEB_CHUNK_LINE_BYTES {
                    return Err(Malformed("a chunk extension is too long"));
                }
                if self.extensions_bytes > WEB_CHUNK_EXTENSIONS_BYTES {
                    return Err(Malformed("too many extensions"));
                }
            }
            Part::TrailerName | Part::TrailerValue | Part::TrailerLf => {
                self.trailers_bytes += 1;
                if self.trailers_bytes > WEB_TRAILERS_BYTES {
                    return Err(Malformed("the trailers are too long"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

/// Returns whether a field value may contain this byte: all but control characters (RFC 9110, section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// Returns whether a field name may contain this byte (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Writes a chunk. Writes nothing if `data` is empty, because an empty chunk ends the body (see [`LAST_CHUNK`]).
pub fn put_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    out.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[data.len() >> (4 * digit) & 0xf]));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Decodes `wire` in parts whose lengths repeat `cuts`. Returns the data, the bytes consumed, and whether the body
    /// ended.
    fn decode(wire: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut decoder, mut body, mut at, mut come) = (Decoder::default(), Vec::new(), 0, 0);
        let mut cuts = cuts.iter().cycle();
        while come < wire.len() {
            come = (come + cuts.next().map_or(wire.len(), |&cut| cut)).min(wire.len());
            loop {
                let decoded = decoder.decode(&wire[at..come])?;
                assert!(decoded.taken <= come - at && decoded.data.len() <= decoded.taken);
                body.extend_from_slice(decoded.data);
                at += decoded.taken;
                if decoded.done {
                    return Ok((body, at, true));
                }
                if decoded.taken == 0 {
                    break;
                }
            }
            assert_eq!(at, come, "all input is consumed at once");
        }
        Ok((body, at, false))
    }

    #[test]
    fn all_valid_forms_are_decoded() {
        for (wire, body) in [
            ("0\r\n\r\n", ""),
            ("000\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
            ("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
            ("2;a=\"b;c\" ; d\r\n\r\n\r\n0;e\r\n\r\n", "\r\n"),
            ("2 \t;a\r\nok\r\n0\r\n\r\n", "ok"),
            ("2\r\nok\r\n0\r\nExpires: never\r\nX-Empty:\r\n\r\n", "ok"),
        ] {
            assert_eq!(decode(wire.as_bytes(), &[]), Ok((body.into(), wire.len(), true)), "{wire:?}");
            let followed = format!("{wire}GET /");
            assert_eq!(decode(followed.as_bytes(), &[]), Ok((body.into(), wire.len(), true)), "{wire:?}");
        }
    }

    #[test]
    fn ambiguous_forms_are_rejected() {
        for wire in [
            "\r\n",
            ";a\r\n",
            " 5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\r\nhello\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhell\r\n0\r\n\r\n",
            "5\r\nhello\r\r\n",
            "5\r\nhello0\r\n",
            "5;a\nhello\r\n",
            "5;a\rb\r\nhello\r\n",
            "5;a\0\r\nhello\r\n",
            "00000000000000005\r\nhello\r\n",
            "-1\r\n",
            "g\r\n",
            "0\r\n\n",
            "0\n\r\n",
            "0\r\n\rX",
            "0\r\n a: b\r\n\r\n",
            "0\r\na : b\r\n\r\n",
            "0\r\n: b\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\na: b\rc\r\n\r\n",
            "0\r\na: b\0\r\n\r\n",
        ] {
            let wrong = decode(wire.as_bytes(), &[]).expect_err(wire);
            assert!(wrong.to_string().starts_with("malformed chunked body: "));
        }
    }

    #[test]
    fn the_largest_size_does_not_overflow() {
        let mut decoder = Decoder::default();
        let decoded = decoder.decode(b"ffffffffffffffff\r\nabc").unwrap();
        assert_eq!(decoded, Decoded { taken: 21, data: b"abc", done: false });
        assert_eq!(decoder.left, u64::MAX - 3);
    }

    #[test]
    fn skipped_parts_are_limited() {
        let extended = |bytes: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(bytes));
        let most = usize::from(WEB_CHUNK_LINE_BYTES) - 2;
        assert!(decode(extended(most).as_bytes(), &[]).is_ok());
        assert!(decode(extended(most + 1).as_bytes(), &[]).is_err());

        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(99));
        let most = usize::from(WEB_CHUNK_EXTENSIONS_BYTES) / 100;
        assert!(decode(chunk.repeat(most).as_bytes(), &[]).is_ok());
        assert!(decode(chunk.repeat(most + 1).as_bytes(), &[]).is_err());

        let trailers = |bytes: usize| format!("0\r\nx:{}\r\n\r\n", "y".repeat(bytes));
        let most = usize::from(WEB_TRAILERS_BYTES) - 3;
        assert!(decode(trailers(most).as_bytes(), &[]).is_ok());
        assert!(decode(trailers(most + 1).as_bytes(), &[]).is_err());
        assert!(decode(trailers(most + 1).as_bytes(), &[100]).is_err(), "in parts too");
        let short = "x:\r\n".repeat(usize::from(WEB_TRAILERS_BYTES));
        assert!(decode(format!("0\r\n{short}").as_bytes(), &[]).is_err());
    }

    #[test]
    fn an_error_repeats() {
        let mut decoder = Decoder::default();
        let wire = b"5\r\nhello\r\nx";
        assert_eq!(decoder.decode(wire).unwrap().data, b"hello");
        for _ in 0..2 {
            assert!(decoder.decode(&wire[8..]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_body_in_any_chunks_is_decoded(
            chunks in vec(vec(any::<u8>(), 0..300), 0..10),
            extension in "(;[a-z=\" ]{0,9})?",
            trailers in "([a-zA-Z-]{1,9}: [ -~]{0,9}\r\n){0,3}",
            behind: Vec<u8>,
            cuts in vec(1..40_usize, 0..20),
        ) {
            let mut wire = Vec::new();
            for (n, chunk) in chunks.iter().enumerate() {
                if n % 2 == 0 || chunk.is_empty() {
                    put_chunk(&mut wire, chunk);
                } else {
                    wire.extend_from_slice(format!("{:05X}{extension}\r\n", chunk.len()).as_bytes());
                    wire.extend_from_slice(chunk);
                    wire.extend_from_slice(b"\r\n");
                }
            }
            wire.extend_from_slice(format!("0{extension}\r\n{trailers}\r\n").as_bytes());
            let length = wire.len();
            wire.extend_from_slice(&behind);
            prop_assert_eq!(decode(&wire, &cuts), Ok((chunks.concat(), length, true)));
        }

        #[test]
        fn no_input_panics_and_cuts_do_not_matter(
            wire in vec(prop_oneof![
                Just(b"\r\n".to_vec()), Just(b"0\r\n".to_vec()), Just(b"3\r\n".to_vec()), Just(b"abc".to_vec()),
                vec(prop::sample::select(b"012afF;: \t\r\nx".to_vec()), 1..4), vec(any::<u8>(), 1..3),
            ], 0..30),
            cuts in vec(1..9_usize, 1..20),
        ) {
            let wire = wire.concat();
            prop_assert_eq!(decode(&wire, &cuts), decode(&wire, &[]));
        }
    }

    #[test]
    fn only_the_last_chunk_ends_a_body() {
        let mut wire = Vec::new();
        put_chunk(&mut wire, b"");
        put_chunk(&mut wire, &[b'x'; 0x1a]);
        assert_eq!(wire, [b"1a\r\n", [b'x'; 0x1a].as_slice(), b"\r\n"].concat());
        wire.extend_from_slice(LAST_CHUNK);
        assert_eq!(decode(&wire, &[]), Ok((vec![b'x'; 0x1a], wire.len(), true)));
    }
}
