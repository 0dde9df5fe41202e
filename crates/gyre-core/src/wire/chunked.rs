//! Owns the chunked transfer coding (RFC 9112, section 7.1), both ways: bodies whose length nobody knows beforehand.
//!
//! It is read as strictly as it is defined, since what a proxy before us and we read differently hides a request in a
//! body: lines end with CR LF, a size is hexadecimal digits alone. Extensions and trailers are read over; nobody uses
//! them.

use std::fmt;

use crate::limits::{WEB_CHUNK_EXTENSIONS_BYTES, WEB_CHUNK_LINE_BYTES, WEB_TRAILERS_BYTES};

/// What ends a body: the chunk of no bytes, and no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Digits of the largest size that is read: 64 bits.
const SIZE_DIGITS: u16 = 16;

/// Why bytes are no chunked body; says which part of it is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed chunked body: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// What one call of [`Decoder::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// So many of the bytes lent are done with. 0, unless the body is over: more are needed.
    pub taken: usize,
    /// Those of them that are the body's; it may be none.
    pub data: &'a [u8],
    /// The body is over. What follows the bytes taken is not its.
    pub done: bool,
}

/// Where in a chunked body the next byte stands.
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
    /// What it is a part of, for people.
    fn name(self) -> &'static str {
        match self {
            Self::Size | Self::Blank => "a chunk's size",
            Self::Extension | Self::SizeLf => "a chunk's extension or the end of its line",
            Self::Data | Self::DataCr | Self::DataLf => "a chunk's end is not where its size says",
            Self::TrailerStart | Self::TrailerName | Self::TrailerValue | Self::TrailerLf => "its trailers",
            Self::EndLf | Self::Done => "its end",
        }
    }
}

/// Reads a chunked body from stretches cut anywhere. It keeps no byte of them.
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
    /// Bytes of the chunk that are still to come; while its size is being read, what was read of it.
    left: u64,
    /// Bytes of the line that the chunk starts with.
    line_bytes: u16,
    /// Bytes of extensions, of all chunks.
    extensions_bytes: u16,
    trailers_bytes: u16,
}

impl Decoder {
    /// Goes on by the bytes that have come: over the coding, up to the end of one stretch of data.
    ///
    /// # Errors
    ///
    /// [`Malformed`], now and whenever it is asked again about these bytes: nothing is taken of them.
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

    /// Goes over one byte of the coding.
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
            (part, _) => return Err(Malformed(part.name())),
        };
        self.check_bounds()
    }

    /// Counts the byte that led to this part, if nobody will ever look at it.
    fn check_bounds(&mut self) -> Result<(), Malformed> {
        match self.part {
            Part::Blank | Part::Extension => {
                self.line_bytes += 1;
                self.extensions_bytes += 1;
                if self.line_bytes > WEB_CHUNK_LINE_BYTES {
                    return Err(Malformed("a chunk's extension is too long"));
                }
                if self.extensions_bytes > WEB_CHUNK_EXTENSIONS_BYTES {
                    return Err(Malformed("too many extensions"));
                }
            }
            Part::TrailerName | Part::TrailerValue | Part::TrailerLf => {
                self.trailers_bytes += 1;
                if self.trailers_bytes > WEB_TRAILERS_BYTES {
                    return Err(Malformed("its trailers are too long"));
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

/// What may stand in a field's value: anything but control characters (RFC 9110, section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// What a field's name is made of (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Writes a chunk. One of no bytes is not written: it would end the body, which [`LAST_CHUNK`] does.
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

    /// Lends the bytes cut after each so many, by turns. Gives the data, the bytes taken, and whether that was all.
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
            assert_eq!(at, come, "what was lent is looked at once");
        }
        Ok((body, at, false))
    }

    #[test]
    fn reads_all_that_is_allowed() {
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
    fn refuses_what_others_may_read_otherwise() {
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
    fn the_largest_size_is_no_overflow() {
        let mut decoder = Decoder::default();
        let decoded = decoder.decode(b"ffffffffffffffff\r\nabc").unwrap();
        assert_eq!(decoded, Decoded { taken: 21, data: b"abc", done: false });
        assert_eq!(decoder.left, u64::MAX - 3);
    }

    #[test]
    fn what_nobody_looks_at_is_bounded() {
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
        assert!(decode(trailers(most + 1).as_bytes(), &[100]).is_err(), "however they are cut");
        let short = "x:\r\n".repeat(usize::from(WEB_TRAILERS_BYTES));
        assert!(decode(format!("0\r\n{short}").as_bytes(), &[]).is_err());
    }

    #[test]
    fn an_error_stays_one() {
        let mut decoder = Decoder::default();
        let wire = b"5\r\nhello\r\nx";
        assert_eq!(decoder.decode(wire).unwrap().data, b"hello");
        for _ in 0..2 {
            assert!(decoder.decode(&wire[8..]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_body_in_any_chunking_survives(
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
        fn no_input_panics_and_cuts_change_nothing(
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
    fn the_last_chunk_ends_a_body_and_no_other_does() {
        let mut wire = Vec::new();
        put_chunk(&mut wire, b"");
        put_chunk(&mut wire, &[b'x'; 0x1a]);
        assert_eq!(wire, [b"1a\r\n", [b'x'; 0x1a].as_slice(), b"\r\n"].concat());
        wire.extend_from_slice(LAST_CHUNK);
        assert_eq!(decode(&wire, &[]), Ok((vec![b'x'; 0x1a], wire.len(), true)));
    }
}
