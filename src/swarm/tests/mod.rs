//! The shard against a naive oracle.

mod choice;
mod invariants;
mod limits;
mod saving;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::*;

const TIMEOUT: u32 = 100;

#[derive(Default)]
struct Taken(Vec<PeerAddr>);

impl PeerSink for Taken {
    const BOTH_FAMILIES: bool = true;
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]) {
        assert!(ids.is_empty() || ids.len() == peers.len());
        self.0.extend(peers.iter().map(|peer| PeerAddr::V4(*peer)));
    }
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]) {
        assert!(ids.is_empty() || ids.len() == peers.len());
        self.0.extend(peers.iter().map(|peer| PeerAddr::V6(*peer)));
    }
}

/// As [`Taken`], but of the asker's family alone.
#[derive(Default)]
struct TakenOfOneFamily(Taken);

impl PeerSink for TakenOfOneFamily {
    const BOTH_FAMILIES: bool = false;
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]) {
        self.0.v4(peers, ids);
    }
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]) {
        self.0.v6(peers, ids);
    }
}

fn peer(number: u16, v6: bool) -> PeerAddr {
    let ip = match v6 {
        false => IpAddr::V4(Ipv4Addr::new(192, 0, (number >> 8) as u8, number as u8)),
        true => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)),
    };
    PeerAddr::new(ip, 6881)
}

fn announce(swarm: u8, peer: PeerAddr, event: Event, seeder: bool, num_want: u16) -> Announce {
    let (info_hash, peer_id) = (InfoHash([swarm; 20]), PeerId([7; 20]));
    Announce { info_hash, peer_id, peer, event, seeder, num_want, wants_ids: false }
}

/// What the shard should do, done the plainest way. The timeout is 100 s, so that a tick is a second.
#[derive(Default)]
struct Oracle {
    now: u32,
    swarms: BTreeMap<u8, OracleSwarm>,
}

#[derive(Default)]
struct OracleSwarm {
    peers: BTreeMap<Vec<u8>, (PeerAddr, bool, u32)>,
    downloaded: u32,
    empty_since: u32,
}

fn key(peer: &PeerAddr) -> Vec<u8> {
    match peer {
        PeerAddr::V4(bytes) => bytes.to_vec(),
        PeerAddr::V6(bytes) => bytes.to_vec(),
    }
}

impl Oracle {
    fn pass(&mut self, now: u32) -> usize {
        let mut gone = 0;
        if now - std::mem::replace(&mut self.now, now) > TIMEOUT {
            gone = self.swarms.values().map(|swarm| swarm.peers.len()).sum();
            self.swarms.clear();
        }
        gone
    }

    /// Returns the counts and everybody who may be handed out.
    fn announce(&mut self, now: u32, announce: &Announce) -> (SwarmCounts, Vec<PeerAddr>) {
        let name = announce.info_hash.0[0];
        let swarm = self.swarms.entry(name).or_default();
        let me = key(&announce.peer);
        if announce.event == Event::Stopped {
            if swarm.peers.remove(&me).is_some() && swarm.peers.is_empty() {
                swarm.empty_since = now;
            }
            let counts = swarm.counts();
            self.forget(name);
            return (counts, Vec::new());
        }
        let was = swarm.peers.insert(me.clone(), (announce.peer, announce.seeder, now));
        let was_seeder = was.is_some_and(|(_, seeder, _)| seeder);
        swarm.downloaded += u32::from(announce.event == Event::Completed && announce.seeder && !was_seeder);
        let others = swarm.peers.iter().filter(|(other, (_, seeder, seen))| {
            **other != me && !(announce.seeder && *seeder) && seen + TIMEOUT >= now
        });
        let others = others.map(|(_, (addr, ..))| *addr).collect();
        (swarm.counts(), others)
    }

    fn sweep(&mut self, now: u32) -> usize {
        let mut expired = 0;
        self.swarms.retain(|_, swarm| {
            let before = swarm.peers.len();
            if before == 0 {
                return swarm.empty_since + TIMEOUT >= now;
            }
            swarm.peers.retain(|_, (.., seen)| *seen + TIMEOUT >= now);
            expired += before - swarm.peers.len();
            if swarm.peers.is_empty() {
                swarm.empty_since = now;
            }
            !swarm.peers.is_empty() || swarm.downloaded > 0
        });
        expired
    }

