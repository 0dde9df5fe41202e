//! Owns the cases of the small benches. Each case is written once, timed by criterion ([`timed`]), and counted in
//! instructions (`benches/instructions`). A case must return its expected result before it is measured.
#![allow(dead_code)] // each bench uses a part of it

pub(crate) mod connection_id;
pub(crate) mod engine;
pub(crate) mod http;
pub(crate) mod mesh;
pub(crate) mod samples;
pub(crate) mod timed;
pub(crate) mod udp;

use std::fmt::Debug;

/// The amount of work in one run of a case.
#[derive(Clone, Copy)]
pub(crate) enum Amount {
    /// One operation.
    One,
    /// One operation that reads or writes this many bytes.
    Bytes(usize),
    /// This many operations of the same kind.
    Each(usize),
}

/// A way to measure cases.
pub(crate) trait Meter {
    /// Measures `run`, which does `amount` of work and must return `expected`. The name is `group/case`.
    fn measure<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        amount: Amount,
        expected: T,
        run: impl FnMut() -> T,
    );

    /// Measures a function that appends to a buffer.
    fn written(&mut self, name: &str, expected: &[u8], mut write: impl FnMut(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{name}");
        self.measure(name, Amount::Bytes(expected.len()), expected.len(), || {
            out.clear();
            write(std::hint::black_box(&mut out));
            out.len()
        });
    }
}
