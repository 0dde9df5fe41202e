//! Owns the fuzzing of snapshots. Entries that are read and written again must be the same. From a damaged file only
//! entries of the original may be read, and the damage must be detected.

#![no_main]

use fastrand::Rng;
use gyre_core::snapshot::{Damage, Reader, file_head, put_block};
use gyre_core::swarm::{Position, Saved, Shard};
use gyre_core::time::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    check(read(bytes).0);
    // The input itself rarely has a valid checksum.
    let payloads: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'\n').filter(|payload| !payload.is_empty()).collect();
    for payloads in [&payloads[..], &[bytes]] {
        let mut file = file_head().to_vec();
        payloads.iter().chain(&[&b""[..]]).for_each(|payload| put_payload(&mut file, payload));
        check(read(&file).0);
    }
});

fn check(entries: Vec<Saved>) {
    let file = write(&entries);
    let (again, damage) = read(&file);
    assert!(damage.is_none());
    assert_eq!(without_bare_swarms(&again), without_bare_swarms(&entries));
    damage_it(&file, &again);
    // Entries that are not too old are restored, and saved again.
    let now = Timestamp::from_secs(10_000);
    let mut shard = Shard::new([7; 16], 4_000, usize::MAX);
    let peers = shard.restore(now, entries.iter().copied());
    let saved: Vec<Saved> = shard.walk(Position::default()).collect();
    let is_peer = |entry: &&Saved| matches!(entry, Saved::Peer { .. });
    assert_eq!(saved.iter().filter(is_peer).count() as u64, peers);
    assert!(peers <= entries.iter().filter(is_peer).count() as u64);
    let mut beside = Shard::new([8; 16], 4_000, usize::MAX);
    assert!(beside.load(now, entries.iter().chain(&entries).copied()) <= peers);
}

/// Reads all valid entries of a file, and the damage that ends them, if any.
fn read(file: &[u8]) -> (Vec<Saved>, Option<Damage>) {
    let mut entries = Vec::new();
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(damage) => return (entries, Some(damage)),
    };
    loop {
        match reader.read_block(NOW, &mut entries) {
            Ok(true) => {}
            Ok(false) => return (entries, None),
            Err(damage) => return (entries, Some(damage)),
        }
    }
}

fn write(entries: &[Saved]) -> Vec<u8> {
    let mut file = file_head().to_vec();
    entries.chunks(3).for_each(|block| put_block(&mut file, NOW, block.iter().copied()));
    put_block(&mut file, NOW, []);
    file
}

/// Writes a block of this payload with a valid checksum.
fn put_payload(out: &mut Vec<u8>, payload: &[u8]) {
    let timed = [&NOW.to_le_bytes()[..], payload].concat();
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&timed).to_le_bytes());
    out.extend_from_slice(&timed);
}

/// Returns the entries without the swarm entries that only precede their peers.
fn without_bare_swarms(entries: &[Saved]) -> Vec<Saved> {
    entries.iter().filter(|entry| !matches!(entry, Saved::Swarm { downloaded: 0, .. })).copied().collect()
}

/// Damages a file as disks and copies do: a wrong bit, a truncated end, a range that is missing or zero.
fn damage_it(file: &[u8], entries: &[Saved]) {
    let mut rng = Rng::with_seed(crc32fast::hash(file).into());
    for _ in 0..4 {
        let (at, length) = (rng.usize(..file.len()), rng.usize(1..=64));
        let end = (at + length).min(file.len());
        let mut flipped = file.to_vec();
        flipped[at] ^= 1 << rng.u8(..8);
        let mut zeroed = file.to_vec();
        zeroed[at..end].fill(0);
        let missing = [&file[..at], &file[end..]].concat();
        for damaged in [flipped, file[..at].to_vec(), zeroed, missing] {
            // The missing range may have been a whole block, and a zeroed one may have been zero before.
            let (read, damage) = read(&damaged);
            assert!(read.iter().all(|entry| entries.contains(entry)), "an entry that was not in the file");
            if damaged.len() == file.len() && damaged != file
                || file.starts_with(&damaged) && damaged.len() < file.len()
            {
                assert!(damage.is_some(), "damage not detected");
                assert!(entries.starts_with(&read));
            }
        }
    }
}
