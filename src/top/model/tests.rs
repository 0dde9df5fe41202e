//! Owns the tests of the model: rates, restarts, percentiles of turns, the history.

use super::*;
use crate::admin::stats::{Families, Worker};

/// A reading at `secs` of a tracker with one worker that has answered this number of UDP announces.
fn reading(secs: u64, uptime_secs: u64, announces: u64) -> Reading {
    let mut total = Numbers::default();
    total.udp.announces = Families { v4: announces, v6: announces };
    total.udp.responses = total.udp.announces;
    total.http.others = announces;
    (total.cpu_us, total.mesh_hops) = (announces * 1_000, announces / 2);
    total.bad.insert("magic".into(), announces);
    total.drops.insert("send-failed".into(), 3);
    total.drops.insert("accept".into(), 0);
    let workers = vec![Worker { core: None, numbers: total.clone() }];
    let stats = Stats { uptime_secs, total, workers, ..Stats::default() };
    Reading { at: Timestamp::from_secs(secs), stats }
}

fn model(readings: impl IntoIterator<Item = Reading>) -> Model {
    let mut model = Model::new("here");
    readings.into_iter().for_each(|reading| model.apply(Update::Stats(Box::new(reading))));
    model
}

#[test]
fn rates_are_computed_from_two_readings() {
    assert_eq!(model([reading(1, 50, 100)]).rates, None, "one reading has no rates");
    let model = model([reading(1, 50, 100), reading(5, 54, 500)]);
    let rates = model.rates.unwrap();
    assert_eq!(rates.requests, Protocols { udp: 200.0, http: 100.0 });
    assert_eq!(rates.responses, Protocols { udp: 200.0, http: 0.0 });
    assert_eq!(rates.workers, [WorkerRates { cpu: 0.1, requests: 300.0, hops: 50.0 }]);
    let cause = |outcome, name: &str, rate, total| Cause { outcome, name: name.into(), rate, total };
    let causes = [cause(Outcome::Dropped, "send-failed", 0.0, 3), cause(Outcome::Bad, "magic", 100.0, 500)];
    assert_eq!(model.causes, causes, "causes with a count of 0 are left out");
}

#[test]
fn another_process_has_no_rates_before_its_second_reading() {
    // A lower uptime; a higher uptime with lower counters; another number of workers.
    let mut other_workers = reading(9, 59, 600);
    other_workers.stats.workers.clear();
    for restarted in [reading(9, 2, 1_000), reading(9, 60, 20), other_workers] {
        let (uptime, announces) = (restarted.stats.uptime_secs, restarted.stats.total.http.others);
        let mut model = model([reading(1, 50, 100), reading(5, 54, 500), restarted.clone()]);
        assert_eq!((&model.rates, model.restarts), (&None, 1));
        assert!(model.causes.iter().all(|cause| cause.rate == 0.0), "{:?}", model.causes);
        let mut next = restarted;
        next.at = Timestamp::from_secs(10);
        next.stats.uptime_secs = uptime + 1;
        next.stats.total.http.others = announces + 7;
        model.apply(Update::Stats(Box::new(next)));
        assert_eq!(model.rates.unwrap().requests.http, 7.0);
        assert_eq!(model.restarts, 1);
    }
}

#[test]
fn a_counter_that_goes_back_has_no_rate() {
    let mut later = reading(5, 54, 500);
    later.stats.total.drops.insert("send-failed".into(), 1); // the kernel's counter wraps around
    let model = model([reading(1, 50, 100), later]);
    assert_eq!((model.causes[0].rate, model.causes[0].total), (0.0, 1));
}

#[test]
fn after_a_failure_the_rates_are_means_of_the_time_between() {
    let mut model = model([reading(1, 50, 100), reading(2, 51, 200)]);
    model.apply(Update::Lost { at: Timestamp::from_secs(7), why: "gone".into() });
    assert_eq!(model.lost, Some((5, "gone".to_owned())));
    assert_eq!(model.rates.as_ref().unwrap().requests.http, 100.0, "the last values are kept");
    model.apply(Update::Stats(Box::new(reading(12, 61, 700))));
    assert_eq!((model.lost.is_none(), model.restarts), (true, 0));
    assert_eq!(model.rates.as_ref().unwrap().requests.http, 50.0);
    assert_eq!(model.history(10, |rate| rate.http), [Some(50.0), None, Some(100.0), None]);
    assert_eq!(model.history_secs(), 11);
}

#[test]
fn percentiles_are_bounds_of_buckets() {
    // 98 turns took 4 to 7 us, one less than 1 us, and one more than all bounds.
    let counts = [1, 0, 0, 98, 0, 1];
    assert_eq!(quantile(&counts, 1), Some(Micros::Below(1)));
    assert_eq!(quantile(&counts, 50), Some(Micros::Below(8)));
    assert_eq!(quantile(&counts, 99), Some(Micros::Below(8)));
    assert_eq!(quantile(&counts, 100), Some(Micros::AtLeast(16)));
    assert_eq!(quantile(&[0; 6], 50), None);
    assert_eq!(quantile(&[], 50), None);
}

#[test]
fn percentiles_are_those_of_the_last_interval() {
    let with_turns = |secs, counts: [u64; 4]| {
        let mut reading = reading(secs, secs, secs);
        reading.stats.total.turns.counts = counts.into();
        reading
    };
    let model = model([with_turns(1, [1_000, 0, 0, 0]), with_turns(2, [1_001, 0, 9, 0])]);
    let rates = model.rates.unwrap();
    assert_eq!((rates.p50, rates.p99), (Some(Micros::Below(4)), Some(Micros::Below(4))));
}

#[test]
fn the_datagrams_of_a_turn_are_the_mean_of_the_last_interval() {
    let with_datagrams = |secs, sum, counts: [u64; 3]| {
        let mut reading = reading(secs, secs, secs);
        reading.stats.total.turn_datagrams = TurnDatagrams { sum, counts: counts.into() };
        reading
    };
    let readings = [
        with_datagrams(1, 100, [100, 0, 0]),
        with_datagrams(2, 114, [102, 0, 4]),
        with_datagrams(3, 114, [102, 0, 4]),
    ];
    assert_eq!(model(readings[..2].to_vec()).rates.unwrap().datagrams, Some(14.0 / 6.0));
    assert_eq!(model(readings).rates.unwrap().datagrams, None, "no turn took a datagram");
}

#[test]
fn a_long_history_has_means_of_fixed_samples() {
    let readings = |last| (1..=last).map(|second| reading(second, second, second * second));
    let of = |requests: &Protocols<f64>| requests.http;
    // The first sample has no rate; the others are 3, 5, 7 ...
    assert_eq!(model(readings(4)).history(9, of), [Some(7.0), Some(5.0), Some(3.0), None]);
    assert_eq!(model(readings(4)).history(2, of), [Some(6.0), Some(3.0)]);
    let long = |last| model(readings(last)).history(TOP_HISTORY / 2, of);
    let last = 2 * TOP_HISTORY as u64;
    let (before, after) = (long(last), long(last + 1));
    assert_eq!(before.len(), TOP_HISTORY / 2);
    assert_eq!(before[..TOP_HISTORY / 2 - 1], after[1..], "a column was added, the others are the same");
}
