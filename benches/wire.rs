//! Owns the question what the wire costs: to read each kind of request and to write each kind of response, in time and
//! in bytes a second.
//!
//! `cargo bench --bench wire` measures all, `-- 'http query'` those that are called so. Under `cargo test` each runs
//! once.

mod cases;

use cases::{http, timed, udp};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = timed::criterion();
    udp::parse(&mut criterion);
    udp::encode(&mut criterion);
    http::heads(&mut criterion);
    http::queries(&mut criterion);
    http::answers(&mut criterion);
    criterion.final_summary();
}
