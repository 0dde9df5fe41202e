//! Owns the query strings of HTTP announces and scrapes (BEP 3, 7, 23, 48), whose values are percent-encoded bytes.
//!
//! A `+` is a plus sign and not a space: info-hashes are binary (RFC 3986), not form fields. Unknown parameters are
//! ignored. `ip`, `ipv4` and `ipv6` are ignored too, because an attacker could use them to direct a swarm at a third
//! party: a peer's address is always the source address of its request.

use std::fmt;

use arrayvec::ArrayVec;
use memchr::memchr;

use crate::limits::{MAX_SCRAPE_HASHES, UDP_V4_PEERS};
use crate::types::{Event, InfoHash, PeerId};

/// Why a query is not a valid announce or scrape. Names the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// A required parameter is missing.
    Missing(&'static str),
    /// A parameter is invalid.
    Invalid(&'static str),
    /// A parameter that may be given only once is repeated.
    Repeated(&'static str),
    /// A scrape has more than [`MAX_SCRAPE_HASHES`] info-hashes.
    TooManyHashes,
    /// A scrape has no info-hash, which requests all swarms.
    FullScrape,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "missing parameter: {name}"),
            Self::Invalid(name) => write!(f, "invalid parameter: {name}"),
            Self::Repeated(name) => write!(f, "parameter given more than once: {name}"),
            Self::TooManyHashes => {
                write!(f, "too many parameters: info_hash (at most {MAX_SCRAPE_HASHES} a scrape)")
            }
            Self::FullScrape => write!(f, "full scrape is not available: name an info_hash"),
        }
    }
}

/// The parameters of an announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceQuery {
    /// `info_hash`: the swarm.
    pub info_hash: InfoHash,
    /// `peer_id`: the client's peer id.
    pub peer_id: PeerId,
    /// `port`: the port on which the client listens, never 0.
    pub port: u16,
    /// `uploaded`: bytes uploaded since `started`, 0 if missing.
    pub uploaded: u64,
    /// `downloaded`: bytes downloaded since `started`, 0 if missing.
    pub downloaded: u64,
    /// `left`: bytes left to download. `None` if missing: the client is then a leecher.
    pub left: Option<u64>,
    /// `event`. An empty one and BEP 21's `paused` are [`Event::None`].
    pub event: Event,
    /// `numwant`: number of peers wanted, limited to what fits in any reply. `None` if missing or negative.
    pub num_want: Option<u16>,
    /// `compact`: packed peers (BEP 23). True unless the value is `0`.
    pub compact: bool,
    /// `no_peer_id`: a non-compact list has no ids. True unless missing or `0`.
    pub no_peer_id: bool,
}

impl AnnounceQuery {
    /// Parses a query string, the part of a URL after the `?`.
    ///
    /// # Errors
    ///
    /// [`QueryError`], with the parameter's name.
    pub fn parse(query: &[u8]) -> Result<Self, QueryError> {
        let (mut info_hash, mut peer_id, mut port) = (None, None, None);
        let mut parsed = Self {
            info_hash: InfoHash([0; 20]),
            peer_id: PeerId([0; 20]),
            port: 0,
            uploaded: 0,
            downloaded: 0,
            left: None,
            event: Event::None,
            num_want: None,
            compact: true,
            no_peer_id: false,
        };
        for (name, value) in pairs(query) {
            match name {
                b"info_hash" if info_hash.is_some() => return Err(QueryError::Repeated("info_hash")),
                b"info_hash" => info_hash = Some(bytes20(value, "info_hash")?),
                b"peer_id" if peer_id.is_some() => return Err(QueryError::Repeated("peer_id")),
                b"peer_id" => peer_id = Some(bytes20(value, "peer_id")?),
                b"port" => {
                    let number = u16::try_from(number(value, "port")?).ok().filter(|&port| port != 0);
                    port = Some(number.ok_or(QueryError::Invalid("port"))?);
                }
                b"uploaded" => parsed.uploaded = number(value, "uploaded")?,
                b"downloaded" => parsed.downloaded = number(value, "downloaded")?,
                b"left" => parsed.left = Some(number(value, "left")?),
                b"event" => {
                    parsed.event = match value {
                        b"started" => Event::Started,
                        b"stopped" => Event::Stopped,
                        b"completed" => Event::Completed,
                        b"" | b"paused" | b"empty" => Event::None,
                        _ => return Err(QueryError::Invalid("event")),
                    }
                }
                b"numwant" => parsed.num_want = num_want(value)?,
                b"compact" => parsed.compact = value != b"0",
                b"no_peer_id" => parsed.no_peer_id = value != b"0",
                _ => {}
            }
        }
        parsed.info_hash = InfoHash(info_hash.ok_or(QueryError::Missing("info_hash"))?);
        parsed.peer_id = PeerId(peer_id.ok_or(QueryError::Missing("peer_id"))?);
        parsed.port = port.ok_or(QueryError::Missing("port"))?;
        Ok(parsed)
    }
}

