//! The shard against a naive oracle, and the fairness of its choice.

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
    fn v4(&mut self, peer: &[u8; PEER_V4_BYTES], _: &PeerId) {
        self.0.push(PeerAddr::V4(*peer));
    }
    fn v6(&mut self, peer: &[u8; PEER_V6_BYTES], _: &PeerId) {
        self.0.push(PeerAddr::V6(*peer));
    }
}

/// As [`Taken`], but of the asker's family alone.
#[derive(Default)]
struct TakenOfOneFamily(Taken);

impl PeerSink for TakenOfOneFamily {
    const BOTH_FAMILIES: bool = false;
    fn v4(&mut self, peer: &[u8; PEER_V4_BYTES], id: &PeerId) {
        self.0.v4(peer, id);
    }
    fn v6(&mut self, peer: &[u8; PEER_V6_BYTES], id: &PeerId) {
        self.0.v6(peer, id);
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
    Announce { info_hash: InfoHash([swarm; 20]), peer_id: PeerId([7; 20]), peer, event, seeder, num_want }
}

/// What the shard should do, done the plainest way.
#[derive(Default)]
struct Oracle {
    swarms: BTreeMap<u8, OracleSwarm>,
}

#[derive(Default)]
struct OracleSwarm {
    peers: BTreeMap<Vec<u8>, (PeerAddr, bool, u32)>,
    downloaded: u32,
}

fn key(peer: &PeerAddr) -> Vec<u8> {
    match peer {
        PeerAddr::V4(bytes) => bytes.to_vec(),
        PeerAddr::V6(bytes) => bytes.to_vec(),
    }
}

impl Oracle {
    /// Returns the counts and everybody who may be handed out.
    fn announce(&mut self, now: u32, announce: &Announce) -> (SwarmCounts, Vec<PeerAddr>) {
        let name = announce.info_hash.0[0];
        let swarm = self.swarms.entry(name).or_default();
        let me = key(&announce.peer);
        if announce.event == Event::Stopped {
            swarm.peers.remove(&me);
            return (self.take_counts(name), Vec::new());
        }
        let was = swarm.peers.insert(me.clone(), (announce.peer, announce.seeder, now));
        let was_seeder = was.is_some_and(|(_, seeder, _)| seeder);
        swarm.downloaded += u32::from(announce.event == Event::Completed && announce.seeder && !was_seeder);
        let others = swarm.peers.iter().filter(|(other, (_, seeder, seen))| {
            **other != me && !(announce.seeder && *seeder) && seen + TIMEOUT >= now
        });
        let others = others.map(|(_, (addr, ..))| *addr).collect();
        (self.take_counts(name), others)
    }

    fn sweep(&mut self, now: u32) -> usize {
        let mut expired = 0;
        self.swarms.retain(|_, swarm| {
            let before = swarm.peers.len();
            swarm.peers.retain(|_, (.., seen)| *seen + TIMEOUT >= now);
            expired += before - swarm.peers.len();
            !swarm.peers.is_empty()
        });
        expired
    }

    fn has_overdue(&self, now: u32) -> bool {
        self.swarms.values().flat_map(|swarm| swarm.peers.values()).any(|(.., seen)| seen + TIMEOUT < now)
    }

    fn counts(&self, name: u8) -> SwarmCounts {
        self.swarms.get(&name).map(OracleSwarm::counts).unwrap_or_default()
    }