    fn has_overdue(&self, now: u32) -> bool {
        self.swarms.values().flat_map(|swarm| swarm.peers.values()).any(|(.., seen)| seen + TIMEOUT < now)
    }

    fn counts(&self, name: u8) -> SwarmCounts {
        self.swarms.get(&name).map(OracleSwarm::counts).unwrap_or_default()
    }

    /// A swarm without peers and downloads is none.
    fn forget(&mut self, name: u8) {
        if self.counts(name) == SwarmCounts::default() {
            self.swarms.remove(&name);
        }
    }
}

impl OracleSwarm {
    fn counts(&self) -> SwarmCounts {
        let seeders = self.peers.values().filter(|(_, seeder, _)| *seeder).count() as u32;
        SwarmCounts { seeders, leechers: self.peers.len() as u32 - seeders, downloaded: self.downloaded }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Announce { announce: Announce, both: bool, ahead: bool },
    Scrape(u8),
    Sweep(usize),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        5 => Just(Event::None), 3 => Just(Event::Started), 1 => Just(Event::Completed), 2 => Just(Event::Stopped)
    ];
    let announce = (0..4_u8, 0..400_u16, any::<bool>(), event, any::<bool>(), 0..60_u16, 0..40_u8).prop_map(
        |(swarm, number, v6, event, seeder, num_want, bits)| {
            // Several small swarms, one with most of the peers.
            let peer = peer(number % (5 + 40 * u16::from(swarm).pow(2)), v6);
            let announce = announce(swarm * swarm, peer, event, seeder, num_want);
            let (both, ahead) = (bits & 1 != 0, bits & 2 != 0);
            Step::Announce { announce: Announce { wants_ids: bits == 39, ..announce }, both, ahead }
        },
    );
    prop_oneof![
        60 => announce,
        2 => (0..12_u8).prop_map(Step::Scrape),
        2 => (0..80_usize).prop_map(Step::Sweep),
        2 => (0..40_u32).prop_map(Step::Pass),
        1 => (TIMEOUT + 1..150).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 60 }))]

    #[test]
    fn agrees_with_the_oracle(
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 40 } else { 1_500 }),
        seed: u64,
    ) {
        let mut shard = Shard::new(seed.to_be_bytes().repeat(2).try_into().unwrap(), TIMEOUT, usize::MAX);
        let mut oracle = Oracle::default();
        let mut rng = Rng::with_seed(seed);
        let (mut now, mut swept) = (50_u32, 50);
        for step in steps {
            // Laps take less than the 155 ticks that they have. (More than a timeout at once is a leap.)
            let step = if now - swept > TIMEOUT { Step::Sweep(50) } else { step };
            let time = Timestamp::from_secs(u64::from(now));
            match step {
                Step::Announce { announce, both, ahead } => {
                    oracle.pass(now);
                    let mut taken = TakenOfOneFamily::default();
                    let counts = match both {
                        true => ask(&mut shard, time, &announce, ahead, &mut rng, &mut taken.0),
                        false => ask(&mut shard, time, &announce, ahead, &mut rng, &mut taken),
                    };
                    let (expected, mut others) = oracle.announce(now, &announce);
                    let overdue = oracle.has_overdue(now);
                    if !both {
                        others.retain(|other| other.family() == announce.peer.family());
                    }
                    prop_assert_eq!(counts, expected);
                    let taken = taken.0.0;
                    let distinct: HashSet<_> = taken.iter().collect();
                    prop_assert_eq!(distinct.len(), taken.len(), "a peer was handed out twice");
                    prop_assert!(taken.iter().all(|peer| others.contains(peer)), "a peer that may not be handed out");
                    // While peers are overdue that the sweep has not taken out, the sets' shares count them too, so
                    // that a reply may be short.
                    let wanted = others.len().min(usize::from(announce.num_want));
                    match overdue {
                        true => prop_assert!(taken.len() <= wanted),
                        false => prop_assert_eq!(taken.len(), wanted),
                    }
                }
                Step::Scrape(swarm) => {
                    prop_assert_eq!(shard.scrape(&InfoHash([swarm; 20])), oracle.counts(swarm));
                }
                Step::Sweep(budget) => {
                    // Slices of any size until a whole lap lies within: then nobody is left whose time is over.
                    let leapt = oracle.pass(now);
                    let expired = lap(&mut shard, time, budget + 1) + lap(&mut shard, time, budget + 1);
                    swept = now;
                    prop_assert_eq!(expired, leapt + oracle.sweep(now));
                }
                Step::Pass(secs) => now += secs,
            }
            shard.assert_invariants();
        }
    }
}

