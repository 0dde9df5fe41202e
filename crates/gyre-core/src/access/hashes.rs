//! Owns lists of info-hashes. A list can hold millions, at a little more than 20 bytes each. A lookup reads memory
//! twice.
//!
//! The hashes are sorted. A table maps the first bits of a hash to the range of hashes that share them. The number of
//! bits is chosen so that a range holds one or two hashes if they are random. If an attacker chose similar hashes, the
//! binary search in a long range takes more steps.

use std::time::{Duration, UNIX_EPOCH};

use super::lines::Entries;
use crate::limits::ACCESS_LIST_MAX_ENTRIES;
use crate::types::InfoHash;

/// Maximum number of bits that index the table, whose size is then 4 · 2^26 bytes = 256 MiB.
const MAX_BITS: u32 = 26;
/// Marks an entry that does not expire.
const FOR_EVER: u32 = u32::MAX;

/// A list of info-hashes.
#[derive(Clone, Debug)]
pub struct HashList {
    /// The first four bytes of an info-hash, shifted right by this, are its index in `starts`.
    shift: u32,
    starts: Box<[u32]>,
    hashes: Box<[InfoHash]>,
    /// Expiry of each hash in seconds since 1970. Empty if no hash expires.
    until: Box<[u32]>,
}

impl HashList {
    /// Returns the number of hashes, including expired ones.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Returns whether the list has no hashes.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Returns whether the hash is in the list and not expired. `now` is in seconds since 1970.
    #[inline]
    pub fn contains(&self, info_hash: &InfoHash, now: u64) -> bool {
        let place = (info_hash.head() >> self.shift) as usize;
        let (first, end) = (self.starts[place] as usize, self.starts[place + 1] as usize);
        let Ok(found) = self.hashes[first..end].binary_search(info_hash) else { return false };
        self.until.get(first + found).is_none_or(|&until| until == FOR_EVER || now < u64::from(until))
    }

    /// Returns all hashes, each with its expiry in seconds since 1970 if it has one.
    pub fn iter(&self) -> impl Iterator<Item = (InfoHash, Option<u32>)> {
        let until = |at| self.until.get(at).copied().filter(|&until| until != FOR_EVER);
        self.hashes.iter().enumerate().map(move |(at, hash)| (*hash, until(at)))
    }
}

/// Reads a list of info-hashes. Each line is `HASH [UNTIL]`. The hash has 40 hexadecimal or 32 base 32 digits (RFC
/// 4648). The expiry is in the format of RFC 3339 (`2027-01-31`, `2027-01-31T12:00:00Z`) or in seconds since 1970.
#[derive(Debug, Default)]
pub struct Hashes {
    entries: Vec<(InfoHash, u32)>,
    expires: bool,
}

impl Hashes {
    /// Adds a hash, with its expiry in seconds since 1970 if it has one.
    pub fn add(&mut self, info_hash: InfoHash, until: Option<u32>) {
        self.entries.push((info_hash, until.unwrap_or(FOR_EVER)));
        self.expires |= until.is_some();
    }
}

impl Entries for Hashes {
    type List = HashList;
    type Key = InfoHash;

    fn enter(&mut self, words: &[&[u8]]) -> Result<(), (usize, String)> {
        if self.entries.len() >= ACCESS_LIST_MAX_ENTRIES {
            return Err((0, format!("more than {ACCESS_LIST_MAX_ENTRIES} entries")));
        }
        let info_hash = Self::key(words[0])
            .ok_or_else(|| (0, "not an info-hash: use 40 hexadecimal or 32 base 32 digits".to_owned()))?;
        let until = match words {
            [_] => None,
            [_, until] => Some(parse_time(until).ok_or_else(|| {
                let what =
                    "not a time: use a form like 2027-01-31 or 2027-01-31T12:00:00Z, or seconds since 1970";
                (1, what.to_owned())
            })?),
            _ => return Err((2, "only a comment may follow the time".into())),
        };
        self.add(info_hash, until);
        Ok(())
    }

    fn finish(self) -> HashList {
        let Self { mut entries, expires } = self;
        // Of duplicates, the one with the later expiry is kept.
        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0).then(other.1.cmp(&one.1)));
        entries.dedup_by_key(|entry| entry.0);
        let bits = (entries.len() as u64).max(2).ilog2().min(MAX_BITS);
        let shift = u32::BITS - bits;
        let mut starts = vec![0_u32; (1 << bits) + 1].into_boxed_slice();
        for (hash, _) in &entries {
            starts[(hash.head() >> shift) as usize + 1] += 1;
        }
        let mut sum = 0;
        starts.iter_mut().for_each(|start| {
            sum += *start;
            *start = sum;
        });
        let until = if expires { entries.iter().map(|entry| entry.1).collect() } else { Box::default() };
        HashList { shift, starts, hashes: entries.iter().map(|entry| entry.0).collect(), until }
    }

    fn key(word: &[u8]) -> Option<InfoHash> {
        parse_hash(word)
    }
}

/// Parses an info-hash of 40 hexadecimal or 32 base 32 digits.
pub fn parse_hash(text: &[u8]) -> Option<InfoHash> {
    let mut hash = [0; 20];
    match text.len() {
        40 => {
            for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
                let digit = |digit: u8| char::from(digit).to_digit(16);
                *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
            }
        }
        32 => {
            for (bytes, digits) in hash.chunks_exact_mut(5).zip(text.chunks_exact(8)) {
                let mut bits = 0_u64;
                for digit in digits {
                    let value = match digit.to_ascii_uppercase() {
                        letter @ b'A'..=b'Z' => letter - b'A',
                        number @ b'2'..=b'7' => number - b'2' + 26,
                        _ => return None,
                    };
                    bits = bits << 5 | u64::from(value);
                }
                bytes.copy_from_slice(&bits.to_be_bytes()[3..]);
            }
        }
        _ => return None,
    }
    Some(InfoHash(hash))
}

/// Parses a date, a time or a number of seconds. Returns the seconds since 1970.
pub fn parse_time(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|&secs| secs != FOR_EVER);
    }
    let of_day = if text.len() == "2027-01-31".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = humantime::parse_rfc3339_weak(&of_day).ok()?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u32::try_from(since.as_secs()).ok().filter(|&secs| secs != FOR_EVER)
}
