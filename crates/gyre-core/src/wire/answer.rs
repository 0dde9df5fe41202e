//! Owns the parsing of responses of HTTP trackers (BEP 3, 7, 23, 48), as strict as a strict client: canonical bencode
//! with nothing after it.

use crate::types::{InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, SwarmCounts};

/// Maximum nesting depth of lists and dictionaries. A response has three levels.
const DEPTH: usize = 8;

/// A bencoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i…e`.
    Number(i64),
    /// `LENGTH:…`.
    Bytes(&'a [u8]),
    /// `l…e`.
    List(Vec<Value<'a>>),
    /// `d…e`, with ascending keys.
    Dictionary(Vec<(&'a [u8], Value<'a>)>),
}

/// Why a response is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResponse {
    /// Invalid bencode at this byte.
    #[error("invalid bencode at byte {0}")]
    Bencode(usize),
    /// The keys of a dictionary are not strictly ascending at this byte.
    #[error("the keys are not sorted at byte {0}")]
    Order(usize),
    /// The value is nested too deeply.
    #[error("nested too deeply")]
    Depth,
    /// The value is not a dictionary.
    #[error("not a dictionary")]
    NotADictionary,
    /// The value of this key has the wrong type.
    #[error("the value of `{0}` has the wrong type")]
    Kind(&'static str),
}

/// Reads values from the front of a slice. INVARIANT: `at <= bytes.len()`.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn invalid(&self) -> InvalidResponse {
        InvalidResponse::Bencode(self.at)
    }

    /// Reads a number in canonical form, up to the end mark.
    fn number(&mut self, end: u8) -> Result<i64, InvalidResponse> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == end).ok_or(self.invalid())?;
        let text = std::str::from_utf8(&rest[..length]).map_err(|_| self.invalid())?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let canonical = digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits == "0" && digits == text || !digits.is_empty() && !digits.starts_with('0'));
        let number = text.parse().ok().filter(|_| canonical).ok_or(self.invalid())?;
        self.at += length + 1;
        Ok(number)
    }

    fn string(&mut self) -> Result<&'a [u8], InvalidResponse> {
        let length = usize::try_from(self.number(b':')?).map_err(|_| self.invalid())?;
        let bytes = self.bytes[self.at..].get(..length).ok_or(self.invalid())?;
        self.at += length;
        Ok(bytes)
    }

    fn ends(&mut self) -> bool {
        let ends = self.bytes.get(self.at) == Some(&b'e');
        self.at += usize::from(ends);
        ends
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, InvalidResponse> {
        if depth > DEPTH {
            return Err(InvalidResponse::Depth);
        }
        match self.next() {
            Some(b'i') => self.number(b'e').map(Value::Number),
            Some(b'l') => {
                let mut list = Vec::new();
                while !self.ends() {
                    list.push(self.value(depth + 1)?);
                }
                Ok(Value::List(list))
            }
            Some(b'd') => {
                let mut entries: Vec<(&[u8], Value<'_>)> = Vec::new();
                while !self.ends() {
                    let start = self.at;
                    let key = self.string()?;
                    if entries.last().is_some_and(|(last, _)| *last >= key) {
                        return Err(InvalidResponse::Order(start));
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
                Ok(Value::Dictionary(entries))
            }
            Some(b'0'..=b'9') => {
                self.at -= 1;
                self.string().map(Value::Bytes)
            }
            _ => Err(InvalidResponse::Bencode(self.at.saturating_sub(1))),
        }
    }
}

impl<'a> Value<'a> {
    /// Parses a value, which must take up all bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidResponse`], with the position of the error.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidResponse> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.value(0)?;
        if reader.at < bytes.len() { Err(reader.invalid()) } else { Ok(value) }
    }

    /// Returns the value of a key of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dictionary(entries) = self else { return None };
        entries.iter().find_map(|(found, value)| (*found == key.as_bytes()).then_some(value))
    }

    /// Returns the number, if this is one.
    pub fn as_number(&self) -> Option<i64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// Returns the bytes, if this is a byte string.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    fn number(&self, key: &'static str) -> Result<Option<i64>, InvalidResponse> {
        match self.get(key) {
            None => Ok(None),
            Some(Self::Number(number)) => Ok(Some(*number)),
            Some(_) => Err(InvalidResponse::Kind(key)),
        }
    }

    /// Returns the number of peers under a key: packed ones of `bytes_each` bytes, or a list of dictionaries.
    fn peers(&self, key: &'static str, bytes_each: usize) -> Result<Option<usize>, InvalidResponse> {
        match self.get(key) {
            None => Ok(None),
            Some(Self::Bytes(packed)) if packed.len() % bytes_each == 0 => {
                Ok(Some(packed.len() / bytes_each))
            }
            Some(Self::List(peers)) => Ok(Some(peers.len())),
            Some(_) => Err(InvalidResponse::Kind(key)),
        }
    }
}

