//! Owns the tests of expiry and memory limits.

use super::*;
use crate::limits::{BUCKET_PEERS_MAX, SWEEP_CLEANING_COST, TABLE_CHUNK_BYTES, TABLE_MIN_BYTES};

fn fill(shard: &mut Shard, now: Timestamp, swarms: u32, peers: u16, first: u16) {
    let mut rng = Rng::with_seed(1);
    for swarm in 0..swarms {
        let mut info_hash = [0; 20];
        info_hash[..4].copy_from_slice(&swarm.to_be_bytes());
        for number in first..first + peers {
            let announce = announce(0, peer(number, number % 5 == 0), Event::Started, number % 4 != 0, 0);
            let announce = Announce { info_hash: InfoHash(info_hash), ..announce };
            shard.announce(now, &announce, &mut rng, &mut Taken::default());
        }
    }
}

#[test]
fn a_peer_expires_after_its_timeout_and_its_memory_is_freed() {
    for (swarms, peers) in if cfg!(miri) { [(10, 3), (1, 120)] } else { [(20_000, 3), (3, 20_000)] } {
        let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
        fill(&mut shard, Timestamp::from_secs(10), swarms, peers, 0);
        shard.assert_invariants();
        let all = u64::from(swarms) * u64::from(peers);
        assert_eq!(shard.totals().leechers + shard.totals().seeders, all);
        let full = shard.memory();
        let at = |secs: u32| Timestamp::from_secs(u64::from(secs));
        assert_eq!(lap(&mut shard, at(10 + TIMEOUT), 100), 0, "the peers live until the timeout");
        assert_eq!(lap(&mut shard, at(11 + TIMEOUT), 100), all as usize);
        (0..30).for_each(|_| assert_eq!(lap(&mut shard, at(11 + TIMEOUT), 100), 0));
        shard.assert_invariants();
        assert_eq!(shard.totals(), Totals::default());
        let empty = shard.memory();
        assert!(
            empty.used < 2 * TABLE_CHUNK_BYTES && empty.allocated < full.allocated / 10 + TABLE_CHUNK_BYTES,
            "{empty:?}"
        );
    }
}

#[test]
fn a_shrunken_table_is_compacted() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let (swarms, peers) = if cfg!(miri) { (20, 6) } else { (10_000, 20) };
    fill(&mut shard, Timestamp::from_secs(10), swarms, peers, 0);
    fill(&mut shard, Timestamp::from_secs(60), swarms / 20, peers, 0);
    let full = shard.memory();
    let late = Timestamp::from_secs(11 + u64::from(TIMEOUT));
    (0..10).for_each(|_| {
        lap(&mut shard, late, 100);
        shard.assert_invariants();
    });
    assert_eq!(shard.totals().swarms, u64::from(swarms / 20));
    if !cfg!(miri) {
        assert!(shard.memory().allocated < full.allocated / 4, "{:?} of {full:?}", shard.memory());
    }
}

/// The sweep visits a peer just before it expires, and then pauses in the next lap.
#[test]
fn no_peer_outlives_its_timeout_by_more_than_the_lag() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    fill(&mut shard, Timestamp::default(), 10, 1, 0);
    let at = |tenths: u64| Timestamp::from_micros(tenths * 100_000);
    let expiry = at(10 * u64::from(TIMEOUT + 1));
    assert_eq!(lap(&mut shard, at(1_004), 100), 0);
    assert_eq!(shard.sweep(at(1_005), 1).expired, 0);
    assert_eq!(lap(&mut shard, at(1_040), 100), 9);
    let now = at(1_100);
    assert_eq!(shard.totals().seeders + shard.totals().leechers, 1, "one is not yet removed");
    assert!(shard.sweep_lag(now) >= now.since(expiry), "{:?}", shard.sweep_lag(now));
    assert_eq!(lap(&mut shard, now, 100), 1);
}

