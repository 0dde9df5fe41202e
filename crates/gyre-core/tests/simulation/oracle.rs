//! Owns the naive tracker: a plain model of the swarms in the table of each worker.
//!
//! The model is exact wherever the tracker promises an exact result. Where the tracker is free to choose, the model
//! follows it: when the sweep removes an expired peer within the allowed time, which peers are evicted when memory is
//! short, and which announces a full table refuses. Each such choice must be permitted, and must agree with the
//! counters of the tracker.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use gyre_core::engine::Engine;
use gyre_core::swarm::{Position, Saved};
use gyre_core::types::{Event, InfoHash, SwarmCounts};

use crate::bytes::ClientAnnounce;
use crate::rules::Rules;

/// Turns after which a small unchanged table is compared again. For a large table the number is higher.
const MAX_TURNS_UNCOMPARED: usize = 16;

/// A peer of a swarm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) seeder: bool,
    pub(crate) id: [u8; 20],
    /// Tick of the last announce. It is negative for a peer that announced to an earlier process.
    tick: i64,
    /// Time of the last announce, if that was in this process.
    seen_us: Option<u64>,
    /// Distinguishes the peer from an earlier one with the same address that left.
    pub(crate) serial: u64,
    last_found: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Swarm {
    pub(crate) peers: BTreeMap<SocketAddr, Peer>,
    pub(crate) downloaded: u32,
    /// Tick in which the swarm lost its last peer.
    empty_since: i64,
    /// Number of times that a seeder became a leecher.
    pub(crate) demotions: u64,
    last_found: u64,
}

impl Swarm {
    pub(crate) fn counts(&self) -> SwarmCounts {
        let seeders = self.peers.values().filter(|peer| peer.seeder).count() as u32;
        SwarmCounts { seeders, leechers: self.peers.len() as u32 - seeders, downloaded: self.downloaded }
    }
}

/// The swarms of one worker.
#[derive(Default)]
pub(crate) struct WorkerTable {
    pub(crate) swarms: BTreeMap<InfoHash, Swarm>,
    tick: i64,
    now_us: u64,
    pub(crate) completed: u64,
    pub(crate) refused: u64,
    /// Peers that expired all at once when the clock jumped and that the tracker has not counted yet.
    expired_by_jump: u64,
    /// Whether the table has changed since the last comparison.
    has_changed: bool,
    /// Turns since the last comparison.
    turns: usize,
    /// Swarms without peers at the last comparison.
    empty: Vec<InfoHash>,
}

/// Peers that a sweep has removed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemovedPeers {
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
    pub(crate) denied: u64,
}

/// Values in the reply to an announce.
pub(crate) struct ReplyValues<'a> {
    pub(crate) seeders: u32,
    pub(crate) leechers: u32,
    /// `None` for UDP, whose replies do not have it.
    pub(crate) downloaded: Option<u32>,
    pub(crate) peers: &'a [SocketAddr],
    /// Peer ids, if the reply has them.
    pub(crate) ids: &'a [Option<[u8; 20]>],
}

/// Limits on the peers in a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) num_want: usize,
    pub(crate) both_families: bool,
}

/// The naive tracker.
pub(crate) struct Oracle {
    timeout_us: u64,
    tick_us: u64,
    lifetime_ticks: i64,
    /// Memory is limited, so peers may be evicted before their timeout and new ones refused.
    pub(crate) is_limited: bool,
    pub(crate) tables: Vec<WorkerTable>,
    serial: u64,
}

impl Oracle {
    pub(crate) fn new(workers: usize, timeout_secs: u32, is_limited: bool) -> Self {
        let timeout_us = u64::from(timeout_secs) * 1_000_000;
        let tick_us = timeout_us.div_ceil(100).max(1_000_000); // a hundredth of the timeout, at least one second
        let lifetime_ticks = timeout_us.div_ceil(tick_us) as i64;
        let tables = (0..workers).map(|_| WorkerTable::default()).collect();
        Self { timeout_us, tick_us, lifetime_ticks, is_limited, tables, serial: 0 }
    }