/// The parameters of a scrape (BEP 48).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrapeQuery {
    /// `info_hash`: one or more swarms, in the order of the query.
    pub info_hashes: ArrayVec<InfoHash, MAX_SCRAPE_HASHES>,
}

impl ScrapeQuery {
    /// Parses a query string, the part of a URL after the `?`.
    ///
    /// # Errors
    ///
    /// [`QueryError`], if an info-hash is invalid, or if there are none or too many.
    pub fn parse(query: &[u8]) -> Result<Self, QueryError> {
        let mut info_hashes = ArrayVec::new();
        for (name, value) in pairs(query) {
            if name == b"info_hash" {
                let info_hash = InfoHash(bytes20(value, "info_hash")?);
                info_hashes.try_push(info_hash).map_err(|_| QueryError::TooManyHashes)?;
            }
        }
        if info_hashes.is_empty() { Err(QueryError::FullScrape) } else { Ok(Self { info_hashes }) }
    }
}

/// Returns the value of the first parameter with this name in a query, still percent-encoded.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = pairs(query.as_bytes()).find(|(found, _)| *found == name.as_bytes())?;
    str::from_utf8(value).ok()
}

/// Iterates over the names and values of a query, still percent-encoded. A parameter without `=` has an empty value.
fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = Some(query);
    std::iter::from_fn(move || {
        let parameters = rest?;
        let (parameter, others) = split_at_byte(parameters, b'&');
        rest = others;
        let (name, value) = split_at_byte(parameter, b'=');
        Some((name, value.unwrap_or_default()))
    })
}

fn split_at_byte(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr(separator, bytes) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    }
}

/// Decodes a value of exactly 20 bytes.
fn bytes20(value: &[u8], name: &'static str) -> Result<[u8; 20], QueryError> {
    let mut decoded = [0; 20];
    let mut rest = value;
    for byte in &mut decoded {
        (*byte, rest) = match *rest {
            [b'%', high, low, ref rest @ ..] => match (hex_digit(high), hex_digit(low)) {
                (Some(high), Some(low)) => (high << 4 | low, rest),
                _ => return Err(QueryError::Invalid(name)),
            },
            [b'%', ..] | [] => return Err(QueryError::Invalid(name)),
            [byte, ref rest @ ..] => (byte, rest),
        };
    }
    if rest.is_empty() { Ok(decoded) } else { Err(QueryError::Invalid(name)) }
}

