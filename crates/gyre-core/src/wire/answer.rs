//! Owns reading what an HTTP tracker answers (BEP 3, 7, 23, 48), as a strict client does: bencode in its one canonical
//! form, nothing behind it.

use crate::types::{InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, SwarmCounts};

/// Lists and dictionaries within each other, at most. An answer has three.
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
    /// `d…e`, its keys ascending.
    Dictionary(Vec<(&'a [u8], Value<'a>)>),
}

/// Why bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// It is not bencode, from this byte on.
    #[error("it is not bencoded, at byte {0}")]
    Bencode(usize),
    /// The keys of a dictionary are not ascending, or there twice; at this byte.
    #[error("keys are not sorted, at byte {0}")]
    Order(usize),
    /// It is too deep.
    #[error("it is nested too deep")]
    Depth,
    /// It is a value, but no dictionary.
    #[error("it is no dictionary")]
    NoDictionary,
    /// What stands under this key is not of its kind.
    #[error("`{0}` is not what it should be")]
    Kind(&'static str),
}

/// Takes values off the front of a slice. INVARIANT: `at <= bytes.len()`.
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

    fn wrong(&self) -> NoAnswer {
        NoAnswer::Bencode(self.at)
    }

    /// Digits up to the end mark, in the one way to write them.
    fn number(&mut self, end: u8) -> Result<i64, NoAnswer> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == end).ok_or(self.wrong())?;
        let text = std::str::from_utf8(&rest[..length]).map_err(|_| self.wrong())?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let canonical = digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits == "0" && digits == text || !digits.is_empty() && !digits.starts_with('0'));
        let number = text.parse().ok().filter(|_| canonical).ok_or(self.wrong())?;
        self.at += length + 1;
        Ok(number)
    }

    fn string(&mut self) -> Result<&'a [u8], NoAnswer> {
        let length = usize::try_from(self.number(b':')?).map_err(|_| self.wrong())?;
        let bytes = self.bytes[self.at..].get(..length).ok_or(self.wrong())?;
        self.at += length;
        Ok(bytes)
    }

    fn ends(&mut self) -> bool {
        let ends = self.bytes.get(self.at) == Some(&b'e');
        self.at += usize::from(ends);
        ends
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, NoAnswer> {
        if depth > DEPTH {
            return Err(NoAnswer::Depth);
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
                        return Err(NoAnswer::Order(start));
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
                Ok(Value::Dictionary(entries))
            }
            Some(b'0'..=b'9') => {
                self.at -= 1;
                self.string().map(Value::Bytes)
            }
            _ => Err(NoAnswer::Bencode(self.at.saturating_sub(1))),
        }
    }
}

impl<'a> Value<'a> {
    /// Reads one value, which is all there is.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`], with the place where it goes wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoAnswer> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.value(0)?;
        if reader.at < bytes.len() { Err(reader.wrong()) } else { Ok(value) }
    }

    /// What stands under a key of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dictionary(entries) = self else { return None };
        entries.iter().find_map(|(found, value)| (*found == key.as_bytes()).then_some(value))
    }

    /// The number that this is.
    pub fn as_number(&self) -> Option<i64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// The bytes that this is.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    fn number(&self, key: &'static str) -> Result<Option<i64>, NoAnswer> {
        match self.get(key) {
            None => Ok(None),
            Some(Self::Number(number)) => Ok(Some(*number)),
            Some(_) => Err(NoAnswer::Kind(key)),
        }
    }

    /// Peers, packed with so many bytes each, or a list of dictionaries.
    fn peers(&self, key: &'static str, bytes_each: usize) -> Result<Option<usize>, NoAnswer> {
        match self.get(key) {
            None => Ok(None),
            Some(Self::Bytes(packed)) if packed.len() % bytes_each == 0 => {
                Ok(Some(packed.len() / bytes_each))
            }
            Some(Self::List(peers)) => Ok(Some(peers.len())),
            Some(_) => Err(NoAnswer::Kind(key)),
        }
    }
}

/// What a tracker answers to an announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It has taken it.
    Taken {
        /// Seconds to the next announce, if it says so.
        interval_secs: Option<i64>,
        /// Peers under `peers`. `None`: there is no such key, at which some clients stumble.
        peers: Option<usize>,
        /// Peers under `peers6`.
        peers6: Option<usize>,
    },
    /// It refuses, with this reason.
    Refused(String),
}

