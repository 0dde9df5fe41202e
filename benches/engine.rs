//! Owns the question what an answer costs without the kernel: the engine's answers to datagrams, from the request's
//! bytes to the response's, and those to requests by HTTP.
//!
//! `cargo bench --bench engine`; under `cargo test` each runs once.

mod cases;

use cases::{engine, timed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = timed::criterion();
    engine::datagrams(&mut criterion);
    engine::mediated(&mut criterion);
    engine::limited(&mut criterion);
    engine::listed(&mut criterion);
    engine::requests(&mut criterion);
    criterion.final_summary();
}
