//! Owns snapshots: written slice by slice while the worker goes on, held to what the table had meanwhile, read again by
//! another process.

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

/// A worker's part of a snapshot, on its way to a file.
pub(crate) struct Save {
    writer: SnapshotWriter,
    pub(crate) file: Vec<u8>,
    /// Peers that announced some time ago are left out.
    is_partial: bool,
    /// The peers at its start, each with its serial number.
    there: BTreeMap<(InfoHash, SocketAddr), u64>,
    met: BTreeSet<(InfoHash, SocketAddr)>,
    /// The swarm that the last slice ended in, and how often a seeder had become a leecher by then.
    paused_in: Option<(InfoHash, u64)>,
    /// Swarms that a pause fell into, in which a seeder became a leecher meanwhile: of these one may be missed.
    excused: BTreeSet<InfoHash>,
}

/// A snapshot: a file for each worker that wrote it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) files: Vec<Vec<u8>>,
    pub(crate) began_unix_secs: u64,
}

impl Save {
    pub(crate) fn begin(worker: usize, check: &Check, young_secs: Option<u32>) -> Self {
        let swarms = &check.oracle.parts[worker].swarms;
        let peers = swarms.iter().flat_map(|(hash, swarm)| {
            swarm.peers.iter().map(|(address, peer)| ((*hash, *address), peer.serial))
        });
        let mut file = Vec::new();
        Self {
            writer: SnapshotWriter::start(young_secs, &mut file),
            file,
            is_partial: young_secs.is_some(),
            there: peers.collect(),
            met: BTreeSet::new(),
            paused_in: None,
            excused: BTreeSet::new(),
        }
    }

    /// Whether all is written.
    pub(crate) fn is_done(&self) -> bool {
        self.writer.is_done()
    }

    /// Writes a slice of at least `at_least` pieces. Returns true at the end.
    pub(crate) fn slice(
        &mut self,
        worker: usize,
        engine: &Engine,
        check: &Check,
        at_least: usize,
        unix_secs: u64,
    ) -> bool {
        let swarms = &check.oracle.parts[worker].swarms;
        let relapses = |hash: &InfoHash| swarms.get(hash).map(|swarm| swarm.relapses);
        if let Some((hash, before)) = self.paused_in
            && relapses(&hash) != Some(before)
        {
            self.excused.insert(hash);
        }
        if self.is_done() {
            return true;
        }
        let start = self.file.len();
        engine.save_slice(&mut self.writer, at_least, unix_secs, &mut self.file);
        for piece in pieces(&self.file[start..], unix_secs) {
            let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = piece;
            self.paused_in = relapses(&info_hash).map(|relapses| (info_hash, relapses));
            let swarm = swarms.get(&info_hash).unwrap_or_else(|| panic!("an unknown swarm: {piece:?}"));
            match piece {
                // Where a slice begins in the middle of a swarm nothing is said of its downloads.
                Saved::Swarm { downloaded, .. } => assert!([0, swarm.downloaded].contains(&downloaded)),
                Saved::Peer { peer, seeder, .. } => {
                    let known = swarm.peers.get(&peer.unpack()).map(|known| known.seeder);
                    assert_eq!(known, Some(seeder), "what was saved of {:?}", peer.unpack());
                    self.met.insert((info_hash, peer.unpack()));
                }
            }
        }
        if self.is_done() {
            self.hold(worker, check);
        }
        self.is_done()
    }

    /// Checks that the file has all peers that were there all the time.
    fn hold(&self, worker: usize, check: &Check) {
        if self.is_partial {
            return;
        }
        let swarms = &check.oracle.parts[worker].swarms;
        for ((hash, address), serial) in &self.there {
            let stayed = swarms.get(hash).and_then(|swarm| swarm.peers.get(address));
            let stayed = stayed.is_some_and(|peer| peer.serial == *serial);
            let met = self.met.contains(&(*hash, *address));
            assert!(met || !stayed || self.excused.contains(hash), "{address} of {hash:?} was not saved");
        }
    }
}

/// The pieces of some blocks.
fn pieces(blocks: &[u8], unix_secs: u64) -> Vec<Saved> {
    let file = [&file_head()[..], blocks].concat();
    let mut reader = Reader::new(&file[..]).expect("a file's head");
    let mut pieces = Vec::new();
    while reader.read_block(unix_secs, &mut pieces).is_ok_and(|more| more) {}
    pieces
}

/// Deals the pieces of a file to the workers that own them now; says whether it was whole.
fn dealt(file: &[u8], unix_secs: u64, owners: &Owners) -> (Vec<(usize, Vec<Saved>)>, bool) {
    let hands = RefCell::new(Vec::new());
    let give =
        |owner: gyre_core::types::WorkerId, hand: Vec<Saved>| hands.borrow_mut().push((owner.index(), hand));
    let read = distribute(file, unix_secs, owners, give);
    (hands.into_inner(), read.is_ok())
}

impl Snapshot {
    /// Has the engines of a new process begin with what was saved; returns how many peers that was.
    pub(crate) fn restore(
        &self,
        now: Timestamp,
        unix_secs: u64,
        engines: &mut [Engine],
        check: &mut Check,
    ) -> u64 {
        let mut restored = 0;
        for file in &self.files {
            let (hands, is_whole) = dealt(file, unix_secs, &check.owners);
            check.log.add("damaged files", u64::from(!is_whole));
            for (owner, hand) in hands {
                for piece in &hand {
                    check.oracle.load(owner, now.as_micros(), piece, false);
                }
                restored += engines[owner].restore(now, hand);
            }
        }
        for (worker, engine) in engines.iter_mut().enumerate() {
            engine.gauge(now);
            if check.oracle.is_limited {
                check.oracle.learn_refused(worker, engine);
            }
        }
        restored
    }

    /// The pieces by the hand, for workers that serve already.
    pub(crate) fn hands(&self, unix_secs: u64, owners: &Owners) -> Vec<(usize, Vec<Saved>)> {
        self.files.iter().flat_map(|file| dealt(file, unix_secs, owners).0).collect()
    }
}
