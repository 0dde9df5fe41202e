//! Owns the form in which a table is kept in a file.
//!
//! ```text
//!  file:   magic 8, version 4, blocks ..., end block
//!  block:  payload length 4, CRC-32 of what follows 4, unix time 8, payload      (numbers little-endian)
//!  payload: swarm 0x00, info-hash 20, downloaded varint
//!           peer  0x02 IPv4 or 0x04 IPv6, + 1 for a seeder; address and port 6 or 18, age varint
//! ```
//!
//! A peer belongs to the swarm before it, and each block begins with a swarm, so that each is good by itself. Ages are
//! seconds before the block's time. The end block is empty: a file without it was cut short.

use std::io::{self, ErrorKind, Read};
use std::iter;

use crate::canary::{self, Canary};
use crate::limits::{SNAPSHOT_BLOCK_MAX_BYTES, SNAPSHOT_SLICE};
use crate::owner::Owners;
use crate::swarm::{Position, Saved, Saving};
use crate::types::{InfoHash, PeerAddr, WorkerId};

const MAGIC: &[u8; 8] = b"gyreswrm";
const VERSION: u32 = 1;
/// What is before the first block.
pub const FILE_HEAD_BYTES: usize = 12;
const BLOCK_HEAD_BYTES: usize = 16;
const SWARM: u8 = 0;
const V4: u8 = 2;
const V6: u8 = 4;
const SEEDER: u8 = 1;

/// What is before the first block.
pub fn file_head() -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..].copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// Writes a block of these pieces, in the order of a walk, at the end of `out`; of none the end block.
pub fn put_block(out: &mut Vec<u8>, unix_secs: u64, pieces: impl IntoIterator<Item = Saved>) {
    let start = out.len();
    out.extend_from_slice(&[0; BLOCK_HEAD_BYTES]);
    let mut swarm = None;
    for piece in pieces {
        let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = piece;
        match piece {
            Saved::Swarm { downloaded, .. } => put_swarm(out, &info_hash, downloaded),
            Saved::Peer { peer, seeder, age_secs, .. } => {
                if swarm != Some(info_hash) {
                    put_swarm(out, &info_hash, 0); // its downloads are in an earlier block
                }
                let kind = if let PeerAddr::V4(_) = peer { V4 } else { V6 };
                out.push(kind | if seeder { SEEDER } else { 0 });
                out.extend_from_slice(peer.as_bytes());
                put_varint(out, age_secs);
            }
        }
        swarm = Some(info_hash);
    }
    let payload = (out.len() - start - BLOCK_HEAD_BYTES) as u32;
    out[start..start + 4].copy_from_slice(&payload.to_le_bytes());
    out[start + 8..start + BLOCK_HEAD_BYTES].copy_from_slice(&unix_secs.to_le_bytes());
    let checksum = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Writes the next [slice](Saving::slice) of a walk as a block, and of it the peers that announced within `young_secs`
/// alone, if that is said. Says where the walk is to go on; `None`: it was at its end.
pub fn put_slice(
    out: &mut Vec<u8>,
    mut walk: Saving<'_>,
    at_least: usize,
    unix_secs: u64,
    young_secs: Option<u32>,
) -> Option<Position> {
    if canary::on(Canary::SavesLess) {
        walk.next();
    }
    let mut slice = walk.slice(at_least);
    let first = slice.next()?; // an empty block is the end
    let pieces = iter::once(first).chain(slice);
    match young_secs {
        None => put_block(out, unix_secs, pieces),
        Some(secs) => {
            let young = young(pieces, secs);
            if !young.is_empty() {
                put_block(out, unix_secs, young);
            }
        }
    }
    Some(walk.position())
}

/// The peers that announced within so many seconds, and their swarms. (The downloads of a swarm that a slice begins in
/// the middle of are left out.)
fn young(pieces: impl Iterator<Item = Saved>, secs: u32) -> Vec<Saved> {
    let (mut kept, mut swarm) = (Vec::new(), None);
    for piece in pieces {
        match piece {
            Saved::Swarm { .. } => swarm = Some(piece),
            Saved::Peer { age_secs, .. } if age_secs <= secs => {
                kept.extend(swarm.take().into_iter().chain([piece]));
            }
            Saved::Peer { .. } => {}
        }
    }
    kept
}

fn put_swarm(out: &mut Vec<u8>, info_hash: &InfoHash, downloaded: u32) {
    out.push(SWARM);
    out.extend_from_slice(&info_hash.0);
    put_varint(out, downloaded);
}

/// Seven bits a byte, the lowest first; the highest bit of a byte says that another follows.
fn put_varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Why a file can't be read to its end. What came before is good.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It can't be read at all.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It begins like another kind of file.
    #[error("it is no snapshot")]
    Kind,
    /// It was written by another version of this program.
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// It ends before its end.
    #[error("it is cut short, after {at} bytes")]
    Short {
        /// Where.
        at: u64,
    },
    /// What is in it is not what was written.
    #[error("the block at byte {at} is damaged")]
    Block {
        /// Where.
        at: u64,
    },
}

