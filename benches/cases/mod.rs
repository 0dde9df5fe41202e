//! Owns what the small benches measure: each case is written once, and timed by criterion ([`timed`]) as well as
//! counted in instructions (`benches/instructions`). None is measured before it has given the result that it states.
#![allow(dead_code)] // each bench uses a part of it

pub(crate) mod connection_id;
pub(crate) mod engine;
pub(crate) mod http;
pub(crate) mod mesh;
pub(crate) mod samples;
pub(crate) mod timed;
pub(crate) mod udp;

use std::fmt::Debug;

/// How much one run of a case does.
#[derive(Clone, Copy)]
pub(crate) enum Amount {
    /// One thing.
    One,
    /// One thing, reading or writing so many bytes.
    Bytes(usize),
    /// So many things of the same kind.
    Each(usize),
}

/// Measures cases in its own way.
pub(crate) trait Meter {
    /// Measures `run`, which does so much and has to give what is expected. The name is `group/case`.
    fn measure<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        amount: Amount,
        expected: T,
        run: impl FnMut() -> T,
    );

    /// Measures what writes at the end of a buffer.
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