    fn changed_table(&mut self, worker: usize) -> &mut WorkerTable {
        self.tables[worker].has_changed = true;
        &mut self.tables[worker]
    }

    /// Advances the clock of a worker. Removes all peers if more than a timeout has passed since the last call.
    pub(crate) fn advance(&mut self, worker: usize, now_us: u64) {
        let table = &mut self.tables[worker];
        let tick = (now_us / self.tick_us) as i64;
        table.now_us = now_us;
        if tick - std::mem::replace(&mut table.tick, tick) > self.lifetime_ticks && !table.swarms.is_empty() {
            table.expired_by_jump += table.swarms.values().map(|swarm| swarm.peers.len() as u64).sum::<u64>();
            table.swarms.clear();
            table.has_changed = true;
        }
    }

    fn is_expired(&self, table: &WorkerTable, peer: &Peer) -> bool {
        let expired = table.tick - peer.tick > self.lifetime_ticks;
        if let Some(seen) = peer.seen_us {
            let age = table.now_us - seen;
            assert!(!expired || age > self.timeout_us, "expired after {age} us");
            assert!(expired || age <= self.timeout_us + self.tick_us, "not expired after {age} us");
        }
        expired
    }

    pub(crate) fn counts(&self, worker: usize, info_hash: &InfoHash) -> SwarmCounts {
        self.tables[worker].swarms.get(info_hash).map(Swarm::counts).unwrap_or_default()
    }

    /// Applies an announce and checks the reply to it. Returns whether the peer was refused because memory is short.
    pub(crate) fn announce(
        &mut self,
        worker: usize,
        now_us: u64,
        request: &ClientAnnounce,
        terms: Terms,
        values: &ReplyValues<'_>,
    ) -> bool {
        self.advance(worker, now_us);
        let refused = self.apply(worker, request, values);
        let counts = self.counts(worker, &request.info_hash);
        assert_eq!(
            (values.seeders, values.leechers),
            (counts.seeders, counts.leechers),
            "counts of {request:?}"
        );
        assert!(
            values.downloaded.is_none_or(|downloaded| downloaded == counts.downloaded),
            "downloads of {request:?}"
        );
        if refused || request.event == Event::Stopped {
            assert!(values.peers.is_empty(), "peers in the reply to a stopped or refused announce");
            return refused;
        }
        self.check_peers(worker, request, terms, values);
        false
    }

    /// Applies an announce, unless the counts in the reply say that it was refused and memory is limited.
    /// Returns whether it was refused.
    fn apply(&mut self, worker: usize, request: &ClientAnnounce, values: &ReplyValues<'_>) -> bool {
        self.serial += 1;
        let (new, is_limited) = (self.serial, self.is_limited);
        let table = self.changed_table(worker);
        let previous =
            table.swarms.get(&request.info_hash).and_then(|swarm| swarm.peers.get(&request.peer)).copied();
        if request.event == Event::Stopped {
            if previous.is_some() {
                table.remove_peer(&request.info_hash, &request.peer);
            }
            return false;
        }
        let before = table.swarms.get(&request.info_hash).map(Swarm::counts).unwrap_or_default();
        let was_refused = is_limited
            && previous.is_none_or(|previous| previous.seeder != request.seeder)
            && (values.seeders, values.leechers) == (before.seeders, before.leechers);
        if was_refused {
            table.refused += 1;
            return true;
        }
        let swarm = table.swarms.entry(request.info_hash).or_default();
        let was_seeder = previous.is_some_and(|previous| previous.seeder);
        swarm.demotions += u64::from(was_seeder && !request.seeder);
        if request.event == Event::Completed && request.seeder && !was_seeder {
            swarm.downloaded += 1;
            table.completed += 1;
        }
        let serial = previous.map_or(new, |previous| previous.serial);
        let (tick, seen_us) = (table.tick, Some(table.now_us));
        let peer = Peer { seeder: request.seeder, id: request.peer_id, tick, seen_us, serial, last_found: 0 };
        swarm.peers.insert(request.peer, peer);
        false
    }

