//! The choice of peers is fair: by chi-squared tests over many asks with fixed seeds.

use super::*;

/// Asks a swarm that doesn't change `asks` times, and returns how often each peer was handed out, by its number.
fn ask_often(shard: &mut Shard, asker: &Announce, both: bool, asks: u32) -> Vec<u32> {
    let mut rng = Rng::with_seed(42);
    let mut handed_out = vec![0; usize::from(u16::MAX)];
    for _ in 0..asks {
        let mut taken = TakenOfOneFamily::default();
        match both {
            true => shard.announce(Timestamp::default(), asker, &mut rng, &mut taken.0),
            false => shard.announce(Timestamp::default(), asker, &mut rng, &mut taken),
        };
        assert_eq!(taken.0.0.len(), usize::from(asker.num_want));
        assert!(!taken.0.0.contains(&asker.peer));
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

/// A swarm of `peers`, every fourth of IPv6, three quarters seeders; returns how many there are of each kind:
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
fn every_peer_is_as_likely_as_any_other() {
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
            let asker = announce(1, peer(50_000, false), Event::None, seeder, want);
            let expected = 3_000.0;
            let asks = (expected * eligible as f64 / f64::from(want)) as u32;
            let handed_out = ask_often(&mut shard, &asker, both, asks);
            let case = format!("{peers} peers, {seeder}, {both}");
            assert_eq!(handed_out.len(), eligible, "{case}: everybody gets a turn");
            // Each count's deviation is the root of what is expected at most, 1.8 per cent; five of them are allowed.
            let deviations = handed_out.iter().map(|count| f64::from(*count) / expected - 1.0);
            let largest = deviations.clone().map(f64::abs).fold(0.0, f64::max);
            assert!(largest < 0.09, "{case}: {largest}");
            // Chi-squared over its degrees of freedom is 1. Peers that stand together are given together, so there are
            // no more such degrees than replies that don't overlap, and its deviation is the root of two by their
            // number.
            let chi_squared =
                deviations.map(|deviation| deviation.powi(2) * expected).sum::<f64>() / eligible as f64;
            let bound = 1.0 + 5.0 * (2.0 * f64::from(want) / eligible as f64).sqrt();
            assert!(chi_squared < bound, "{case}: {chi_squared} of {bound}");
        }
    }
}

/// Two peers that are given together to one are not always given together: the neighbours in a bucket change.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn replies_differ() {
    let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
    populate(&mut shard, 3_000);
    let mut rng = Rng::with_seed(3);
    let asker = announce(1, peer(50_000, false), Event::None, false, 50);
    let mut replies = HashSet::new();
    for _ in 0..100 {
        let mut taken = TakenOfOneFamily::default();
        shard.announce(Timestamp::default(), &asker, &mut rng, &mut taken);
        replies.insert(taken.0.0);
    }
    assert!(replies.len() > 98, "{} different replies of 100", replies.len());
}

/// A large swarm that lost nearly everybody a moment ago still gives who is left.
#[test]
fn the_last_of_many_are_found() {
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
