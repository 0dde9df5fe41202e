//! Owns the file format of a table snapshot.
//!
//! ```text
//!  file:   magic 8, version 4, blocks ..., end block
//!  block:  payload length 4, CRC-32 of what follows 4, unix time 8, payload      (numbers little-endian)
//!  payload: swarm 0x00, info-hash 20, downloaded varint
//!           peer  0x02 IPv4 or 0x04 IPv6, + 1 for a seeder; address and port 6 or 18, age varint
//! ```
//!
//! A peer belongs to the last swarm before it. Each block starts with a swarm, so that it can be read by itself. Ages
//! are in seconds before the block's time. The end block is empty. A file without one is truncated.

use std::io::{self, ErrorKind, Read};
use std::iter;

use crate::canary::{self, Canary};
use crate::limits::{SNAPSHOT_BLOCK_MAX_BYTES, SNAPSHOT_SLICE};
use crate::owner::Owners;
use crate::swarm::{Position, Saved, TableWalk};
use crate::types::{InfoHash, PeerAddr, WorkerId};

const MAGIC: &[u8; 8] = b"gyreswrm";
const VERSION: u32 = 1;
/// Bytes of the file head, before the first block.
pub const FILE_HEAD_BYTES: usize = 12;
const BLOCK_HEAD_BYTES: usize = 16;
const SWARM: u8 = 0;
const V4: u8 = 2;
const V6: u8 = 4;
const SEEDER: u8 = 1;