/// Reads a file, a block at a time.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// Bytes that were read.
    at: u64,
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads what is before the first block.
    ///
    /// # Errors
    ///
    /// It is another file.
    pub fn new(from: R) -> Result<Self, Damage> {
        let mut reader = Self { from, at: 0, payload: Vec::new() };
        let mut head = [0; FILE_HEAD_BYTES];
        reader.fill(&mut head)?;
        if head[..8] != MAGIC[..] {
            return Err(Damage::Kind);
        }
        match u32::from_le_bytes([head[8], head[9], head[10], head[11]]) {
            VERSION => Ok(reader),
            other => Err(Damage::Version(other)),
        }
    }

    /// Reads the next block, adding its pieces to `pieces` with their ages as of `now_unix_secs`. False at the end.
    ///
    /// # Errors
    ///
    /// The block is damaged; nothing of it was added.
    pub fn block(&mut self, now_unix_secs: u64, pieces: &mut Vec<Saved>) -> Result<bool, Damage> {
        let at = self.at;
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.fill(&mut head)?;
        let [length, checksum] = [0, 4].map(|at| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_le_bytes(bytes)
        });
        if length as usize > SNAPSHOT_BLOCK_MAX_BYTES {
            return Err(Damage::Block { at });
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length as usize, 0);
        self.fill(&mut payload)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[8..]);
        hasher.update(&payload);
        let unix_secs = head[8..].try_into().map_or(0, u64::from_le_bytes);
        let passed = u32::try_from(now_unix_secs.saturating_sub(unix_secs)).unwrap_or(u32::MAX);
        let before = pieces.len();
        let good = hasher.finalize() == checksum && decode(&payload, passed, pieces).is_some();
        self.payload = payload;
        if !good {
            pieces.truncate(before);
            return Err(Damage::Block { at });
        }
        Ok(length > 0)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Damage> {
        let at = self.at;
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Damage::Short { at },
            _ => Damage::Io(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Reads a file and deals its pieces, with their ages as of `now_unix_secs`, to their owners, who are given them by the
/// hand.
///
/// # Errors
///
/// The file is damaged; what came before the damage was dealt.
pub fn deal(
    from: impl Read,
    now_unix_secs: u64,
    owners: &Owners,
    give: impl Fn(WorkerId, Vec<Saved>),
) -> Result<(), Damage> {
    let mut reader = Reader::new(from)?;
    let mut hands: Vec<Vec<Saved>> = vec![Vec::new(); owners.workers()];
    let mut pieces = Vec::new();
    let ended = loop {
        match reader.block(now_unix_secs, &mut pieces) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(damage) => break Err(damage),
        }
        for piece in pieces.drain(..) {
            let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = piece;
            let owner = owners.of(&info_hash);
            let hand = &mut hands[owner.index()];
            hand.push(piece);
            if hand.len() >= SNAPSHOT_SLICE {
                give(owner, std::mem::replace(hand, Vec::with_capacity(SNAPSHOT_SLICE)));
            }
        }
    };
    hands.into_iter().enumerate().for_each(|(owner, hand)| give(WorkerId(owner as u16), hand));
    ended
}

/// `None`: these are no pieces.
fn decode(mut payload: &[u8], passed_secs: u32, pieces: &mut Vec<Saved>) -> Option<()> {
    let mut swarm = None;
    while let [kind, rest @ ..] = payload {
        payload = rest;
        if *kind == SWARM {
            let info_hash = InfoHash(take(&mut payload)?);
            let downloaded = take_varint(&mut payload)?;
            swarm = Some(info_hash);
            pieces.push(Saved::Swarm { info_hash, downloaded });
            continue;
        }
        let peer = match kind & !SEEDER {
            V4 => PeerAddr::V4(take(&mut payload)?),
            V6 => PeerAddr::V6(take(&mut payload)?),
            _ => return None,
        };
        let age_secs = take_varint(&mut payload)?.saturating_add(passed_secs);
        pieces.push(Saved::Peer { info_hash: swarm?, peer, seeder: kind & SEEDER != 0, age_secs });
    }
    Some(())
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*bytes)
}

