//! Owns the bench cases for connection ids.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use gyre_core::connection_id::ConnectionIds;
use gyre_core::limits::DEFAULT_CONNECTION_ID_WINDOW_S;
use gyre_core::time::Timestamp;

use super::{Amount, Meter};

/// Measures ids for clients of both families.
pub(crate) fn ids(meter: &mut impl Meter) {
    let window = u64::from(DEFAULT_CONNECTION_ID_WINDOW_S);
    let ids = ConnectionIds::new(*b"sixteen byte key", DEFAULT_CONNECTION_ID_WINDOW_S, Duration::ZERO);
    let now = Timestamp::from_secs(100 * window);
    let clients: [(&str, IpAddr); 2] =
        [("v4", [203, 0, 113, 7].into()), ("v6", [0x2001, 0xdb8, 0, 0, 0, 0xff, 0, 0x1234].into())];
    for (family, client) in clients {
        let id = ids.issue(now, client);
        let name = format!("connection id/issue, {family}");
        meter.measure(&name, Amount::One, id, || ids.issue(black_box(now), black_box(client)));
        for (case, id, valid) in [
            ("of this window", id, true),
            ("of the window before", ids.issue(Timestamp::from_secs(99 * window), client), true),
            ("of two windows before", ids.issue(Timestamp::from_secs(98 * window), client), false),
            ("wrong", id ^ 1 << 63, false),
        ] {
            let name = format!("connection id/verify, {family}, {case}");
            meter.measure(&name, Amount::One, valid, || {
                ids.verify(black_box(now), black_box(client), black_box(id))
            });
        }
    }
}