/// Returns the file head.
pub fn file_head() -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..].copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// Appends a block of these entries, in the order of a table walk, to `out`. Without entries it is the end block.
pub fn put_block(out: &mut Vec<u8>, unix_secs: u64, entries: impl IntoIterator<Item = Saved>) {
    let start = out.len();
    out.extend_from_slice(&[0; BLOCK_HEAD_BYTES]);
    let mut swarm = None;
    for entry in entries {
        let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = entry;
        match entry {
            Saved::Swarm { downloaded, .. } => put_swarm(out, &info_hash, downloaded),
            Saved::Peer { peer, seeder, age_secs, .. } => {
                if swarm != Some(info_hash) {
                    put_swarm(out, &info_hash, 0); // an earlier block has its downloads
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

/// Appends the next [slice](TableWalk::slice) of a walk as a block. With `max_age_secs`, only peers that announced
/// within that time are written. Returns the position from which to continue, or `None` at the end of the walk.
pub fn put_slice(
    out: &mut Vec<u8>,
    mut walk: TableWalk<'_>,
    at_least: usize,
    unix_secs: u64,
    max_age_secs: Option<u32>,
) -> Option<Position> {
    if canary::on(Canary::SavesLess) {
        walk.next();
    }
    let mut slice = walk.slice(at_least);
    let first = slice.next()?; // an empty block would be the end block
    let entries = iter::once(first).chain(slice);
    match max_age_secs {
        None => put_block(out, unix_secs, entries),
        Some(max_age_secs) => {
            let recent = recent(entries, max_age_secs);
            if !recent.is_empty() {
                put_block(out, unix_secs, recent);
            }
        }
    }
    Some(walk.position())
}

/// Returns the peers that announced within `max_age_secs`, and their swarms. If the slice starts in the middle of a
/// swarm, that swarm's downloads are left out.
fn recent(entries: impl Iterator<Item = Saved>, max_age_secs: u32) -> Vec<Saved> {
    let (mut kept, mut swarm) = (Vec::new(), None);
    for entry in entries {
        match entry {
            Saved::Swarm { .. } => swarm = Some(entry),
            Saved::Peer { age_secs, .. } if age_secs <= max_age_secs => {
                kept.extend(swarm.take().into_iter().chain([entry]));
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

/// Writes seven bits in each byte, the lowest first. The highest bit of a byte is set if another byte follows.
fn put_varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Why a file can't be read to its end. The blocks read before are valid.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// An I/O error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is not a snapshot.
    #[error("not a snapshot")]
    Kind,
    /// The file has another version of the format.
    #[error("version {0} is not supported: this program reads version {VERSION}")]
    Version(u32),
    /// The file is truncated.
    #[error("truncated after {at} bytes")]
    Short {
        /// The offset of the incomplete part, in bytes.
        at: u64,
    },
    /// A block is damaged.
    #[error("the block at byte {at} is damaged")]
    Block {
        /// The offset of the block, in bytes.
        at: u64,
    },
}

/// Reads a file block by block.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// Number of bytes read so far.
    at: u64,
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the file head.
    ///
    /// # Errors
    ///
    /// If the file can't be read, is not a snapshot, or has another version.
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

    /// Reads the next block and appends its entries to `entries`, with their ages at `now_unix_secs`. Returns false at
    /// the end block.
    ///
    /// # Errors
    ///
    /// If the block is damaged or can't be read. Nothing is appended then.
    pub fn read_block(&mut self, now_unix_secs: u64, entries: &mut Vec<Saved>) -> Result<bool, Damage> {
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
        let before = entries.len();
        let good = hasher.finalize() == checksum && decode(&payload, passed, entries).is_some();
        self.payload = payload;
        if !good {
            entries.truncate(before);
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

/// Reads a file and distributes its entries, with their ages at `now_unix_secs`, to the owners of their swarms. `give`
/// gets up to [`SNAPSHOT_SLICE`] entries at a time.
///
/// # Errors
///
/// If the file is damaged. The entries before the damage have been distributed.
pub fn distribute(
    from: impl Read,
    now_unix_secs: u64,
    owners: &Owners,
    give: impl Fn(WorkerId, Vec<Saved>),
) -> Result<(), Damage> {
    let mut reader = Reader::new(from)?;
    let mut batches: Vec<Vec<Saved>> = vec![Vec::new(); owners.workers()];
    let mut entries = Vec::new();
    let ended = loop {
        match reader.read_block(now_unix_secs, &mut entries) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(damage) => break Err(damage),
        }
        for entry in entries.drain(..) {
            let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = entry;
            let owner = owners.of(&info_hash);
            let batch = &mut batches[owner.index()];
            batch.push(entry);
            if batch.len() >= SNAPSHOT_SLICE {
                give(owner, std::mem::replace(batch, Vec::with_capacity(SNAPSHOT_SLICE)));
            }
        }
    };
    batches.into_iter().enumerate().for_each(|(owner, batch)| give(WorkerId(owner as u16), batch));
    ended
}

/// Decodes the entries of a payload. `None` if the payload is malformed.
fn decode(mut payload: &[u8], passed_secs: u32, entries: &mut Vec<Saved>) -> Option<()> {
    let mut swarm = None;
    while let [kind, rest @ ..] = payload {
        payload = rest;
        if *kind == SWARM {
            let info_hash = InfoHash(take(&mut payload)?);
            let downloaded = take_varint(&mut payload)?;
            swarm = Some(info_hash);
            entries.push(Saved::Swarm { info_hash, downloaded });
            continue;
        }
        let peer = match kind & !SEEDER {
            V4 => PeerAddr::V4(take(&mut payload)?),
            V6 => PeerAddr::V6(take(&mut payload)?),
            _ => return None,
        };
        let age_secs = take_varint(&mut payload)?.saturating_add(passed_secs);
        entries.push(Saved::Peer { info_hash: swarm?, peer, seeder: kind & SEEDER != 0, age_secs });
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

    /// Reads all valid entries of a file, and the damage that ends them, if any.
    fn read(file: &[u8], now: u64) -> (Vec<Saved>, Option<Damage>) {
        let mut entries = Vec::new();
        let mut reader = match Reader::new(file) {
            Ok(reader) => reader,
            Err(damage) => return (entries, Some(damage)),
        };
        loop {
            match reader.read_block(now, &mut entries) {
                Ok(true) => {}
                Ok(false) => return (entries, None),
                Err(damage) => return (entries, Some(damage)),
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

    fn entry() -> impl Strategy<Value = Saved> {
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

    /// Returns the entries without the swarm entries that only precede their peers.
    fn without_bare_swarms(entries: &[Saved]) -> Vec<Saved> {
        entries.iter().filter(|entry| !matches!(entry, Saved::Swarm { downloaded: 0, .. })).copied().collect()
    }

    #[test]
    fn other_files_are_rejected() {
        assert!(matches!(read(b"", 0).1, Some(Damage::Short { at: 0 })));
        assert!(matches!(read(b"#!/bin/sh -efx", 0).1, Some(Damage::Kind)));
        let mut newer = file(&[]);
        newer[8] = 2;
        assert_eq!(
            read(&newer, 0).1.unwrap().to_string(),
            "version 2 is not supported: this program reads version 1"
        );
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(ErrorKind::IsADirectory.into())
            }
        }
        assert!(matches!(Reader::new(Broken), Err(Damage::Io(_))));
    }

    #[test]
    fn ages_include_the_time_since_the_snapshot() {
        let peer = |age_secs| Saved::Peer {
            info_hash: InfoHash([1; 20]),
            peer: PeerAddr::V4([9; 6]),
            seeder: true,
            age_secs,
        };
        let file = file(&[vec![peer(7)]]);
        assert_eq!(without_bare_swarms(&read(&file, 160).0), [peer(67)]);
        assert_eq!(without_bare_swarms(&read(&file, 40).0), [peer(7)], "the clock was set back");
        assert_eq!(without_bare_swarms(&read(&file, u64::MAX).0), [peer(u32::MAX)]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(blocks in vec(vec(entry(), 0..20), 0..4)) {
            let (entries, damage) = read(&file(&blocks), 100);
            prop_assert!(damage.is_none());
            prop_assert_eq!(without_bare_swarms(&entries), without_bare_swarms(&blocks.concat()));
        }

        #[test]
        fn damage_is_detected_and_the_blocks_before_it_are_read(
            blocks in vec(vec(entry(), 1..10), 1..4),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
            cut: bool,
        ) {
            let whole = file(&blocks);
            let (expected, _) = read(&whole, 100);
            let mut damaged = whole.clone();
            let at = at.index(whole.len());
            if cut { damaged.truncate(at) } else { damaged[at] ^= 1 << bit }
            let (entries, damage) = read(&damaged, 100);
            prop_assert!(damage.is_some());
            prop_assert!(expected.starts_with(&entries));
        }

        #[test]
        fn junk_does_not_panic(junk: Vec<u8>, checksum: bool) {
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
