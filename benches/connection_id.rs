//! Owns the question what BEP 15's connection ids cost: to give one, and to check one that is right, old or wrong.
//!
//! `cargo bench --bench connection_id`; under `cargo test` each runs once.

#[path = "support/measure.rs"]
mod measure;

use std::hint::black_box;
use std::net::IpAddr;

use gyre::connection_id::ConnectionIds;
use gyre::limits::DEFAULT_CONNECTION_ID_WINDOW_S;
use gyre::time::Timestamp;

use crate::measure::measure;

fn main() {
    let mut criterion = measure::criterion();
    let window = u64::from(DEFAULT_CONNECTION_ID_WINDOW_S);
    let ids = ConnectionIds::new(*b"sixteen byte key", DEFAULT_CONNECTION_ID_WINDOW_S);
    let now = Timestamp::from_secs(100 * window);
    let clients: [(&str, IpAddr); 2] =
        [("v4", [203, 0, 113, 7].into()), ("v6", [0x2001, 0xdb8, 0, 0, 0, 0xff, 0, 0x1234].into())];
    for (family, client) in clients {
        let mut group = criterion.benchmark_group(format!("connection id {family}"));
        let id = ids.issue(now, client);
        measure(&mut group, "issue", id, || ids.issue(now, black_box(client)));
        for (name, id, valid) in [
            ("verify, of this window", id, true),
            ("verify, of the window before", ids.issue(Timestamp::from_secs(99 * window), client), true),
            ("verify, of two windows before", ids.issue(Timestamp::from_secs(98 * window), client), false),
            ("verify, wrong", id ^ 1 << 63, false),
        ] {
            measure(&mut group, name, valid, || ids.verify(now, black_box(client), black_box(id)));
        }
        group.finish();
    }
    criterion.final_summary();
}
