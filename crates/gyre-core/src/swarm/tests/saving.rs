//! Owns the tests of saving, loading and peer ids.

use super::*;

#[test]
fn saved_entries_are_restored() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let mut rng = Rng::with_seed(1);
    for number in 0..if cfg!(miri) { 100 } else { 3_000_u16 } {
        let now = Timestamp::from_secs(u64::from(number) / 60);
        let event = if number % 7 == 0 { Event::Completed } else { Event::None };
        let announce =
            announce((number % 50) as u8 / 3 * 3, peer(number, number % 3 == 0), event, number % 5 != 0, 0);
        shard.announce(now, &announce, &mut rng, &mut Taken::default());
    }
    let saved = entries(&shard, usize::MAX);
    assert_eq!(entries(&shard, 1), saved);
    assert_eq!(entries(&shard, 7), saved);

    let now = Timestamp::from_secs(49);
    shard.sweep(now, 1);
    let saved = entries(&shard, usize::MAX);
    let mut restored = Shard::new([2; 16], TIMEOUT, usize::MAX);
    let peers = shard.totals().seeders + shard.totals().leechers;
    // Order and duplicates don't matter.
    let shuffled = saved.iter().rev().chain(&saved[..saved.len() / 2]).copied();
    assert_eq!(restored.load(now, shuffled.clone()), peers);
    restored.assert_invariants();
    let mut fresh = Shard::new([3; 16], TIMEOUT, usize::MAX);
    assert_eq!(fresh.restore(now, shuffled), peers);
    fresh.assert_invariants();
    assert_eq!(sorted(entries(&fresh, usize::MAX)), sorted(saved.clone()));
    assert_eq!(Totals { completed: shard.totals().completed, ..restored.totals() }, shard.totals());
    assert_eq!(sorted(entries(&restored, usize::MAX)), sorted(saved.clone()));

    // Entries that are too old are skipped, and newer data is kept.
    let mut late = Shard::new([3; 16], TIMEOUT, usize::MAX);
    let aged = |entry: Saved| match entry {
        Saved::Peer { info_hash, peer, seeder, age_secs } => {
            Saved::Peer { info_hash, peer, seeder, age_secs: age_secs + TIMEOUT - 20 }
        }
        swarm => swarm,
    };
    let young = saved.iter().filter(|entry| matches!(entry, Saved::Peer { age_secs: 0..=20, .. })).count();
    assert_eq!(late.load(now, saved.iter().map(|entry| aged(*entry))), young as u64);
    assert_eq!(restored.load(now, saved.iter().map(|entry| aged(*entry))), 0);
    assert_eq!(sorted(entries(&restored, usize::MAX)), sorted(saved));
}

#[test]
fn restored_downloads_are_kept_for_a_timeout() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let info_hash = InfoHash([1; 20]);
    shard.load(Timestamp::from_secs(90), [Saved::Swarm { info_hash, downloaded: 3 }]);
    lap(&mut shard, Timestamp::from_secs(150), 1_000); // an empty mark would be too old by now
    assert_eq!(shard.scrape(&info_hash).downloaded, 3);
}

/// Peers that stay in the table during a walk are saved, however the table changes between its slices.
#[test]
fn a_walk_with_pauses_visits_all_peers_that_stay() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let mut rng = Rng::with_seed(5);
    let mut tell = |shard: &mut Shard, now, swarm: u16, number, event| {
        let mut announce = announce(0, peer(number, false), event, false, 0);
        announce.info_hash.0[..2].copy_from_slice(&swarm.to_be_bytes());
        shard.announce(Timestamp::from_secs(now), &announce, &mut rng, &mut Taken::default());
    };
    let swarms = if cfg!(miri) { 20 } else { 3_000 };
    for swarm in 0..swarms {
        (0..1 + swarm % 4).for_each(|number| tell(&mut shard, 0, swarm, number, Event::Started));
    }
    // Nine of ten swarms are removed in several steps, with sweeps that compact the rest.
    let (mut position, mut visited) = (Position::default(), HashSet::new());
    for step in 0..10 {
        let mut walk = shard.walk(position);
        let part = walk.slice(usize::from(swarms) * 5 / 14);
        visited.extend(
            part.filter(|entry| matches!(entry, Saved::Peer { .. })).map(|entry| format!("{entry:?}")),
        );
        position = walk.position();
        for swarm in (0..swarms).filter(|swarm| swarm % 10 != 0 && swarm % 9 == step) {
            (0..1 + swarm % 4).for_each(|number| tell(&mut shard, 0, swarm, number, Event::Stopped));
        }
        lap(&mut shard, Timestamp::from_secs(0), 500);
    }
    let left = entries(&shard, usize::MAX);
    let left: Vec<_> = left.iter().filter(|entry| matches!(entry, Saved::Peer { .. })).collect();
    assert!(left.len() >= usize::from(swarms) / 10);
    assert!(left.iter().all(|entry| visited.contains(&format!("{entry:?}"))));
}