#[test]
fn after_a_jump_of_the_clock_no_peer_is_left() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    fill(&mut shard, Timestamp::from_secs(10), 20, 20, 0);
    // 256 ticks later the marks would look fresh.
    let swept = shard.sweep(Timestamp::from_secs(10 + 256), 1);
    assert_eq!(swept.expired, 400);
    assert_eq!(shard.totals(), Totals::default());
    shard.assert_invariants();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_sweep_slice_stays_within_its_budget() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    fill(&mut shard, Timestamp::from_secs(0), 1, 2_000, 0);
    shard.sweep(Timestamp::from_secs(50), 1);
    let late = Timestamp::from_secs(101);
    let (mut slices, mut before) = (0, 2_000);
    while shard.totals().swarms > 0 {
        shard.sweep(late, 3 * SWEEP_CLEANING_COST);
        shard.assert_invariants();
        let now = shard.totals().seeders + shard.totals().leechers;
        assert!(before - now <= 4 * 96, "a slice of three buckets removed {}", before - now);
        (slices, before) = (slices + 1, now);
    }
    assert!(slices > 10, "{slices} slices for 40 buckets");
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn when_memory_is_short_the_oldest_peers_are_evicted_first() {
    let limit = TABLE_MIN_BYTES as usize;
    let mut shard = Shard::new([1; 16], TIMEOUT, limit);
    let mut now = 1;
    let steps = 80;
    let mut evicted = 0;
    for step in 0..steps {
        now += 1;
        let time = Timestamp::from_secs(now);
        for part in 0..10 {
            fill(&mut shard, time, 40, 20, 200 * step as u16 + 20 * part);
            (0..4).for_each(|_| evicted += shard.sweep(time, 1_000).evicted);
        }
        if step % 8 == 0 {
            shard.assert_invariants();
        }
        // Buckets that lose peers need smaller blocks before the larger blocks are compacted.
        assert!(shard.memory().allocated <= limit + limit / 20, "{:?}", shard.memory());
        let ages: Vec<u32> = shard.walk(Position::default()).filter_map(age).collect();
        let oldest = *ages.iter().max().unwrap();
        // No peer younger than the oldest is missing: 8,000 are entered each second.
        for younger in 0..oldest.saturating_sub(1) {
            let present = ages.iter().filter(|age| **age == younger).count();
            assert!(
                present as u64 + shard.totals().refused >= 8_000,
                "{present} of age {younger}, oldest {oldest}"
            );
        }
    }
    assert!(evicted > 100_000, "{evicted}");
    // Some peers are refused because no block of the right size is free until blocks are compacted.
    assert!(shard.totals().refused < 640_000 / 25, "{}", shard.totals().refused);
}

/// Ids are requested in an almost full table. They use the free memory and no more.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn ids_take_no_memory_beyond_the_limit() {
    let mut shard = Shard::new([1; 16], TIMEOUT, 2 * TABLE_MIN_BYTES as usize);
    let (mut rng, now) = (Rng::with_seed(1), Timestamp::from_secs(10));
    let of = |number: u32, wants_ids| {
        let addr = PeerAddr::new(number.to_be_bytes().into(), 1);
        Announce { wants_ids, ..announce(1, addr, Event::None, false, 0) }
    };
    let mut peers = 0;
    while shard.memory().allocated < shard.memory().limit / 10 * 8 {
        shard.announce(now, &of(peers, false), &mut rng, &mut Taken::default());
        peers += 1;
    }
    shard.announce(now, &of(0, true), &mut rng, &mut Taken::default());
    for number in 0..peers {
        shard.announce(now, &of(number, false), &mut rng, &mut Taken::default());
        assert!(shard.memory().allocated <= 2 * TABLE_MIN_BYTES as usize, "{:?}", shard.memory());
    }
    shard.assert_invariants();
    // When memory is short, ids are dropped before peers.
    while !shard.sweep(now, 1_000).lap_ended {}
    let left = shard.totals().leechers;
    assert!(left > u64::from(peers) * 9 / 10, "{left} of {peers}");
    shard.assert_invariants();
}

/// A bucket that has filled up while there was no memory for splits is split once there is memory again.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn overdue_splits_are_done_later() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    fill(&mut shard, Timestamp::from_secs(1), 1, 400, 0); // blocks of all sizes
    fill(&mut shard, Timestamp::from_secs(70), 300, 1, 1);
    shard.sweep(Timestamp::from_secs(99), 1);
    shard.books.memory.limit = 1;
    let mut rng = Rng::with_seed(1);
    let mut tell = |shard: &mut Shard, number| {
        let entering = announce(9, peer(number, false), Event::Started, true, 0);
        shard.announce(Timestamp::from_secs(99), &entering, &mut rng, &mut Taken::default());
        shard.assert_invariants();
        shard.totals().refused
    };
    // Fills one bucket peer by peer, with blocks that are already free.
    for number in 0..BUCKET_PEERS_MAX as u16 {
        shard.books.memory.limit = usize::MAX;
        let room = shard.memory().allocated + 1;
        shard.books.memory.limit = if number < 40 { room + TABLE_CHUNK_BYTES } else { room };
        tell(&mut shard, number);
    }
    shard.books.memory.limit = usize::MAX;
    let refused = shard.totals().refused;
    (500..600).for_each(|number| assert_eq!(tell(&mut shard, number), refused));
    assert_eq!(shard.sweep(Timestamp::from_secs(99), 1_000).evicted, 0);
}