impl Announced {
    /// Reads the answer.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`], if it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoAnswer> {
        let value = dictionary(bytes)?;
        if let Some(reason) = refusal(&value) {
            return Ok(Self::Refused(reason));
        }
        Ok(Self::Taken {
            interval_secs: value.number("interval")?,
            peers: value.peers("peers", PEER_V4_BYTES)?,
            peers6: value.peers("peers6", PEER_V6_BYTES)?,
        })
    }
}

/// Reads the answer to a scrape: the counts of this swarm, `None` if it isn't among them.
///
/// # Errors
///
/// The reason of a refusal, or why it is no answer.
pub fn scraped(bytes: &[u8], info_hash: InfoHash) -> Result<Option<SwarmCounts>, String> {
    let value = dictionary(bytes).map_err(|error| error.to_string())?;
    if let Some(reason) = refusal(&value) {
        return Err(format!("it refuses: {reason}"));
    }
    let Some(Value::Dictionary(files)) = value.get("files") else {
        return Err(NoAnswer::Kind("files").to_string());
    };
    let Some((_, counts)) = files.iter().find(|(hash, _)| *hash == info_hash.0) else { return Ok(None) };
    let count = |key| match counts.number(key) {
        Ok(number) => number.map_or(Ok(0), u32::try_from).map_err(|_| NoAnswer::Kind(key).to_string()),
        Err(error) => Err(error.to_string()),
    };
    Ok(Some(SwarmCounts {
        seeders: count("complete")?,
        leechers: count("incomplete")?,
        downloaded: count("downloaded")?,
    }))
}

fn dictionary(bytes: &[u8]) -> Result<Value<'_>, NoAnswer> {
    let value = Value::parse(bytes)?;
    if matches!(value, Value::Dictionary(_)) { Ok(value) } else { Err(NoAnswer::NoDictionary) }
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
    fn one_form_is_the_right_one() {
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
            assert!(matches!(Value::parse(wrong.as_bytes()), Err(NoAnswer::Bencode(_))), "{wrong}");
        }
        assert_eq!(Value::parse(b"d1:bi1e1:ai1ee"), Err(NoAnswer::Order(7)));
        assert_eq!(Value::parse(b"d1:ai1e1:ai1ee"), Err(NoAnswer::Order(7)));
        assert_eq!(Value::parse(&b"l".repeat(100_000)), Err(NoAnswer::Depth));
    }

    #[test]
    fn announces() {
        let taken = |interval_secs, peers, peers6| Ok(Announced::Taken { interval_secs, peers, peers6 });
        assert_eq!(Announced::parse(b"d8:intervali1800e5:peers0:e"), taken(Some(1_800), Some(0), None));
        assert_eq!(Announced::parse(b"d5:peers12:aaaaaabbbbbbe"), taken(None, Some(2), None));
        assert_eq!(Announced::parse(b"d5:peersld2:ip1:xeee"), taken(None, Some(1), None));
        assert_eq!(Announced::parse(b"d6:peers618:aaaaaaaaaaaaaaaaaae"), taken(None, None, Some(1)));
        assert_eq!(Announced::parse(b"d14:failure reason2:noe"), Ok(Announced::Refused("no".into())));
        assert_eq!(Announced::parse(b"d5:peers5:aaaaae"), Err(NoAnswer::Kind("peers")));
        assert_eq!(Announced::parse(b"d8:interval1:xe"), Err(NoAnswer::Kind("interval")));
        assert_eq!(Announced::parse(b"le"), Err(NoAnswer::NoDictionary));
        assert!(Announced::parse(b"<html>").is_err());
    }

    #[test]
    fn what_we_write_is_read() {
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
            let expected = Announced::Taken { interval_secs: Some(1_812), peers: Some(2), peers6: None };
            assert_eq!(Announced::parse(&out), Ok(expected));
        }
        let (mut out, hash) = (Vec::new(), InfoHash([7; 20]));
        put_scrape(&mut out, &mut [(hash, counts)]);
        assert_eq!(scraped(&out, hash), Ok(Some(counts)));
        assert_eq!(scraped(&out, InfoHash([8; 20])), Ok(None));
        out.clear();
        put_failure(&mut out, "why", true);
        assert_eq!(Announced::parse(&out), Ok(Announced::Refused("why".into())));
        assert_eq!(scraped(&out, hash), Err("it refuses: why".into()));
        assert!(scraped(b"de", hash).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(
            noise in "[dlie0-9:a-]{0,60}",
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            for bytes in [noise.as_bytes(), &bytes] {
                let _ = Announced::parse(bytes);
                let _ = scraped(bytes, InfoHash([0; 20]));
            }
        }
    }
}