    fn take_counts(&mut self, name: u8) -> SwarmCounts {
        let counts = self.counts(name);
        if self.swarms[&name].peers.is_empty() {
            self.swarms.remove(&name);
        }
        // The announce that empties a swarm is told what it leaves behind; the swarm is forgotten after it.
        counts
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
    Announce { swarm: u8, peer: u16, v6: bool, event: Event, seeder: bool, num_want: u16, both: bool },
    Scrape(u8),
    Sweep(usize),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        5 => Just(Event::None), 3 => Just(Event::Started), 1 => Just(Event::Completed), 2 => Just(Event::Stopped)
    ];
    let announce = (0..4_u8, 0..90_u16, any::<bool>(), event, any::<bool>(), 0..60_u16, any::<bool>())
        .prop_map(|(swarm, peer, v6, event, seeder, num_want, both)| Step::Announce {
            swarm: swarm * swarm, // several small swarms, one with most of the peers
            peer: peer % (10 + 30 * u16::from(swarm)),
            v6,
            event,
            seeder,
            num_want,
            both,
        });
    prop_oneof![
        30 => announce,
        2 => (0..12_u8).prop_map(Step::Scrape),
        2 => (0..40_usize).prop_map(Step::Sweep),
        1 => (0..60_u32).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn agrees_with_the_oracle(steps in proptest::collection::vec(step(), 1..600), seed: u64) {
        let mut shard = Shard::new(seed.to_be_bytes().repeat(2).try_into().unwrap(), TIMEOUT, u64::MAX);
        let mut oracle = Oracle::default();
        let mut rng = Rng::with_seed(seed);
        let mut now = 1_000_u32;
        for step in steps {
            let time = Timestamp::from_secs(u64::from(now));
            match step {
                Step::Announce { swarm, peer: number, v6, event, seeder, num_want, both } => {
                    let announce = announce(swarm, peer(number, v6), event, seeder, num_want);
                    let mut taken = TakenOfOneFamily::default();
                    let counts = match both {
                        true => shard.announce(time, &announce, &mut rng, &mut taken.0),
                        false => shard.announce(time, &announce, &mut rng, &mut taken),
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
                    // While peers are overdue that the sweep has not taken out, the families' shares count them too, so
                    // that a mixed reply may be short.
                    let wanted = others.len().min(usize::from(num_want));
                    match both && overdue {
                        true => prop_assert!(taken.len() <= wanted),
                        false => prop_assert_eq!(taken.len(), wanted),
                    }
                }
                Step::Scrape(swarm) => {
                    prop_assert_eq!(shard.scrape(&InfoHash([swarm; 20])), oracle.counts(swarm));
                }
                Step::Sweep(budget) => {
                    // Slices of any size until a whole lap lies within: then nobody is left whose time is over.
                    let expired: usize = lap(&mut shard, time, budget + 1) + lap(&mut shard, time, budget + 1);
                    prop_assert_eq!(expired, oracle.sweep(now));
                }
                Step::Pass(secs) => now += secs,
            }
            shard.assert_invariants();
        }
    }
}

fn lap(shard: &mut Shard, now: Timestamp, budget: usize) -> usize {
    let mut expired = 0;
    loop {
        let swept = shard.sweep(now, budget);
        expired += swept.expired;
        if swept.lap_ended {
            return expired;
        }
    }
}

#[test]
fn a_peer_is_gone_after_its_timeout_and_memory_goes_back() {
    let mut shard = Shard::new([1; 16], TIMEOUT, u64::MAX);
    let mut rng = Rng::with_seed(1);
    let start = Timestamp::from_secs(10);
    for number in 0..20_000 {
        shard.announce(
            start,
            &announce(number as u8, peer(number, false), Event::Started, false, 0),
            &mut rng,
            &mut Taken::default(),
        );
    }
    assert_eq!(shard.totals().leechers, 20_000);
    assert_eq!(shard.totals().swarms, 256);
    assert_eq!(
        lap(&mut shard, Timestamp::from_secs(10 + u64::from(TIMEOUT)), 100),
        0,
        "at the timeout it is still there"
    );
    assert_eq!(lap(&mut shard, Timestamp::from_secs(11 + u64::from(TIMEOUT)), 100), 20_000);
    shard.assert_invariants();
    assert_eq!(shard.totals(), Totals::default());
    assert!(shard.swarms.capacity() <= 64 && shard.index.capacity() <= 128, "memory was kept");
}

#[test]
fn a_slice_of_the_sweep_looks_at_no_more_than_its_budget() {
    let mut shard = Shard::new([1; 16], TIMEOUT, u64::MAX);
    let mut rng = Rng::with_seed(1);
    for number in 0..100 {
        shard.announce(
            Timestamp::from_secs(0),
            &announce(1, peer(number, false), Event::None, false, 0),
            &mut rng,
            &mut Taken::default(),
        );
    }
    let late = Timestamp::from_secs(1_000);
    for slice in 1..=10 {
        assert_eq!(shard.sweep(late, 7), Swept { expired: 7, lap_ended: false });
        assert_eq!(shard.totals().leechers, 100 - slice * 7);
    }
}

#[test]
fn completed_counts_once_for_each_peer() {
    let mut shard = Shard::new([1; 16], TIMEOUT, u64::MAX);
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
}

/// Every peer is handed out about equally often, also when the swarm doesn't change: chi-squared over many asks.
#[test]
fn the_choice_is_fair() {
    let mut shard = Shard::new([1; 16], TIMEOUT, u64::MAX);
    let mut rng = Rng::with_seed(42);
    let (peers, want, asks) = (200_u16, 30_u16, 20_000_u32);
    for number in 0..peers {
        let entering = announce(1, peer(number, number % 4 == 0), Event::Started, number % 3 == 0, 0);
        shard.announce(Timestamp::from_secs(0), &entering, &mut rng, &mut Taken::default());
    }
    let mut handed_out = BTreeMap::<Vec<u8>, u32>::new();
    for _ in 0..asks {
        let mut taken = Taken::default();
        let ask = announce(1, peer(5_000, false), Event::None, false, want);
        shard.announce(Timestamp::from_secs(0), &ask, &mut rng, &mut taken);
        assert_eq!(taken.0.len(), usize::from(want));
        taken.0.iter().for_each(|peer| *handed_out.entry(key(peer)).or_default() += 1);
    }
    assert_eq!(handed_out.len(), usize::from(peers));
    let expected = f64::from(asks) * f64::from(want) / f64::from(peers);
    for (peer, count) in handed_out {
        let share = f64::from(count) / expected;
        assert!(
            (0.9..1.1).contains(&share),
            "{peer:?} was handed out {share} times as often as it should be"
        );
    }
}

#[test]
fn a_full_shard_takes_no_new_peer_but_keeps_those_it_has() {
    let mut shard = Shard::new([1; 16], TIMEOUT, 3);
    let mut rng = Rng::with_seed(1);
    let mut tell = |swarm, number, event| {
        let mut taken = Taken::default();
        let announce = announce(swarm, peer(number, number == 3), event, false, 9);
        let counts = shard.announce(Timestamp::from_secs(0), &announce, &mut rng, &mut taken);
        shard.assert_invariants();
        (counts.leechers, taken.0.len(), shard.totals().refused)
    };
    assert_eq!(tell(1, 1, Event::Started), (1, 0, 0));
    assert_eq!(tell(1, 2, Event::Started), (2, 1, 0));
    assert_eq!(tell(2, 3, Event::Started), (1, 0, 0));
    assert_eq!(tell(1, 3, Event::Started), (2, 0, 1), "the same address in another swarm is another peer");
    assert_eq!(tell(9, 4, Event::Started), (0, 0, 2), "a new swarm neither");
    assert_eq!(tell(1, 1, Event::None), (2, 1, 2), "who is in stays in");
    assert_eq!(tell(2, 3, Event::Stopped), (0, 0, 2));
    assert_eq!(tell(9, 4, Event::Started), (1, 0, 2), "there is room again");
}
