//! Owns snapshots. A worker writes one in slices while it goes on. What it writes is checked against the model, and
//! another process reads it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use gyre_core::engine::{Engine, SnapshotWriter};
use gyre_core::owner::Owners;
use gyre_core::snapshot::{Reader, distribute, file_head};
use gyre_core::swarm::Saved;
use gyre_core::time::Timestamp;
use gyre_core::types::InfoHash;

use crate::check::Check;

/// The snapshot of one worker, while it is written.
pub(crate) struct SnapshotPart {
    writer: SnapshotWriter,
    pub(crate) file: Vec<u8>,
    /// Whether old peers are left out.
    is_partial: bool,
    /// Peers at the start of the snapshot, with their serial numbers.
    peers_at_start: BTreeMap<(InfoHash, SocketAddr), u64>,
    saved_peers: BTreeSet<(InfoHash, SocketAddr)>,
    /// The swarm that the last slice ended in, with its count of seeders that became leechers.
    paused_in: Option<(InfoHash, u64)>,
    /// Swarms in which a seeder became a leecher while the snapshot paused inside them. It may miss a peer of them.
    may_miss_peers: BTreeSet<InfoHash>,
}

/// A snapshot: a file for each worker that wrote it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) files: Vec<Vec<u8>>,
    pub(crate) began_unix_secs: u64,
}

impl SnapshotPart {
    pub(crate) fn begin(worker: usize, check: &Check, max_age_secs: Option<u32>) -> Self {
        let swarms = &check.oracle.tables[worker].swarms;
        let peers = swarms.iter().flat_map(|(hash, swarm)| {
            swarm.peers.iter().map(|(address, peer)| ((*hash, *address), peer.serial))
        });
        let mut file = Vec::new();
        Self {
            writer: SnapshotWriter::start(max_age_secs, &mut file),
            file,
            is_partial: max_age_secs.is_some(),
            peers_at_start: peers.collect(),
            saved_peers: BTreeSet::new(),
            paused_in: None,
            may_miss_peers: BTreeSet::new(),
        }
    }

    /// Returns whether everything is written.
    pub(crate) fn is_done(&self) -> bool {
        self.writer.is_done()
    }

    /// Writes a slice of at least `at_least` pieces. Returns whether it was the last one.
    pub(crate) fn slice(
        &mut self,
        worker: usize,
        engine: &Engine,
        check: &Check,
        at_least: usize,
        unix_secs: u64,
    ) -> bool {
        let swarms = &check.oracle.tables[worker].swarms;
        let demotions = |hash: &InfoHash| swarms.get(hash).map(|swarm| swarm.demotions);
        if let Some((hash, before)) = self.paused_in
            && demotions(&hash) != Some(before)
        {
            self.may_miss_peers.insert(hash);
        }
        if self.is_done() {
            return true;
        }
        let start = self.file.len();
        engine.save_slice(&mut self.writer, at_least, unix_secs, &mut self.file);
        for piece in pieces(&self.file[start..], unix_secs) {
            let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = piece;
            self.paused_in = demotions(&info_hash).map(|demotions| (info_hash, demotions));
            let swarm = swarms
                .get(&info_hash)
                .unwrap_or_else(|| panic!("a swarm that the model does not have: {piece:?}"));
            match piece {
                // A slice that starts inside a swarm has no downloads of it.
                Saved::Swarm { downloaded, .. } => assert!([0, swarm.downloaded].contains(&downloaded)),
                Saved::Peer { peer, seeder, .. } => {
                    let known = swarm.peers.get(&peer.unpack()).map(|known| known.seeder);
                    assert_eq!(known, Some(seeder), "whether {:?} was saved as a seeder", peer.unpack());
                    self.saved_peers.insert((info_hash, peer.unpack()));
                }
            }
        }
        if self.is_done() {
            self.check_complete(worker, check);
        }
        self.is_done()
    }

    /// Checks that all peers that stayed from the start to the end are in the file.
    fn check_complete(&self, worker: usize, check: &Check) {
        if self.is_partial {
            return;
        }
        let swarms = &check.oracle.tables[worker].swarms;
        for ((hash, address), serial) in &self.peers_at_start {
            let stayed = swarms.get(hash).and_then(|swarm| swarm.peers.get(address));
            let stayed = stayed.is_some_and(|peer| peer.serial == *serial);
            let was_saved = self.saved_peers.contains(&(*hash, *address));
            assert!(
                was_saved || !stayed || self.may_miss_peers.contains(hash),
                "peer {address} of {hash:?} was not saved"
            );
        }
    }
}

/// Returns the pieces in these blocks.
fn pieces(blocks: &[u8], unix_secs: u64) -> Vec<Saved> {
    let file = [&file_head()[..], blocks].concat();
    let mut reader = Reader::new(&file[..]).expect("a valid file head");
    let mut pieces = Vec::new();
    while reader.read_block(unix_secs, &mut pieces).is_ok_and(|more| more) {}
    pieces
}

/// Reads a file and returns its pieces by owner, and whether the file was undamaged.
fn read_by_owner(file: &[u8], unix_secs: u64, owners: &Owners) -> (Vec<(usize, Vec<Saved>)>, bool) {
    let batches = RefCell::new(Vec::new());
    let give = |owner: gyre_core::types::WorkerId, batch: Vec<Saved>| {
        batches.borrow_mut().push((owner.index(), batch));
    };
    let read = distribute(file, unix_secs, owners, give);
    (batches.into_inner(), read.is_ok())
}

impl Snapshot {
    /// Restores the snapshot into the engines of a new process. Returns the number of peers.
    pub(crate) fn restore(
        &self,
        now: Timestamp,
        unix_secs: u64,
        engines: &mut [Engine],
        check: &mut Check,
    ) -> u64 {
        let mut restored = 0;
        for file in &self.files {
            let (batches, is_whole) = read_by_owner(file, unix_secs, &check.owners);
            check.log.add("damaged snapshot files", u64::from(!is_whole));
            for (owner, batch) in batches {
                for piece in &batch {
                    check.oracle.load(owner, now.as_micros(), piece, false);
                }
                restored += engines[owner].restore(now, batch);
            }
        }
        for (worker, engine) in engines.iter_mut().enumerate() {
            engine.gauge(now);
            if check.oracle.is_limited {
                check.oracle.apply_refusals(worker, engine);
            }
        }
        restored
    }

    /// Returns the pieces by owner, for workers that already serve.
    pub(crate) fn batches(&self, unix_secs: u64, owners: &Owners) -> Vec<(usize, Vec<Saved>)> {
        self.files.iter().flat_map(|file| read_by_owner(file, unix_secs, owners).0).collect()
    }
}