/// A large set that loses almost all of its peers shrinks bucket by bucket and stays consistent after each slice.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_set_shrinks_bucket_by_bucket() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    fill(&mut shard, Timestamp::from_secs(1), 1, 10_000, 0);
    let full = shard.memory().used;
    let mut rng = Rng::with_seed(1);
    for number in 200..10_000 {
        let leaving = announce(0, peer(number, number % 5 == 0), Event::Stopped, false, 0);
        shard.announce(Timestamp::from_secs(1), &leaving, &mut rng, &mut Taken::default());
    }
    let mut laps = 0;
    while laps < 20 {
        laps += usize::from(shard.sweep(Timestamp::from_secs(1), 40).lap_ended);
        shard.assert_invariants();
    }
    assert_eq!(shard.totals().seeders + shard.totals().leechers, 200);
    assert!(shard.memory().used < full / 4, "{:?} of {full}", shard.memory());
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn empty_swarms_are_removed_before_peers_are_evicted() {
    let mut shard = Shard::new([1; 16], TIMEOUT, TABLE_MIN_BYTES as usize);
    let (mut rng, now) = (Rng::with_seed(1), Timestamp::from_secs(1));
    let tell = |shard: &mut Shard, rng: &mut Rng, number: u32, event| {
        let mut announce = announce(0, peer(1, false), event, true, 0);
        announce.info_hash.0[..4].copy_from_slice(&number.to_be_bytes());
        shard.announce(now, &announce, rng, &mut Taken::default());
    };
    for number in 0..15_000 {
        tell(&mut shard, &mut rng, number, Event::Completed);
        tell(&mut shard, &mut rng, number, Event::Stopped);
    }
    assert_eq!(shard.totals().empty_swarms, 15_000);
    for number in 15_000..42_000 {
        tell(&mut shard, &mut rng, number, Event::Started);
        if number % 32 == 0 {
            assert_eq!(shard.sweep(now, 2_000).evicted, 0);
        }
    }
    assert!(shard.totals().empty_swarms < 12_000, "{:?}", shard.totals());
    assert_eq!(shard.totals().seeders, 27_000);
    shard.assert_invariants();
}

#[test]
fn leaps_add_up() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    shard.totals.refused = 5;
    fill(&mut shard, Timestamp::from_secs(10), 1, 10, 0);
    fill(&mut shard, Timestamp::from_secs(300), 1, 10, 0);
    assert_eq!(shard.sweep(Timestamp::from_secs(600), 1).expired, 20);
    assert_eq!(shard.totals().refused, 5);
}

fn age(saved: Saved) -> Option<u32> {
    match saved {
        Saved::Peer { age_secs, .. } => Some(age_secs),
        Saved::Swarm { .. } => None,
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_full_table_answers_and_keeps_its_peers() {
    let mut shard = Shard::new([1; 16], TIMEOUT, 16 * TABLE_CHUNK_BYTES);
    fill(&mut shard, Timestamp::from_secs(0), 2, 4_000, 0);
    shard.assert_invariants();
    let refused = shard.totals().refused;
    assert!(refused > 0);
    let mut rng = Rng::with_seed(1);
    let mut tell = |swarm: u8, number, event| {
        let mut taken = Taken::default();
        let announce = announce(swarm, peer(number, number % 5 == 0), event, number % 4 != 0, 9);
        let counts = shard.announce(Timestamp::from_secs(0), &announce, &mut rng, &mut taken);
        shard.assert_invariants();
        (counts.seeders + counts.leechers, taken.0.len(), shard.totals().refused - refused)
    };
    let (all, given, _) = tell(0, 4, Event::None);
    assert_eq!((given, tell(0, 4, Event::Completed).0), (9, all), "a known peer stays");
    assert_eq!(tell(0, 4, Event::Stopped).0, all - 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 30 }))]

    /// In a table that is too small, the accounting stays correct and the limit holds.
    #[test]
    fn a_table_that_is_too_small_stays_consistent(
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 60 } else { 3_000 }),
        chunks in 4..40_usize,
        seed: u64,
    ) {
        let limit = chunks * TABLE_CHUNK_BYTES;
        let mut shard = Shard::new(seed.to_be_bytes().repeat(2).try_into().unwrap(), TIMEOUT, limit);
        let mut rng = Rng::with_seed(seed);
        let mut now = 50;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Announce { mut announce, both, ahead } => {
                    announce.info_hash.0[..2].copy_from_slice(&(number as u16 % 700).to_be_bytes());
                    let (mut taken, time) = (TakenOfOneFamily::default(), Timestamp::from_secs(now));
                    match both {
                        true => apply_announce(&mut shard, time, &announce, ahead, &mut rng, &mut taken.0),
                        false => apply_announce(&mut shard, time, &announce, ahead, &mut rng, &mut taken),
                    };
                    prop_assert!(taken.0.0.len() <= usize::from(announce.num_want));
                }
                Step::Scrape(_) | Step::Save(_) | Step::Restore { .. } => {}
                Step::Sweep(budget) => drop(shard.sweep(Timestamp::from_secs(now), budget)),
                Step::Advance(secs) => {
                    now += u64::from(secs);
                    while !shard.sweep(Timestamp::from_secs(now), 1_000).lap_ended {}
                }
            }
            if number % 16 == 0 {
                shard.assert_invariants();
            }
            prop_assert!(shard.memory().allocated <= limit + 40 * TABLE_CHUNK_BYTES);
        }
        shard.assert_invariants();
    }
}
