//! Owns the question what BEP 15's connection ids cost: to give one, and to check one that is right, old or wrong.
//!
//! `cargo bench --bench connection_id`; under `cargo test` each runs once.

mod cases;

use cases::{connection_id, timed};

fn main() {
    let mut criterion = timed::criterion();
    connection_id::ids(&mut criterion);
    criterion.final_summary();
}
