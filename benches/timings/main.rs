//! Owns the criterion benches: parsing each kind of request, writing each kind of response, issuing and verifying
//! connection ids, answering requests without the kernel, and sending messages between workers.
//!
//! `cargo bench --bench timings` measures all cases, and `-- 'http query'` those with this text in their name. With
//! `cargo test` each case runs once.

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
