//! Owns the naive tracker: the contents of the swarms, kept in the simplest way, one part for each worker.
//!
//! It is exact where the tracker promises exact results. Where the tracker is free, the naive tracker learns from
//! it: when the sweep removes an expired peer, which peers are evicted when memory is short, which ones a full table
//! refuses. What it learns must agree with the tracker's counters and with what the tracker may do.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use gyre_core::engine::Engine;
use gyre_core::swarm::{Position, Saved};
use gyre_core::types::{Event, InfoHash, SwarmCounts};

use crate::bytes::ClientAnnounce;
use crate::rules::Rules;

/// Turns between two comparisons of a table without changes. A large table is compared less often.
const TURNS_UNSEEN: usize = 16;

/// A peer of a swarm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) seeder: bool,
    pub(crate) id: [u8; 20],
    /// The tick of its last announce; in the time of a process before this one it is negative.
    tick: i64,
    /// When that was, if it was in this process's time.
    seen_us: Option<u64>,
    /// Tells it from the same peer that left and came again.
    pub(crate) serial: u64,
    met: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Swarm {
    pub(crate) peers: BTreeMap<SocketAddr, Peer>,
    pub(crate) downloaded: u32,
    /// The tick in which it lost its last peer.
    empty_since: i64,
    /// How often a seeder became a leecher.
    pub(crate) relapses: u64,
    met: u64,
}

impl Swarm {
    pub(crate) fn counts(&self) -> SwarmCounts {
        let seeders = self.peers.values().filter(|peer| peer.seeder).count() as u32;
        SwarmCounts { seeders, leechers: self.peers.len() as u32 - seeders, downloaded: self.downloaded }
    }
}

/// A worker's part.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) swarms: BTreeMap<InfoHash, Swarm>,
    tick: i64,
    now_us: u64,
    pub(crate) completed: u64,
    pub(crate) refused: u64,
    /// Peers that a leap of time took all at once, and that are still to be counted.
    leapt: u64,
    /// Something was entered, or left, since all was compared; and how many turns ago that was.
    has_changed: bool,
    turns: usize,
    /// Swarms that had no peers then.
    empty: Vec<InfoHash>,
}

/// What the sweep of a turn has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
    pub(crate) denied: u64,
}

/// What a reply to an announce said.
pub(crate) struct Answered<'a> {
    pub(crate) seeders: u32,
    pub(crate) leechers: u32,
    /// Not by UDP.
    pub(crate) downloaded: Option<u32>,
    pub(crate) peers: &'a [SocketAddr],
    /// What the peers call themselves, as far as that is said.
    pub(crate) ids: &'a [Option<[u8; 20]>],
}

/// What an announce may get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) num_want: usize,
    pub(crate) both_families: bool,
}

/// The naive tracker.
pub(crate) struct Oracle {
    timeout_us: u64,
    tick_us: u64,
    life: i64,
    /// Memory is limited: then peers may go before their time, and new ones be refused.
    pub(crate) is_limited: bool,
    pub(crate) parts: Vec<Part>,
    serial: u64,
}

impl Oracle {
    pub(crate) fn new(workers: usize, timeout_secs: u32, is_limited: bool) -> Self {
        let timeout_us = u64::from(timeout_secs) * 1_000_000;
        let tick_us = timeout_us.div_ceil(100).max(1_000_000); // a hundredth, a second at least
        let life = timeout_us.div_ceil(tick_us) as i64;
        let parts = (0..workers).map(|_| Part::default()).collect();
        Self { timeout_us, tick_us, life, is_limited, parts, serial: 0 }
    }

    fn changes(&mut self, worker: usize) -> &mut Part {
        self.parts[worker].has_changed = true;
        &mut self.parts[worker]
    }

    /// Advances the time of a worker. No peer is left if a whole timeout has passed since its last turn.
    pub(crate) fn pass(&mut self, worker: usize, now_us: u64) {
        let part = &mut self.parts[worker];
        let tick = (now_us / self.tick_us) as i64;
        part.now_us = now_us;
        if tick - std::mem::replace(&mut part.tick, tick) > self.life && !part.swarms.is_empty() {
            part.leapt += part.swarms.values().map(|swarm| swarm.peers.len() as u64).sum::<u64>();
            part.swarms.clear();
            part.has_changed = true;
        }
    }