/// Announces, with or without looking ahead.
fn ask<S: PeerSink>(
    shard: &mut Shard,
    now: Timestamp,
    announce: &Announce,
    ahead: bool,
    rng: &mut Rng,
    sink: &mut S,
) -> SwarmCounts {
    if !ahead {
        return shard.announce(now, announce, rng, sink);
    }
    let mut known = [Ahead::default()];
    shard.look_ahead::<S>(&std::iter::once(announce), rng, &mut known);
    shard.announce_ahead(now, announce, &known[0], sink)
}

fn lap(shard: &mut Shard, now: Timestamp, budget: usize) -> usize {
    let mut expired = 0;
    loop {
        let swept = shard.sweep(now, budget);
        assert_eq!(swept.evicted, 0);
        expired += swept.expired as usize;
        if swept.lap_ended {
            return expired;
        }
    }
}

#[test]
fn completed_counts_once_for_each_peer() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let mut rng = Rng::with_seed(1);
    let mut tell = |number, event, seeder| {
        let announce = announce(1, peer(number, number % 2 == 1), event, seeder, 0);
        shard.announce(Timestamp::from_secs(0), &announce, &mut rng, &mut Taken::default()).downloaded
    };
    assert_eq!(tell(1, Event::Started, false), 0);
    assert_eq!(tell(1, Event::Completed, true), 1);
    assert_eq!(tell(1, Event::Completed, true), 1, "the same peer again");
    assert_eq!(tell(2, Event::Started, true), 1, "a seeder that starts has downloaded nothing");
    assert_eq!(tell(2, Event::Completed, true), 1);
    assert_eq!(tell(3, Event::Completed, true), 2, "one that we first hear of when it completes");
    assert_eq!(tell(4, Event::Completed, false), 2, "one that says so but has something left");
    assert_eq!(tell(4, Event::Completed, true), 3);
    (5..50).for_each(|number| assert_eq!(tell(number, Event::Started, true), 3, "in sets as in a record"));
    assert_eq!(tell(50, Event::Started, false), 3);
    assert_eq!(tell(50, Event::Completed, true), 4);
    assert_eq!(tell(50, Event::Completed, true), 4);
}

#[test]
fn a_swarm_that_was_left_remembers_its_downloads_for_a_timeout() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let mut rng = Rng::with_seed(1);
    let mut tell = |shard: &mut Shard, secs, number, event| {
        let announce = announce(1, peer(number, false), event, true, 0);
        shard.announce(Timestamp::from_secs(secs), &announce, &mut rng, &mut Taken::default());
        shard.assert_invariants();
        (shard.totals().swarms, shard.totals().empty_swarms, shard.scrape(&announce.info_hash).downloaded)
    };
    assert_eq!(tell(&mut shard, 0, 1, Event::Completed), (1, 0, 1));
    assert_eq!(tell(&mut shard, 5, 1, Event::Stopped), (0, 1, 1));
    assert_eq!(tell(&mut shard, 6, 2, Event::Started), (1, 0, 1));
    assert_eq!(tell(&mut shard, 7, 2, Event::Stopped), (0, 1, 1));
    lap(&mut shard, Timestamp::from_secs(107), 1_000);
    assert_eq!(shard.totals().empty_swarms, 1);
    lap(&mut shard, Timestamp::from_secs(108), 1_000);
    assert_eq!(shard.totals(), Totals { completed: 1, ..Totals::default() });
}
