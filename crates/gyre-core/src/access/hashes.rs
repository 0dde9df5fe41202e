//! Owns lists of info-hashes: millions of them, twenty bytes and a little for each, found by two looks into memory.
//!
//! The hashes lie sorted. A table says where those begin that have the same first bits; there are as many bits as make
//! stretches of one or two hashes, if the hashes are what they should be. If somebody has made them alike, a stretch is
//! long and searched by halves.

use std::time::{Duration, UNIX_EPOCH};

use super::lines::Entries;
use crate::limits::ACCESS_LIST_MAX_ENTRIES;
use crate::types::InfoHash;

/// Bits of the table at most: 256 MiB of it.
const MAX_BITS: u32 = 26;
/// An entry that has no end.
const FOR_EVER: u32 = u32::MAX;

/// A list of info-hashes.
#[derive(Clone, Debug)]
pub struct HashList {
    /// An info-hash's first four bytes without so many bits are its place in the table.
    shift: u32,
    starts: Box<[u32]>,
    hashes: Box<[InfoHash]>,
    /// When each of them ends, in seconds since 1970; empty if none does.
    until: Box<[u32]>,
}

impl HashList {
    /// How many there are, those at their end among them.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether this one is in the list, at a time in seconds since 1970.
    #[inline]
    pub fn contains(&self, info_hash: &InfoHash, now: u64) -> bool {
        let place = (info_hash.head() >> self.shift) as usize;
        let (first, end) = (self.starts[place] as usize, self.starts[place + 1] as usize);
        let Ok(found) = self.hashes[first..end].binary_search(info_hash) else { return false };
        self.until.get(first + found).is_none_or(|&until| until == FOR_EVER || now < u64::from(until))
    }

    /// All of them, each with its end in seconds since 1970 if it has one.
    pub fn iter(&self) -> impl Iterator<Item = (InfoHash, Option<u32>)> {
        let until = |at| self.until.get(at).copied().filter(|&until| until != FOR_EVER);
        self.hashes.iter().enumerate().map(move |(at, hash)| (*hash, until(at)))
    }
}

/// A list of info-hashes that is being read: `HASH [UNTIL]`, 40 hexadecimal digits or 32 of base 32 (RFC 4648), and
/// when the entry ends, as RFC 3339 writes it (`2027-01-31`, `2027-01-31T12:00:00Z`) or in seconds since 1970.
#[derive(Debug, Default)]
pub struct Hashes {
    entries: Vec<(InfoHash, u32)>,
    expires: bool,
}

impl Hashes {
    /// Adds one, until so many seconds after 1970 if it has an end.
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
        let info_hash = Self::key(words[0]).ok_or_else(|| {
            (0, "not an info-hash: 40 hexadecimal digits, or 32 of base 32, are one".to_owned())
        })?;
        let until = match words {
            [_] => None,
            [_, until] => Some(parse_time(until).ok_or_else(|| {
                let what =
                    "not a time: write it like 2027-01-31 or 2027-01-31T12:00:00Z, or in seconds since 1970";
                (1, what.to_owned())
            })?),
            _ => return Err((2, "nothing but a comment follows the time".into())),
        };
        self.add(info_hash, until);
        Ok(())
    }

    fn finish(self) -> HashList {
        let Self { mut entries, expires } = self;
        // Of an entry that is there twice the later end counts.
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

/// Reads 40 hexadecimal digits or 32 of base 32.
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

/// Reads a time; in seconds since 1970.
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
