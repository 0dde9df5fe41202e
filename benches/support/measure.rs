//! Owns how the small benches measure: criterion's settings, and that no time is taken of what gives a wrong result.

use std::fmt::Debug;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

/// Measurements that belong together.
pub(crate) type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// The settings, and what the command line says beyond them: `-- NAME` chooses, without `--bench` each runs once.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(40)
        .configure_from_args()
}

/// Measures `run`, once it has given what it should.
#[allow(clippy::needless_pass_by_value, reason = "what is expected is most often made in the call")]
pub(crate) fn measure<T: PartialEq + Debug>(
    group: &mut Group<'_>,
    name: &str,
    expected: T,
    mut run: impl FnMut() -> T,
) {
    assert_eq!(run(), expected, "{name}");
    group.bench_function(name, |bencher| bencher.iter(&mut run));
}
