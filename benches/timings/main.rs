//! Owns the criterion benches: what it costs to read each kind of request and to write each kind of response, to issue
//! and to verify connection ids, to answer a request without the kernel, and to send a message between workers.
//!
//! `cargo bench --bench timings` measures all, `-- 'http query'` those with this in their name. Under `cargo test` each
//! runs once.

#[path = "../cases/mod.rs"]
mod cases;
mod mesh;

use cases::{connection_id, engine, http, timed, udp};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = timed::criterion();
    udp::parse(&mut criterion);
    udp::encode(&mut criterion);
    http::heads(&mut criterion);
    http::queries(&mut criterion);
    http::answers(&mut criterion);
    connection_id::ids(&mut criterion);
    engine::datagrams(&mut criterion);
    engine::mediated(&mut criterion);
    engine::limited(&mut criterion);
    engine::listed(&mut criterion);
    engine::requests(&mut criterion);
    mesh::between_workers(&mut criterion);
    criterion.final_summary();
}