fn take_varint(from: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in (0..u32::BITS).step_by(7) {
        let [byte] = take(from)?;
        let bits = u32::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// All pieces of a file, as far as it is good, and why that is not all.
    fn read(file: &[u8], now: u64) -> (Vec<Saved>, Option<Damage>) {
        let mut pieces = Vec::new();
        let mut reader = match Reader::new(file) {
            Ok(reader) => reader,
            Err(damage) => return (pieces, Some(damage)),
        };
        loop {
            match reader.block(now, &mut pieces) {
                Ok(true) => {}
                Ok(false) => return (pieces, None),
                Err(damage) => return (pieces, Some(damage)),
            }
        }
    }

    fn file(blocks: &[Vec<Saved>]) -> Vec<u8> {
        let mut out = file_head().to_vec();
        blocks
            .iter()
            .filter(|block| !block.is_empty())
            .for_each(|block| put_block(&mut out, 100, block.clone()));
        put_block(&mut out, 100, []);
        out
    }

    fn piece() -> impl Strategy<Value = Saved> {
        let hash = (0..3_u8).prop_map(|byte| InfoHash([byte; 20]));
        let addr =
            prop_oneof![any::<[u8; 6]>().prop_map(PeerAddr::V4), any::<[u8; 18]>().prop_map(PeerAddr::V6)];
        prop_oneof![
            (hash.clone(), any::<u32>())
                .prop_map(|(info_hash, downloaded)| Saved::Swarm { info_hash, downloaded }),
            (hash, addr, any::<bool>(), 0..u32::MAX - 1_000).prop_map(
                |(info_hash, peer, seeder, age_secs)| { Saved::Peer { info_hash, peer, seeder, age_secs } }
            ),
        ]
    }

    /// Without the swarms that only say whose the peers are.
    fn essence(pieces: &[Saved]) -> Vec<Saved> {
        pieces.iter().filter(|piece| !matches!(piece, Saved::Swarm { downloaded: 0, .. })).copied().collect()
    }

    #[test]
    fn another_file_is_told_apart() {
        assert!(matches!(read(b"", 0).1, Some(Damage::Short { at: 0 })));
        assert!(matches!(read(b"#!/bin/sh -efx", 0).1, Some(Damage::Kind)));
        let mut newer = file(&[]);
        newer[8] = 2;
        assert_eq!(read(&newer, 0).1.unwrap().to_string(), "it has version 2; this program reads version 1");
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(ErrorKind::IsADirectory.into())
            }
        }
        assert!(matches!(Reader::new(Broken), Err(Damage::Io(_))));
    }

    #[test]
    fn ages_grow_with_the_time_that_has_passed() {
        let peer = |age_secs| Saved::Peer {
            info_hash: InfoHash([1; 20]),
            peer: PeerAddr::V4([9; 6]),
            seeder: true,
            age_secs,
        };
        let file = file(&[vec![peer(7)]]);
        assert_eq!(essence(&read(&file, 160).0), [peer(67)]);
        assert_eq!(essence(&read(&file, 40).0), [peer(7)], "the clock was set back");
        assert_eq!(essence(&read(&file, u64::MAX).0), [peer(u32::MAX)]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in vec(vec(piece(), 0..20), 0..4)) {
            let (pieces, damage) = read(&file(&blocks), 100);
            prop_assert!(damage.is_none());
            prop_assert_eq!(essence(&pieces), essence(&blocks.concat()));
        }

        #[test]
        fn damage_is_seen_and_what_comes_before_it_is_kept(
            blocks in vec(vec(piece(), 1..10), 1..4),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
            cut: bool,
        ) {
            let whole = file(&blocks);
            let (expected, _) = read(&whole, 100);
            let mut damaged = whole.clone();
            let at = at.index(whole.len());
            if cut { damaged.truncate(at) } else { damaged[at] ^= 1 << bit }
            let (pieces, damage) = read(&damaged, 100);
            prop_assert!(damage.is_some());
            prop_assert!(expected.starts_with(&pieces));
        }

        #[test]
        fn junk_is_no_more_than_junk(junk: Vec<u8>, checksum: bool) {
            let mut file = file_head().to_vec();
            if checksum {
                let head = [&(junk.len() as u32).to_le_bytes()[..], &[0; 4], &[0; 8]].concat();
                let sum = crc32fast::hash(&[&head[8..], &junk].concat());
                file.extend([&head[..4], &sum.to_le_bytes(), &head[8..]].concat());
            }
            file.extend(&junk);
            let _ = read(&file, 0);
        }
    }
}
