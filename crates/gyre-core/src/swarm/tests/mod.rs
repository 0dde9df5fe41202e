//! Owns the tests of the shard, which is compared with a naive oracle.

mod choice;
mod invariants;
mod limits;
mod oracle;
mod saving;

use std::collections::HashSet;

use fastrand::Rng;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_oneof, proptest};

use super::*;
use oracle::{
    Step, TIMEOUT, Taken, TakenOfOneFamily, Trial, announce, apply_announce, entries, lap, peer, sorted,
};

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        5 => Just(Event::None), 3 => Just(Event::Started), 1 => Just(Event::Completed), 2 => Just(Event::Stopped)
    ];
    let peer = (0..4_u8, 0..400_u16, any::<bool>());
    let announce = (peer, event, any::<bool>(), 0..60_u16, 0..40_u8).prop_map(
        |(peer, event, seeder, num_want, bits)| Step::announce(peer, event, seeder, num_want, bits),
    );
    prop_oneof![
        600 => announce,
        20 => (0..12_u8).prop_map(Step::Scrape),
        20 => (0..80_usize).prop_map(Step::Sweep),
        20 => (0..40_u32).prop_map(Step::Advance),
        10 => (TIMEOUT + 1..150).prop_map(Step::Advance),
        2 => (0..200_usize).prop_map(Step::Save),
        1 => any::<bool>().prop_map(|beside| Step::Restore { beside }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 60 }))]

    #[test]
    fn agrees_with_the_oracle(
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 40 } else { 1_500 }),
        seed: u64,
    ) {
        let mut trial = Trial::new(seed);
        for step in steps {
            trial.step(step);
            trial.shard.assert_invariants();
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
    assert_eq!(tell(3, Event::Completed, true), 2, "its first announce is `completed`");
    assert_eq!(tell(4, Event::Completed, false), 2, "it has something left to download");
    assert_eq!(tell(4, Event::Completed, true), 3);
    (5..50).for_each(|number| assert_eq!(tell(number, Event::Started, true), 3, "the same in sets"));
    assert_eq!(tell(50, Event::Started, false), 3);
    assert_eq!(tell(50, Event::Completed, true), 4);
    assert_eq!(tell(50, Event::Completed, true), 4);
}

#[test]
fn a_record_that_is_freed_after_the_lookahead_is_no_swarm() {
    // A free record has an info-hash of zeros.
    for swarm in [0, 1] {
        let mut shard = Shard::new([1; 16], TIMEOUT, usize::MAX);
        let (mut rng, now) = (Rng::with_seed(1), Timestamp::from_secs(0));
        let first = announce(swarm, peer(1, false), Event::Started, true, 0);
        shard.announce(now, &first, &mut rng, &mut Taken::default());
        let stop = Announce { event: Event::Stopped, ..first };
        let second = announce(swarm, peer(2, false), Event::Started, true, 0);
        let mut ahead = [Lookahead::default(); 2];
        shard.look_ahead::<Taken>(&[&stop, &second].into_iter(), &mut rng, &mut ahead);
        for (announce, ahead) in [stop, second].iter().zip(&ahead) {
            shard.announce_prefetched(now, announce, ahead, &mut Taken::default());
            shard.assert_invariants();
        }
        assert_eq!((shard.scrape(&first.info_hash).seeders, shard.totals().swarms), (1, 1));
    }
}

#[test]
fn an_empty_swarm_keeps_its_downloads_for_a_timeout() {
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
