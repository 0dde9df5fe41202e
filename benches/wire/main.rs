//! Owns the question what the wire costs: to read each kind of request and to write each kind of response, in time and
//! in bytes a second. Each has to give the result that is stated here before it is measured.
//!
//! `cargo bench --bench wire` measures all, `-- 'http query'` those that are called so. Under `cargo test` each runs
//! once.

mod http;
#[path = "../support/measure.rs"]
mod measure;
#[path = "../support/samples.rs"]
mod samples;
mod udp;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = measure::criterion();
    udp::parse(&mut criterion);
    udp::encode(&mut criterion);
    http::heads(&mut criterion);
    http::queries(&mut criterion);
    http::answers(&mut criterion);
    criterion.final_summary();
}
