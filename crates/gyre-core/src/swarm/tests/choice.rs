//! Owns the tests that the choice of peers is fair: chi-squared tests over many announces with fixed seeds.

use super::*;

/// Announces `announces` times to an unchanging swarm. Returns how often each peer was in a reply, by its number.
fn announce_often(shard: &mut Shard, client: &Announce, both: bool, announces: u32) -> Vec<u32> {
    let mut rng = Rng::with_seed(42);
    let mut handed_out = vec![0; usize::from(u16::MAX)];
    for _ in 0..announces {
        let mut taken = TakenOfOneFamily::default();
        match both {
            true => shard.announce(Timestamp::default(), client, &mut rng, &mut taken.0),
            false => shard.announce(Timestamp::default(), client, &mut rng, &mut taken),
        };
        assert_eq!(taken.0.0.len(), usize::from(client.num_want));
        assert!(!taken.0.0.contains(&client.peer));
        for peer in taken.0.0 {
            let number = match peer {
                PeerAddr::V4([.., high, low, _, _]) | PeerAddr::V6([.., high, low, _, _]) => [high, low],
            };
            handed_out[usize::from(u16::from_be_bytes(number))] += 1;
        }
    }
    handed_out.retain(|count| *count > 0);
    handed_out
}

/// Creates a swarm of `peers` peers: one quarter IPv6, three quarters seeders. Returns their numbers:
/// `[IPv4 seeders, IPv4 leechers, IPv6 seeders, IPv6 leechers]`.
fn populate(shard: &mut Shard, peers: u16) -> [usize; 4] {
    let mut rng = Rng::with_seed(7);
    let mut kinds = [0; 4];
    for number in 0..peers {
        let (v6, seeder) = (number % 4 == 0, number % 16 < 12);
        let entering = announce(1, peer(number, v6), Event::Started, seeder, 0);
        shard.announce(Timestamp::default(), &entering, &mut rng, &mut Taken::default());
        kinds[2 * usize::from(v6) + usize::from(!seeder)] += 1;
    }
    kinds
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn all_peers_are_equally_likely() {
    for (peers, want) in [(3, 1), (20, 7), (60, 30), (200, 30), (3_000, 50)] {
        for (seeder, both) in [(false, true), (false, false), (true, true), (true, false)] {
            let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
            let [v4_seeders, v4_leechers, v6_seeders, v6_leechers] = populate(&mut shard, peers);
            let eligible = match (seeder, both) {
                (false, true) => v4_seeders + v4_leechers + v6_seeders + v6_leechers,
                (false, false) => v4_seeders + v4_leechers,
                (true, true) => v4_leechers + v6_leechers,
                (true, false) => v4_leechers,
            };
            if eligible <= usize::from(want) {
                continue;
            }
            let client = announce(1, peer(50_000, false), Event::None, seeder, want);
            let expected = 3_000.0;
            let announces = (expected * eligible as f64 / f64::from(want)) as u32;
            let handed_out = announce_often(&mut shard, &client, both, announces);
            let case = format!("{peers} peers, {seeder}, {both}");
            assert_eq!(handed_out.len(), eligible, "{case}: every peer is chosen");
            // The standard deviation of a count is at most the root of the expected value, 1.8 %. Five are allowed.
            let deviations = handed_out.iter().map(|count| f64::from(*count) / expected - 1.0);
            let largest = deviations.clone().map(f64::abs).fold(0.0, f64::max);
            assert!(largest < 0.09, "{case}: {largest}");
            // The expected chi-squared per degree of freedom is 1. Neighbouring peers are chosen together, so there are
            // only as many degrees as replies that don't overlap. The standard deviation is the root of 2 / degrees.
            let chi_squared =
                deviations.map(|deviation| deviation.powi(2) * expected).sum::<f64>() / eligible as f64;
            let bound = 1.0 + 5.0 * (2.0 * f64::from(want) / eligible as f64).sqrt();
            assert!(chi_squared < bound, "{case}: {chi_squared} of {bound}");
        }
    }
}

/// The same peers are not always in the same reply, because the order of the buckets changes.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn replies_differ() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    populate(&mut shard, 3_000);
    let mut rng = Rng::with_seed(3);
    let client = announce(1, peer(50_000, false), Event::None, false, 50);
    let mut replies = HashSet::new();
    for _ in 0..100 {
        let mut taken = TakenOfOneFamily::default();
        shard.announce(Timestamp::default(), &client, &mut rng, &mut taken);
        replies.insert(taken.0.0);
    }
    assert!(replies.len() > 98, "{} different replies of 100", replies.len());
}

/// A large swarm that has just lost almost all of its peers still returns the remaining ones.
#[test]
fn the_last_peers_of_a_large_swarm_are_found() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    let mut rng = Rng::with_seed(3);
    let mut tell = |number, event| {
        let mut taken = Taken::default();
        shard.announce(
            Timestamp::default(),
            &announce(1, peer(number, false), event, false, 50),
            &mut rng,
            &mut taken,
        );
        taken.0
    };
    let peers = if cfg!(miri) { 120 } else { 20_000 };
    (0..peers).for_each(|number| drop(tell(number, Event::Started)));
    (3..peers).for_each(|number| drop(tell(number, Event::Stopped)));
    assert_eq!(tell(0, Event::None).len(), 2);
    assert_eq!(tell(1, Event::None).len(), 2);
}
