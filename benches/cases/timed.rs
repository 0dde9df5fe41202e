//! Owns the timing of cases with criterion, and its settings.

use std::fmt::Debug;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};

use super::{Amount, Meter};

/// Returns the settings, with those of the command line: `-- NAME` selects cases, and without `--bench` each runs once.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(40)
        .configure_from_args()
}

impl Meter for Criterion {
    fn measure<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        amount: Amount,
        expected: T,
        mut run: impl FnMut() -> T,
    ) {
        let given = run();
        assert!(given == expected, "{name} gave {given:?} instead of {expected:?}");
        let (group, case) = name.split_once('/').expect("a group and a case");
        let mut group = self.benchmark_group(group);
        match amount {
            Amount::One => {}
            Amount::Bytes(bytes) => _ = group.throughput(Throughput::Bytes(bytes as u64)),
            Amount::Each(times) => _ = group.throughput(Throughput::Elements(times as u64)),
        }
        // By reference: moving the result into `black_box` can cost more than the operation itself.
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                black_box(&run());
            });
        });
        group.finish();
    }
}