fn hex_digit(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Parses a decimal number of up to 64 bits: only digits, without a sign.
fn number(value: &[u8], name: &'static str) -> Result<u64, QueryError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(QueryError::Invalid(name))
}

/// Parses `numwant`. A number that is too large is limited, not rejected.
fn num_want(value: &[u8]) -> Result<Option<u16>, QueryError> {
    const MOST: u16 = UDP_V4_PEERS as u16;
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(QueryError::Invalid("numwant"));
    }
    Ok((digits.len() == value.len())
        .then(|| number(value, "numwant").map_or(MOST, |n| n.min(MOST.into()) as u16)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A";
    const HASH_BYTES: [u8; 20] =
        *b"\x12\x34\x56\x78\x9a\xbc\xde\xf1\x23\x45\x67\x89\xab\xcd\xef\x12\x34\x56\x78\x9a";

    fn announce(more: &str) -> Result<AnnounceQuery, QueryError> {
        AnnounceQuery::parse(
            format!("info_hash={HASH}&peer_id=-TR4060-0123456789ab&port=51413{more}").as_bytes(),
        )
    }

    // Recorded on loopback, 2026-11-20, from Debian's packages: libtorrent 2.0.8 and aria2 1.36.0 fetching a torrent of
    // 100,000 bytes.
    const LIBTORRENT: &str = "info_hash=%a0%a3%a3u!%d5%1b%9a%ed%c3%cfE%0d*%a8%ac%d8P%22%a2&peer_id=-LT2080-eJ5X023rJcKB\
        &port=16891&uploaded=0&downloaded=0&left=100000&corrupt=0&key=64C2061F&event=started&numwant=200&compact=1\
        &no_peer_id=1&supportcrypto=1&redundant=0";
    const ARIA2: &str = "info_hash=L%F1%0E.%A3%03j%8F%DF%A1%EA7%C4%EE%11%5C%F9%1B%A4W\
        &peer_id=A2-1-36-0-%0Cw%22%8A1%26%BC5Cv&uploaded=0&downloaded=0&left=100000&compact=1&key=%22%8A1%26%BC5Cv\
        &numwant=50&no_peer_id=1&port=16882&event=started&supportcrypto=1";

    #[test]
    fn queries_of_real_clients_are_parsed() {
        for (query, info_hash, peer_id, port, num_want) in [
            (
                LIBTORRENT,
                b"\xa0\xa3\xa3u!\xd5\x1b\x9a\xed\xc3\xcfE\x0d*\xa8\xac\xd8P\x22\xa2",
                b"-LT2080-eJ5X023rJcKB",
                16891,
                200,
            ),
            (
                ARIA2,
                b"L\xf1\x0e.\xa3\x03j\x8f\xdf\xa1\xea7\xc4\xee\x11\x5c\xf9\x1b\xa4W",
                b"A2-1-36-0-\x0cw\x22\x8a1&\xbc5Cv",
                16882,
                50,
            ),
        ] {
            let expected = AnnounceQuery {
                info_hash: InfoHash(*info_hash),
                peer_id: PeerId(*peer_id),
                port,
                uploaded: 0,
                downloaded: 0,
                left: Some(100_000),
                event: Event::Started,
                num_want: Some(num_want),
                compact: true,
                no_peer_id: true,
            };
            assert_eq!(AnnounceQuery::parse(query.as_bytes()), Ok(expected));
        }
    }

    #[test]
    fn errors_name_the_parameter() {
        use QueryError::{Invalid, Missing, Repeated};
        assert_eq!(AnnounceQuery::parse(b""), Err(Missing("info_hash")));
        assert_eq!(AnnounceQuery::parse(format!("info_hash={HASH}").as_bytes()), Err(Missing("peer_id")));
        assert_eq!(
            AnnounceQuery::parse(format!("info_hash={HASH}&peer_id={HASH}").as_bytes()),
            Err(Missing("port"))
        );
        assert_eq!(announce(&format!("&info_hash={HASH}")), Err(Repeated("info_hash")));
        assert_eq!(announce(&format!("&peer_id={HASH}")), Err(Repeated("peer_id")));
        for (more, name) in [
            ("&port=0", "port"),
            ("&port=65536", "port"),
            ("&port=", "port"),
            ("&port=+1", "port"),
            ("&left=-1", "left"),
            ("&left=x", "left"),
            ("&left=18446744073709551616", "left"),
            ("&uploaded=", "uploaded"),
            ("&downloaded=1.5", "downloaded"),
            ("&event=begun", "event"),
            ("&numwant=", "numwant"),
            ("&numwant=-", "numwant"),
            ("&numwant=many", "numwant"),
        ] {
            assert_eq!(announce(more), Err(Invalid(name)), "{more}");
            assert!(Invalid(name).to_string().contains(name));
        }
        for hash in [
            "",
            "%",
            "%1",
            "%zz345678901234567890",
            "%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx",
            "abcdefghijklmnopqrstu",
            "%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9",
        ] {
            assert_eq!(
                AnnounceQuery::parse(format!("info_hash={hash}").as_bytes()),
                Err(Invalid("info_hash")),
                "{hash}"
            );
            assert_eq!(
                ScrapeQuery::parse(format!("info_hash={hash}").as_bytes()),
                Err(Invalid("info_hash")),
                "{hash}"
            );
        }
    }

    #[test]
    fn large_num_want_is_limited() {
        assert_eq!(announce("").unwrap().num_want, None);
        assert_eq!(announce("&numwant=-1").unwrap().num_want, None);
        assert_eq!(announce("&numwant=-99999999999999999999999").unwrap().num_want, None);
        assert_eq!(announce("&numwant=0").unwrap().num_want, Some(0));
        for large in ["243", "4294967296", "99999999999999999999999"] {
            assert_eq!(announce(&format!("&numwant={large}")).unwrap().num_want, Some(UDP_V4_PEERS as u16));
        }
    }

    #[test]
    fn scrapes_keep_the_order_of_hashes_and_need_at_least_one() {
        let query = format!("info_hash={HASH}&x=1&info_hash=abcdefghijklmnopqrst");
        let parsed = ScrapeQuery::parse(query.as_bytes()).unwrap();
        assert_eq!(parsed.info_hashes.as_slice(), [InfoHash(HASH_BYTES), InfoHash(*b"abcdefghijklmnopqrst")]);
        assert_eq!(ScrapeQuery::parse(b""), Err(QueryError::FullScrape));
        let hashes = |n| vec!["info_hash=abcdefghijklmnopqrst"; n].join("&");
        assert_eq!(
            ScrapeQuery::parse(hashes(MAX_SCRAPE_HASHES).as_bytes()).unwrap().info_hashes.len(),
            MAX_SCRAPE_HASHES
        );
        assert_eq!(
            ScrapeQuery::parse(hashes(MAX_SCRAPE_HASHES + 1).as_bytes()),
            Err(QueryError::TooManyHashes)
        );
    }

    proptest! {
        #[test]
        fn any_encoding_of_a_hash_is_decoded(hash: [u8; 20], escape: [bool; 20], lower: bool) {
            let mut query = b"info_hash=".to_vec();
            for (byte, escape) in hash.into_iter().zip(escape) {
                match (escape || b"%&=".contains(&byte), lower) {
                    (true, true) => query.extend_from_slice(format!("%{byte:02x}").as_bytes()),
                    (true, false) => query.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                    (false, _) => query.push(byte),
                }
            }
            prop_assert_eq!(ScrapeQuery::parse(&query).unwrap().info_hashes[0], InfoHash(hash));
        }

        #[test]
        fn no_query_panics(query in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = AnnounceQuery::parse(&query);
            let _ = ScrapeQuery::parse(&query);
        }
    }
}