    fn is_over(&self, part: &Part, peer: &Peer) -> bool {
        let over = part.tick - peer.tick > self.life;
        if let Some(seen) = peer.seen_us {
            let age = part.now_us - seen;
            assert!(!over || age > self.timeout_us, "over after {age} us");
            assert!(over || age <= self.timeout_us + self.tick_us, "not over after {age} us");
        }
        over
    }

    pub(crate) fn counts(&self, worker: usize, info_hash: &InfoHash) -> SwarmCounts {
        self.parts[worker].swarms.get(info_hash).map(Swarm::counts).unwrap_or_default()
    }

    /// Takes an announce and checks its answer. Returns whether the peer was refused because memory was short.
    pub(crate) fn announce(
        &mut self,
        worker: usize,
        now_us: u64,
        wish: &ClientAnnounce,
        terms: Terms,
        said: &Answered<'_>,
    ) -> bool {
        self.pass(worker, now_us);
        let refused = self.enter(worker, wish, said);
        let counts = self.counts(worker, &wish.info_hash);
        assert_eq!((said.seeders, said.leechers), (counts.seeders, counts.leechers), "counts of {wish:?}");
        assert!(said.downloaded.is_none_or(|said| said == counts.downloaded), "downloads of {wish:?}");
        if refused || wish.event == Event::Stopped {
            assert!(said.peers.is_empty(), "a peer that stops or is refused gets no peers");
            return refused;
        }
        self.check_peers(worker, wish, terms, said);
        false
    }

    /// Does what the announce says, unless the answer's counts say that there was no room and that may be.
    fn enter(&mut self, worker: usize, wish: &ClientAnnounce, said: &Answered<'_>) -> bool {
        self.serial += 1;
        let (new, is_limited) = (self.serial, self.is_limited);
        let part = self.changes(worker);
        let was = part.swarms.get(&wish.info_hash).and_then(|swarm| swarm.peers.get(&wish.peer)).copied();
        if wish.event == Event::Stopped {
            if was.is_some() {
                part.leave(&wish.info_hash, &wish.peer);
            }
            return false;
        }
        let before = part.swarms.get(&wish.info_hash).map(Swarm::counts).unwrap_or_default();
        let was_refused = is_limited
            && was.is_none_or(|was| was.seeder != wish.seeder)
            && (said.seeders, said.leechers) == (before.seeders, before.leechers);
        if was_refused {
            part.refused += 1;
            return true;
        }
        let swarm = part.swarms.entry(wish.info_hash).or_default();
        let was_seeder = was.is_some_and(|was| was.seeder);
        swarm.relapses += u64::from(was_seeder && !wish.seeder);
        if wish.event == Event::Completed && wish.seeder && !was_seeder {
            swarm.downloaded += 1;
            part.completed += 1;
        }
        let serial = was.map_or(new, |was| was.serial);
        let (tick, seen_us) = (part.tick, Some(part.now_us));
        let peer = Peer { seeder: wish.seeder, id: wish.peer_id, tick, seen_us, serial, met: 0 };
        swarm.peers.insert(wish.peer, peer);
        false
    }