/// The response of a tracker to an announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnounceResponse {
    /// The tracker accepts the announce.
    Accepted {
        /// Seconds until the next announce, if given.
        interval_secs: Option<i64>,
        /// Number of peers in `peers`. `None` if the key is missing, which some clients can't handle.
        peers: Option<usize>,
        /// Number of peers in `peers6`, if given.
        peers6: Option<usize>,
    },
    /// The tracker refuses the announce, with this reason.
    Refused(String),
}

impl AnnounceResponse {
    /// Parses a response.
    ///
    /// # Errors
    ///
    /// [`InvalidResponse`], if it is invalid.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidResponse> {
        let value = dictionary(bytes)?;
        if let Some(reason) = refusal(&value) {
            return Ok(Self::Refused(reason));
        }
        Ok(Self::Accepted {
            interval_secs: value.number("interval")?,
            peers: value.peers("peers", PEER_V4_BYTES)?,
            peers6: value.peers("peers6", PEER_V6_BYTES)?,
        })
    }
}

/// Parses the response to a scrape. Returns the counts of this swarm, or `None` if the response does not contain it.
///
/// # Errors
///
/// The reason for which the tracker refuses, or why the response is invalid.
pub fn parse_scrape(bytes: &[u8], info_hash: InfoHash) -> Result<Option<SwarmCounts>, String> {
    let value = dictionary(bytes).map_err(|error| error.to_string())?;
    if let Some(reason) = refusal(&value) {
        return Err(format!("the tracker refuses: {reason}"));
    }
    let Some(Value::Dictionary(files)) = value.get("files") else {
        return Err(InvalidResponse::Kind("files").to_string());
    };
    let Some((_, counts)) = files.iter().find(|(hash, _)| *hash == info_hash.0) else { return Ok(None) };
    let count = |key| match counts.number(key) {
        Ok(number) => number.map_or(Ok(0), u32::try_from).map_err(|_| InvalidResponse::Kind(key).to_string()),
        Err(error) => Err(error.to_string()),
    };
    Ok(Some(SwarmCounts {
        seeders: count("complete")?,
        leechers: count("incomplete")?,
        downloaded: count("downloaded")?,
    }))
}

fn dictionary(bytes: &[u8]) -> Result<Value<'_>, InvalidResponse> {
    let value = Value::parse(bytes)?;
    if matches!(value, Value::Dictionary(_)) { Ok(value) } else { Err(InvalidResponse::NotADictionary) }
}