/// A swarm grows from few peers to many and shrinks again during a walk, and leechers become seeders.
#[test]
fn a_walk_visits_all_peers_of_a_swarm_that_grows_and_shrinks() {
    let most = if cfg!(miri) { 150 } else { 2_000_u16 };
    let peer_of = |number: u16| peer(number, number.is_multiple_of(5));
    for stays in [2, 40, most / 2] {
        let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
        let mut rng = Rng::with_seed(5);
        let mut tell = |shard: &mut Shard, number: u16, event, seeder| {
            let announce = announce(0, peer_of(number), event, seeder, 0);
            shard.announce(Timestamp::default(), &announce, &mut rng, &mut Taken::default());
        };
        (0..stays).for_each(|number| tell(&mut shard, number, Event::Started, false));
        let (mut position, mut visited, mut peers) = (Position::default(), HashSet::new(), stays);
        for step in 0.. {
            let mut walk = shard.walk(position);
            let part: Vec<_> = walk.slice(1).collect();
            position = walk.position();
            if part.is_empty() {
                break;
            }
            visited.extend(part.into_iter().filter_map(|entry| match entry {
                Saved::Peer { peer, .. } => Some(peer),
                Saved::Swarm { .. } => None,
            }));
            tell(&mut shard, step % stays, Event::Completed, true);
            // Grows in three steps and shrinks in three.
            let target = if step % 6 < 3 { most } else { stays };
            (peers..target)
                .for_each(|number| tell(&mut shard, number, Event::Started, number.is_multiple_of(2)));
            (target..peers).for_each(|number| tell(&mut shard, number, Event::Stopped, false));
            peers = target;
            (0..3).for_each(|_| assert_eq!(lap(&mut shard, Timestamp::default(), 10), 0));
        }
        assert!((0..stays).all(|number| visited.contains(&peer_of(number))), "of {stays}");
    }
}

/// Collects peers with their ids.
#[derive(Default)]
struct WithIds(Vec<([u8; 6], Option<[u8; 20]>)>);

impl PeerSink for WithIds {
    const BOTH_FAMILIES: bool = true;
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]) {
        let id = |at: usize| ids.get(at).copied().filter(|id| *id != PeerId::UNKNOWN.0);
        self.0.extend(peers.iter().enumerate().map(|(at, peer)| (*peer, id(at))));
    }
    fn v6(&mut self, _: &[[u8; PEER_V6_BYTES]], _: &[[u8; 20]]) {}
}

#[test]
fn ids_are_kept_while_clients_request_them() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let mut rng = Rng::with_seed(5);
    let mut tell = |shard: &mut Shard, now, number: u16, wants_ids| {
        let mut announce = announce(1, peer(number, false), Event::None, number.is_multiple_of(2), 200);
        announce.peer_id.0[..2].copy_from_slice(&(number + 1).to_be_bytes());
        let mut named = WithIds::default();
        shard.announce(Timestamp::from_secs(now), &Announce { wants_ids, ..announce }, &mut rng, &mut named);
        shard.assert_invariants();
        named.0
    };
    let peers = if cfg!(miri) { 15 } else { 100 };
    (0..peers).for_each(|number| drop(tell(&mut shard, 0, number, false)));
    let plain = shard.memory().used;
    assert!(tell(&mut shard, 0, 1, true).iter().all(|(_, id)| id.is_none()), "ids were not requested before");
    (0..peers).for_each(|number| drop(tell(&mut shard, 10, number, false)));
    let named = tell(&mut shard, 10, 1, true);
    assert_eq!(named.len(), usize::from(peers) - 1);
    for (addr, id) in named {
        let number = u16::from_be_bytes([addr[2], addr[3]]);
        assert_eq!(id.unwrap()[..2], (number + 1).to_be_bytes());
    }
    assert!(shard.memory().used >= plain + 20 * usize::from(peers));
    // No request for a timeout: the ids are dropped.
    (0..peers).for_each(|number| drop(tell(&mut shard, 60, number, false)));
    lap(&mut shard, Timestamp::from_secs(111), 50);
    assert_eq!(shard.memory().used, plain);
    assert!(tell(&mut shard, 111, 1, false).iter().all(|(_, id)| id.is_none()));
}
