//! Owns the fuzzing of snapshots: what is read and written again is the same, and of a file that was damaged nothing is
//! taken that wasn't in it, and that it was is said.

#![no_main]

use fastrand::Rng;
use gyre_core::snapshot::{Damage, Reader, file_head, put_block};
use gyre_core::swarm::{Position, Saved, Shard};
use gyre_core::time::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    check(read(bytes).0);
    // As it stands it has hardly ever the right checksum.
    let payloads: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'\n').filter(|payload| !payload.is_empty()).collect();
    for payloads in [&payloads[..], &[bytes]] {
        let mut file = file_head().to_vec();
        payloads.iter().chain(&[&b""[..]]).for_each(|payload| put_payload(&mut file, payload));
        check(read(&file).0);
    }
});

fn check(pieces: Vec<Saved>) {
    let file = write(&pieces);
    let (again, damage) = read(&file);
    assert!(damage.is_none());
    assert_eq!(essence(&again), essence(&pieces));
    damage_it(&file, &again);
    // It is entered, as far as it is young enough, and saved as it was entered.
    let now = Timestamp::from_secs(10_000);
    let mut shard = Shard::new([7; 16], 4_000, usize::MAX);
    let peers = shard.restore(now, pieces.iter().copied());
    let saved: Vec<Saved> = shard.walk(Position::default()).collect();
    let is_peer = |piece: &&Saved| matches!(piece, Saved::Peer { .. });
    assert_eq!(saved.iter().filter(is_peer).count() as u64, peers);
    assert!(peers <= pieces.iter().filter(is_peer).count() as u64);
    let mut beside = Shard::new([8; 16], 4_000, usize::MAX);
    assert!(beside.load(now, pieces.iter().chain(&pieces).copied()) <= peers);
}

/// All pieces of a file, as far as it is good, and why that is not all.
fn read(file: &[u8]) -> (Vec<Saved>, Option<Damage>) {
    let mut pieces = Vec::new();
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(damage) => return (pieces, Some(damage)),
    };
    loop {
        match reader.read_block(NOW, &mut pieces) {
            Ok(true) => {}
            Ok(false) => return (pieces, None),
            Err(damage) => return (pieces, Some(damage)),
        }
    }
}

fn write(pieces: &[Saved]) -> Vec<u8> {
    let mut file = file_head().to_vec();
    pieces.chunks(3).for_each(|block| put_block(&mut file, NOW, block.iter().copied()));
    put_block(&mut file, NOW, []);
    file
}

/// A block with the right checksum, whatever is in it.
fn put_payload(out: &mut Vec<u8>, payload: &[u8]) {
    let timed = [&NOW.to_le_bytes()[..], payload].concat();
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&timed).to_le_bytes());
    out.extend_from_slice(&timed);
}

/// Without the swarms that only say whose the peers are.
fn essence(pieces: &[Saved]) -> Vec<Saved> {
    pieces.iter().filter(|piece| !matches!(piece, Saved::Swarm { downloaded: 0, .. })).copied().collect()
}

/// A bit that is wrong, an end too early, a stretch that is missing or of zeros: as disks and copies do it.
fn damage_it(file: &[u8], pieces: &[Saved]) {
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
            // What is missing may have been a whole block, and zeros may have been there.
            let (read, damage) = read(&damaged);
            assert!(read.iter().all(|piece| pieces.contains(piece)), "made up");
            if damaged.len() == file.len() && damaged != file
                || file.starts_with(&damaged) && damaged.len() < file.len()
            {
                assert!(damage.is_some(), "unseen");
                assert!(pieces.starts_with(&read));
            }
        }
    }
}