    /// Checks the peers in a reply: each one is permitted, and their number is right.
    fn check_peers(&self, worker: usize, request: &ClientAnnounce, terms: Terms, values: &ReplyValues<'_>) {
        let table = &self.tables[worker];
        let swarm = &table.swarms[&request.info_hash];
        let mut given = values.peers.to_vec();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), values.peers.len(), "a peer is in the reply twice");
        for (peer, id) in values.peers.iter().zip(values.ids.iter().chain(std::iter::repeat(&None))) {
            let known = swarm.peers.get(peer).unwrap_or_else(|| panic!("{peer} is not in the swarm"));
            assert!(*peer != request.peer, "the reply has the client itself");
            assert!(!(request.seeder && known.seeder), "a seeder gets a seeder");
            assert!(
                terms.both_families || peer.is_ipv4() == request.peer.is_ipv4(),
                "a peer of the other address family"
            );
            assert!(!self.is_expired(table, known), "{peer} has expired, last seen at {:?}", known.seen_us);
            assert!(id.is_none_or(|id| id == known.id), "{peer} has another peer id");
        }
        let is_eligible = |(peer, known): (&SocketAddr, &Peer)| {
            *peer != request.peer
                && !(request.seeder && known.seeder)
                && (terms.both_families || peer.is_ipv4() == request.peer.is_ipv4())
        };
        let eligible = swarm.peers.iter().filter(|peer| is_eligible(*peer)).count();
        let overdue = swarm.peers.values().any(|peer| self.is_expired(table, peer));
        // Expired peers count towards the number of peers until the sweep removes them, so a reply may have fewer.
        let wanted = terms.num_want.min(eligible);
        assert!(values.peers.len() <= wanted, "{} peers, wanted {wanted}", values.peers.len());
        assert!(overdue || values.peers.len() == wanted, "{} peers, wanted {wanted}", values.peers.len());
    }

    /// Returns whether the table must be compared after a turn in which the sweep removed `counted`. It must if
    /// something may have changed; otherwise it is compared from time to time.
    pub(crate) fn needs_comparison(
        &mut self,
        worker: usize,
        now_us: u64,
        counted: RemovedPeers,
        rules: &Rules,
    ) -> bool {
        let (lifetime_ticks, is_limited) = (self.lifetime_ticks, self.is_limited);
        let table = &mut self.tables[worker];
        table.turns += 1;
        // The tracker does not count the removal of a swarm without peers.
        let may_go = |info_hash: &InfoHash| {
            let is_expired = table.tick - table.swarms[info_hash].empty_since > lifetime_ticks;
            is_limited || is_expired || !rules.permits_torrent(now_us, info_hash)
        };
        counted != RemovedPeers::default()
            || table.has_changed
            || table.turns >= MAX_TURNS_UNCOMPARED.max(table.swarms.len() / 32)
            || table.empty.iter().any(may_go)
    }

    /// Compares the table of a worker with the model, after a turn in which the sweep removed `counted`.
    pub(crate) fn compare(
        &mut self,
        worker: usize,
        now_us: u64,
        engine: &Engine,
        counted: RemovedPeers,
        rules: &Rules,
    ) {
        self.serial += 1;
        let stamp = self.serial;
        (self.tables[worker].has_changed, self.tables[worker].turns) = (false, 0);
        for piece in engine.save(Position::default()) {
            self.check_saved(worker, now_us, stamp, &piece);
        }
        let denies = |info_hash: &InfoHash| !rules.permits_torrent(now_us, info_hash);
        let removed = self.remove_missing(worker, now_us, stamp, &denies);
        let expired_by_jump =
            if counted.expired == 0 { 0 } else { std::mem::take(&mut self.tables[worker].expired_by_jump) };
        assert!(
            self.is_limited || removed.evicted == 0,
            "{} peers were evicted without a memory limit",
            removed.evicted
        );
        assert_eq!(
            RemovedPeers { expired: removed.expired + expired_by_jump, ..removed },
            counted,
            "removed peers, and the counters of them"
        );
    }

    fn check_saved(&mut self, worker: usize, now_us: u64, stamp: u64, piece: &Saved) {
        let (tick_us, latest_tick) = (self.tick_us, (now_us / self.tick_us) as i64);
        let table = &mut self.tables[worker];
        let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = piece;
        let Some(swarm) = table.swarms.get_mut(info_hash) else {
            panic!("a swarm that the model does not have: {piece:?}")
        };
        match piece {
            Saved::Swarm { downloaded, .. } => {
                assert_eq!(*downloaded, swarm.downloaded, "downloads of {info_hash:?}");
                assert!(
                    std::mem::replace(&mut swarm.last_found, stamp) != stamp,
                    "{info_hash:?} is in the table twice"
                );
            }
            Saved::Peer { peer, seeder, age_secs, .. } => {
                let address = peer.unpack();
                let Some(known) = swarm.peers.get_mut(&address) else {
                    panic!("a peer that the model does not have: {piece:?}")
                };
                assert!(
                    std::mem::replace(&mut known.last_found, stamp) != stamp,
                    "{address} is in its swarm twice"
                );
                assert_eq!(*seeder, known.seeder, "whether {address} is a seeder in {info_hash:?}");
                let age = |tick: i64| ((tick - known.tick) as u64 * tick_us / 1_000_000) as u32;
                let (least, most) = (age(table.tick), age(latest_tick));
                assert!(
                    (least..=most).contains(age_secs),
                    "{address} should be {least} to {most} s old, not {age_secs}"
                );
            }
        }
    }

    /// Removes what the comparison did not find. Each removal must have a reason.
    fn remove_missing(
        &mut self,
        worker: usize,
        now_us: u64,
        stamp: u64,
        denies: &dyn Fn(&InfoHash) -> bool,
    ) -> RemovedPeers {
        let (mut removed, tick) = (RemovedPeers::default(), (now_us / self.tick_us) as i64);
        let (mut removed_peers, mut removed_swarms) = (Vec::new(), Vec::new());
        let table = &self.tables[worker];
        for (info_hash, swarm) in &table.swarms {
            for (address, peer) in swarm.peers.iter().filter(|(_, peer)| peer.last_found != stamp) {
                match (denies(info_hash), self.is_expired(table, peer)) {
                    (true, _) => removed.denied += 1,
                    (false, true) => removed.expired += 1,
                    (false, false) => removed.evicted += 1,
                }
                removed_peers.push((*info_hash, *address));
            }
            if swarm.last_found != stamp && swarm.peers.is_empty() {
                let expired = tick - swarm.empty_since > self.lifetime_ticks;
                assert!(
                    expired || denies(info_hash) || self.is_limited,
                    "the downloads of {info_hash:?} are lost"
                );
                removed_swarms.push(*info_hash);
            }
        }
        let table = &mut self.tables[worker];
        removed_peers.iter().for_each(|(info_hash, address)| table.remove_peer(info_hash, address));
        removed_swarms.iter().for_each(|info_hash| drop(table.swarms.remove(info_hash)));
        for (info_hash, swarm) in &table.swarms {
            assert!(swarm.last_found == stamp || self.is_limited, "swarm {info_hash:?} is missing");
        }
        table.swarms.retain(|_, swarm| swarm.last_found == stamp);
        let empty = table.swarms.iter().filter(|(_, swarm)| swarm.peers.is_empty());
        table.empty = empty.map(|(info_hash, _)| *info_hash).collect();
        removed
    }

    /// Returns how long the most overdue peer has been expired, in microseconds of the clock.
    pub(crate) fn longest_overdue_us(&self, worker: usize, now_us: u64) -> u64 {
        let peers = self.tables[worker].swarms.values().flat_map(|swarm| swarm.peers.values());
        let overdue =
            peers.filter_map(|peer| (now_us - peer.seen_us?).checked_sub(self.timeout_us + self.tick_us));
        overdue.max().unwrap_or(0)
    }

    /// Loads a piece of a snapshot. If the worker `is_serving`, newer entries of the table are kept.
    pub(crate) fn load(&mut self, worker: usize, now_us: u64, piece: &Saved, is_serving: bool) {
        self.advance(worker, now_us);
        self.serial += 1;
        let (tick_us, lifetime_ticks, serial) = (self.tick_us, self.lifetime_ticks, self.serial);
        let table = self.changed_table(worker);
        match piece {
            Saved::Swarm { downloaded: 0, .. } => {}
            Saved::Swarm { info_hash, downloaded } => {
                let empty = Swarm { empty_since: table.tick, ..Swarm::default() };
                let swarm = table.swarms.entry(*info_hash).or_insert(empty);
                swarm.downloaded = swarm.downloaded.max(*downloaded);
            }
            Saved::Peer { info_hash, peer, seeder, age_secs } => {
                let age = (u64::from(*age_secs) * 1_000_000 / tick_us) as i64;
                if age > lifetime_ticks {
                    return;
                }
                let tick = table.tick - age;
                let swarm = table.swarms.entry(*info_hash).or_default();
                let known = swarm.peers.get(&peer.unpack());
                let is_newer =
                    |known: &Peer| tick > known.tick || (tick == known.tick && *seeder && !known.seeder);
                if is_serving && !known.is_none_or(is_newer) {
                    return;
                }
                let serial = known.map_or(serial, |known| known.serial);
                let peer_now =
                    Peer { seeder: *seeder, id: [0; 20], tick, seen_us: None, serial, last_found: 0 };
                swarm.peers.insert(peer.unpack(), peer_now);
            }
        }
    }

    /// Removes or reverts the peers that a table with limited memory refused while pieces were loaded. They are found
    /// by reading the table.
    pub(crate) fn apply_refusals(&mut self, worker: usize, engine: &Engine) {
        let mut saved = BTreeMap::new();
        let mut swarms = Vec::new();
        for piece in engine.save(Position::default()) {
            match piece {
                Saved::Peer { info_hash, peer, seeder, age_secs } => {
                    saved.insert((info_hash, peer.unpack()), (seeder, age_secs));
                }
                Saved::Swarm { info_hash, downloaded } => swarms.push((info_hash, downloaded)),
            }
        }
        let tick_us = self.tick_us;
        let table = &mut self.tables[worker];
        for (info_hash, swarm) in &mut table.swarms {
            swarm.peers.retain(|address, peer| {
                let Some((seeder, age_secs)) = saved.get(&(*info_hash, *address)) else { return false };
                if *seeder != peer.seeder {
                    // The peer was to become a seeder or leecher, and there was no memory for the change.
                    let age = (u64::from(*age_secs) * 1_000_000).div_ceil(tick_us) as i64;
                    *peer = Peer { seeder: *seeder, tick: table.tick - age, seen_us: None, ..*peer };
                }
                true
            });
        }
        table.swarms.retain(|info_hash, _| swarms.iter().any(|(other, _)| other == info_hash));
        table.refused = engine.counters.get(gyre_core::counters::Counter::DropTableFull);
    }
}

impl WorkerTable {
    fn remove_peer(&mut self, info_hash: &InfoHash, address: &SocketAddr) {
        let Some(swarm) = self.swarms.get_mut(info_hash) else { return };
        swarm.peers.remove(address);
        if swarm.peers.is_empty() {
            swarm.empty_since = self.tick;
            if swarm.downloaded == 0 {
                self.swarms.remove(info_hash);
            }
        }
    }
}