    /// Holds the peers that were handed out to those that may and must be.
    fn check_peers(&self, worker: usize, wish: &ClientAnnounce, terms: Terms, said: &Answered<'_>) {
        let part = &self.parts[worker];
        let swarm = &part.swarms[&wish.info_hash];
        let mut given = said.peers.to_vec();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), said.peers.len(), "a peer was handed out twice");
        for (peer, id) in said.peers.iter().zip(said.ids.iter().chain(std::iter::repeat(&None))) {
            let known = swarm.peers.get(peer).unwrap_or_else(|| panic!("{peer} is not in the swarm"));
            assert!(*peer != wish.peer, "the asker itself");
            assert!(!(wish.seeder && known.seeder), "a seeder for a seeder");
            assert!(terms.both_families || peer.is_ipv4() == wish.peer.is_ipv4(), "a peer of another family");
            assert!(!self.is_over(part, known), "{peer} has been gone since {:?}", known.seen_us);
            assert!(id.is_none_or(|id| id == known.id), "{peer} does not call itself so");
        }
        let may = |(peer, known): (&SocketAddr, &Peer)| {
            *peer != wish.peer
                && !(wish.seeder && known.seeder)
                && (terms.both_families || peer.is_ipv4() == wish.peer.is_ipv4())
        };
        let eligible = swarm.peers.iter().filter(|peer| may(*peer)).count();
        let overdue = swarm.peers.values().any(|peer| self.is_over(part, peer));
        // Those whose time is over count for the shares until the sweep has been there: a reply may be short.
        let wanted = terms.num_want.min(eligible);
        assert!(said.peers.len() <= wanted, "{} peers of {wanted}", said.peers.len());
        assert!(overdue || said.peers.len() == wanted, "{} peers of {wanted}", said.peers.len());
    }

    /// Whether to compare a table after a turn in which the sweep has removed `counted` peers: always if something may
    /// have changed, otherwise from time to time.
    pub(crate) fn is_due(&mut self, worker: usize, now_us: u64, counted: Gone, rules: &Rules) -> bool {
        let (life, is_limited) = (self.life, self.is_limited);
        let part = &mut self.parts[worker];
        part.turns += 1;
        // That a swarm has gone which had no peers is not counted.
        let may_go = |info_hash: &InfoHash| {
            let is_over = part.tick - part.swarms[info_hash].empty_since > life;
            is_limited || is_over || !rules.permits_torrent(now_us, info_hash)
        };
        counted != Gone::default()
            || part.has_changed
            || part.turns >= TURNS_UNSEEN.max(part.swarms.len() / 32)
            || part.empty.iter().any(may_go)
    }

    /// Compares the whole table of a worker with the expected one, after a turn in which the sweep has removed
    /// `counted` peers.
    pub(crate) fn compare(
        &mut self,
        worker: usize,
        now_us: u64,
        engine: &Engine,
        counted: Gone,
        rules: &Rules,
    ) {
        self.serial += 1;
        let stamp = self.serial;
        (self.parts[worker].has_changed, self.parts[worker].turns) = (false, 0);
        for piece in engine.save(Position::default()) {
            self.meet(worker, now_us, stamp, &piece);
        }
        let denies = |info_hash: &InfoHash| !rules.permits_torrent(now_us, info_hash);
        let gone = self.let_go(worker, now_us, stamp, &denies);
        let leapt = if counted.expired == 0 { 0 } else { std::mem::take(&mut self.parts[worker].leapt) };
        assert!(self.is_limited || gone.evicted == 0, "{} went before their time", gone.evicted);
        assert_eq!(
            Gone { expired: gone.expired + leapt, ..gone },
            counted,
            "who has gone, and what was counted"
        );
    }

    fn meet(&mut self, worker: usize, now_us: u64, stamp: u64, piece: &Saved) {
        let (tick_us, most) = (self.tick_us, (now_us / self.tick_us) as i64);
        let part = &mut self.parts[worker];
        let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = piece;
        let Some(swarm) = part.swarms.get_mut(info_hash) else { panic!("an unknown swarm: {piece:?}") };
        match piece {
            Saved::Swarm { downloaded, .. } => {
                assert_eq!(*downloaded, swarm.downloaded, "downloads of {info_hash:?}");
                assert!(std::mem::replace(&mut swarm.met, stamp) != stamp, "{info_hash:?} is there twice");
            }
            Saved::Peer { peer, seeder, age_secs, .. } => {
                let address = peer.unpack();
                let Some(known) = swarm.peers.get_mut(&address) else { panic!("an unknown peer: {piece:?}") };
                assert!(std::mem::replace(&mut known.met, stamp) != stamp, "{address} is there twice");
                assert_eq!(*seeder, known.seeder, "the side of {address} in {info_hash:?}");
                let age = |tick: i64| ((tick - known.tick) as u64 * tick_us / 1_000_000) as u32;
                let (least, most) = (age(part.tick), age(most));
                assert!(
                    (least..=most).contains(age_secs),
                    "{address} is {least} to {most} s old, not {age_secs}"
                );
            }
        }
    }

    /// Lets those go that were not met; each has to have a reason.
    fn let_go(&mut self, worker: usize, now_us: u64, stamp: u64, denies: &dyn Fn(&InfoHash) -> bool) -> Gone {
        let (mut gone, tick) = (Gone::default(), (now_us / self.tick_us) as i64);
        let (mut left, mut ended) = (Vec::new(), Vec::new());
        let part = &self.parts[worker];
        for (info_hash, swarm) in &part.swarms {
            for (address, peer) in swarm.peers.iter().filter(|(_, peer)| peer.met != stamp) {
                match (denies(info_hash), self.is_over(part, peer)) {
                    (true, _) => gone.denied += 1,
                    (false, true) => gone.expired += 1,
                    (false, false) => gone.evicted += 1,
                }
                left.push((*info_hash, *address));
            }
            if swarm.met != stamp && swarm.peers.is_empty() {
                let over = tick - swarm.empty_since > self.life;
                assert!(
                    over || denies(info_hash) || self.is_limited,
                    "the downloads of {info_hash:?} are lost"
                );
                ended.push(*info_hash);
            }
        }
        let part = &mut self.parts[worker];
        left.iter().for_each(|(info_hash, address)| part.leave(info_hash, address));
        ended.iter().for_each(|info_hash| drop(part.swarms.remove(info_hash)));
        for (info_hash, swarm) in &part.swarms {
            assert!(swarm.met == stamp || self.is_limited, "{info_hash:?} is lost");
        }
        part.swarms.retain(|_, swarm| swarm.met == stamp);
        let empty = part.swarms.iter().filter(|(_, swarm)| swarm.peers.is_empty());
        part.empty = empty.map(|(info_hash, _)| *info_hash).collect();
        gone
    }

    /// How long the one has been over that has been so for the longest, by the clock.
    pub(crate) fn longest_overdue_us(&self, worker: usize, now_us: u64) -> u64 {
        let peers = self.parts[worker].swarms.values().flat_map(|swarm| swarm.peers.values());
        let overdue =
            peers.filter_map(|peer| (now_us - peer.seen_us?).checked_sub(self.timeout_us + self.tick_us));
        overdue.max().unwrap_or(0)
    }

    /// Enters a piece of a snapshot, beside what is known (`others_announced`) or before anything is.
    pub(crate) fn load(&mut self, worker: usize, now_us: u64, piece: &Saved, others_announced: bool) {
        self.pass(worker, now_us);
        self.serial += 1;
        let (tick_us, life, serial) = (self.tick_us, self.life, self.serial);
        let part = self.changes(worker);
        match piece {
            Saved::Swarm { downloaded: 0, .. } => {}
            Saved::Swarm { info_hash, downloaded } => {
                let empty = Swarm { empty_since: part.tick, ..Swarm::default() };
                let swarm = part.swarms.entry(*info_hash).or_insert(empty);
                swarm.downloaded = swarm.downloaded.max(*downloaded);
            }
            Saved::Peer { info_hash, peer, seeder, age_secs } => {
                let age = (u64::from(*age_secs) * 1_000_000 / tick_us) as i64;
                if age > life {
                    return;
                }
                let tick = part.tick - age;
                let swarm = part.swarms.entry(*info_hash).or_default();
                let known = swarm.peers.get(&peer.unpack());
                let is_news =
                    |known: &Peer| tick > known.tick || (tick == known.tick && *seeder && !known.seeder);
                if others_announced && !known.is_none_or(is_news) {
                    return;
                }
                let serial = known.map_or(serial, |known| known.serial);
                let peer_now = Peer { seeder: *seeder, id: [0; 20], tick, seen_us: None, serial, met: 0 };
                swarm.peers.insert(peer.unpack(), peer_now);
            }
        }
    }

    /// After pieces were loaded into a table of limited memory: those that are not there as they should be were
    /// refused.
    pub(crate) fn learn_refused(&mut self, worker: usize, engine: &Engine) {
        let mut there = BTreeMap::new();
        let mut swarms = Vec::new();
        for piece in engine.save(Position::default()) {
            match piece {
                Saved::Peer { info_hash, peer, seeder, age_secs } => {
                    there.insert((info_hash, peer.unpack()), (seeder, age_secs));
                }
                Saved::Swarm { info_hash, downloaded } => swarms.push((info_hash, downloaded)),
            }
        }
        let tick_us = self.tick_us;
        let part = &mut self.parts[worker];
        for (info_hash, swarm) in &mut part.swarms {
            swarm.peers.retain(|address, peer| {
                let Some((seeder, age_secs)) = there.get(&(*info_hash, *address)) else { return false };
                if *seeder != peer.seeder {
                    // It was to change sides, and there was no room on the other one.
                    let age = (u64::from(*age_secs) * 1_000_000).div_ceil(tick_us) as i64;
                    *peer = Peer { seeder: *seeder, tick: part.tick - age, seen_us: None, ..*peer };
                }
                true
            });
        }
        part.swarms.retain(|info_hash, _| swarms.iter().any(|(other, _)| other == info_hash));
        part.refused = engine.counters.get(gyre_core::counters::Counter::DropTableFull);
    }
}

impl Part {
    fn leave(&mut self, info_hash: &InfoHash, address: &SocketAddr) {
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