fn refusal(value: &Value<'_>) -> Option<String> {
    match value.get("failure reason")? {
        Value::Bytes(reason) => Some(String::from_utf8_lossy(reason).into_owned()),
        _ => Some(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::bencode::{AnnounceReply, Form, Peers, put_announce, put_failure, put_scrape};

    #[test]
    fn only_canonical_bencode_is_parsed() {
        assert_eq!(Value::parse(b"i-42e"), Ok(Value::Number(-42)));
        assert_eq!(Value::parse(b"0:"), Ok(Value::Bytes(b"")));
        let value = Value::parse(b"d1:ali0e1:xe1:bdee").unwrap();
        assert_eq!(value.get("a"), Some(&Value::List(vec![Value::Number(0), Value::Bytes(b"x")])));
        assert_eq!(value.get("b"), Some(&Value::Dictionary(vec![])));
        for wrong in [
            "",
            "i",
            "ie",
            "i-e",
            "i-0e",
            "i01e",
            "i1",
            "i+1e",
            "1:",
            "01:a",
            "-1:a",
            "l",
            "d1:a",
            "d1:ae",
            "x",
            "i1ex",
            "i99999999999999999999e",
            "99999999999999999999:a",
            "e",
            "di1e1:ae",
        ] {
            assert!(matches!(Value::parse(wrong.as_bytes()), Err(InvalidResponse::Bencode(_))), "{wrong}");
        }
        assert_eq!(Value::parse(b"d1:bi1e1:ai1ee"), Err(InvalidResponse::Order(7)));
        assert_eq!(Value::parse(b"d1:ai1e1:ai1ee"), Err(InvalidResponse::Order(7)));
        assert_eq!(Value::parse(&b"l".repeat(100_000)), Err(InvalidResponse::Depth));
    }

    #[test]
    fn announce_responses_are_parsed() {
        let accepted =
            |interval_secs, peers, peers6| Ok(AnnounceResponse::Accepted { interval_secs, peers, peers6 });
        assert_eq!(
            AnnounceResponse::parse(b"d8:intervali1800e5:peers0:e"),
            accepted(Some(1_800), Some(0), None)
        );
        assert_eq!(AnnounceResponse::parse(b"d5:peers12:aaaaaabbbbbbe"), accepted(None, Some(2), None));
        assert_eq!(AnnounceResponse::parse(b"d5:peersld2:ip1:xeee"), accepted(None, Some(1), None));
        assert_eq!(
            AnnounceResponse::parse(b"d6:peers618:aaaaaaaaaaaaaaaaaae"),
            accepted(None, None, Some(1))
        );
        assert_eq!(
            AnnounceResponse::parse(b"d14:failure reason2:noe"),
            Ok(AnnounceResponse::Refused("no".into()))
        );
        assert_eq!(AnnounceResponse::parse(b"d5:peers5:aaaaae"), Err(InvalidResponse::Kind("peers")));
        assert_eq!(AnnounceResponse::parse(b"d8:interval1:xe"), Err(InvalidResponse::Kind("interval")));
        assert_eq!(AnnounceResponse::parse(b"le"), Err(InvalidResponse::NotADictionary));
        assert!(AnnounceResponse::parse(b"<html>").is_err());
    }

    #[test]
    fn our_own_responses_are_parsed() {
        let counts = SwarmCounts { seeders: 3, leechers: 12, downloaded: 45 };
        for form in [Form::Compact, Form::WithIds, Form::WithoutIds] {
            let peers = Peers { v4: &[[1; 6], [2; 6]], v6: &[], v4_ids: &[], v6_ids: &[] };
            let external_ip = [192, 0, 2, 1].into();
            let reply = AnnounceReply {
                warning: None,
                counts,
                interval_secs: 1_812,
                min_interval_secs: 900,
                external_ip,
                peers,
                form,
            };
            let mut out = Vec::new();
            put_announce(&mut out, &reply);
            let expected =
                AnnounceResponse::Accepted { interval_secs: Some(1_812), peers: Some(2), peers6: None };
            assert_eq!(AnnounceResponse::parse(&out), Ok(expected));
        }
        let (mut out, hash) = (Vec::new(), InfoHash([7; 20]));
        put_scrape(&mut out, &mut [(hash, counts)]);
        assert_eq!(parse_scrape(&out, hash), Ok(Some(counts)));
        assert_eq!(parse_scrape(&out, InfoHash([8; 20])), Ok(None));
        out.clear();
        put_failure(&mut out, "why", true);
        assert_eq!(AnnounceResponse::parse(&out), Ok(AnnounceResponse::Refused("why".into())));
        assert_eq!(parse_scrape(&out, hash), Err("the tracker refuses: why".into()));
        assert!(parse_scrape(b"de", hash).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            noise in "[dlie0-9:a-]{0,60}",
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            for bytes in [noise.as_bytes(), &bytes] {
                let _ = AnnounceResponse::parse(bytes);
                let _ = parse_scrape(bytes, InfoHash([0; 20]));
            }
        }
    }
}
