//! Owns the connection ids of BEP 15. They are stateless and keyed, and they expire.
//!
//! An id is the SipHash-2-4 of the client's address and the current time window under a secret key. Nothing is stored
//! for it, and a client can only learn it by receiving it at its address. The lowest bit of the id is that of the
//! window number. One hash is therefore enough to check an id of the current window or of the previous one, and an id
//! is valid for one to two windows.
//!
//! The hash excludes the port. An amplification attack forges the address, and some clients and address translators
//! change the port between connect and announce.

use std::hash::Hasher;
use std::net::IpAddr;
use std::time::Duration;

use siphasher::sip::SipHasher24;

use crate::time::Timestamp;

/// Issues and verifies connection ids.
#[derive(Clone, Copy)]
pub struct ConnectionIds {
    hasher: SipHasher24,
    window_secs: u32,
    /// The window in which the process's clock started.
    first_window: u64,
    /// The clock's start within that window, in whole seconds.
    first_secs: u32,
    /// The rest of that time, below one second.
    fraction: Duration,
}

impl ConnectionIds {
    /// Creates ids with a secret key. Each is valid for one to two windows of `window_secs` seconds. `started_unix` is
    /// the time since 1970 at which the clock started: windows follow the wall clock, so that ids stay valid when the
    /// tracker restarts with the same key.
    ///
    /// # Panics
    ///
    /// If the window is zero or longer than a year.
    pub fn new(key: [u8; 16], window_secs: u32, started_unix: Duration) -> Self {
        assert!(
            (1..=31_536_000).contains(&window_secs),
            "the window of connection ids must be between a second and a year"
        );
        let (hasher, window) = (SipHasher24::new_with_key(&key), u64::from(window_secs));
        let (first_window, first_secs) =
            (started_unix.as_secs() / window, (started_unix.as_secs() % window) as u32);
        let fraction = Duration::from_micros(started_unix.subsec_micros().into());
        Self { hasher, window_secs, first_window, first_secs, fraction }
    }

    /// Returns the id for a client that connects now.
    pub fn issue(&self, now: Timestamp, client: IpAddr) -> u64 {
        self.id(self.window(now), client)
    }

    /// Returns whether the client got this id in the current window or the previous one.
    ///
    /// The time this takes does not depend on which bits of the id are wrong.
    pub fn verify(&self, now: Timestamp, client: IpAddr, id: u64) -> bool {
        let window = self.window(now);
        let age = (window ^ id) & 1; // 0: current window, 1: previous one
        // Window 0 has no previous one. No id was ever issued for the wrapped number.
        self.id(window.wrapping_sub(age), client) ^ id == 0
    }

    fn window(&self, now: Timestamp) -> u64 {
        self.first_window + u64::from((self.first_secs + (now + self.fraction).as_secs()) / self.window_secs)
    }

    fn id(&self, window: u64, client: IpAddr) -> u64 {
        let mut hasher = self.hasher;
        hasher.write_u64(window);
        match client {
            IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
            IpAddr::V6(ip) => hasher.write_u128(ip.to_bits()),
        }
        (hasher.finish() & !1) | (window & 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: u32 = 120;

    fn ids() -> ConnectionIds {
        ConnectionIds::new(*b"sixteen byte key", WINDOW, Duration::ZERO)
    }

    fn client() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|ip| IpAddr::V4(ip.into())),
            any::<u128>().prop_map(|ip| IpAddr::V6(ip.into()))
        ]
    }

    #[test]
    fn ids_stay_valid_after_a_restart_with_the_same_key() {
        let client = IpAddr::from([192, 0, 2, 7]);
        let ids = |started| ConnectionIds::new([7; 16], WINDOW, Duration::from_secs(started));
        let start = 1_800_000_077;
        let id = ids(start).issue(Timestamp::from_secs(100), client);
        let restarted = |after| ids(start + 100 + after);
        assert!(restarted(0).verify(Timestamp::default(), client, id));
        assert!(restarted(u64::from(WINDOW)).verify(Timestamp::default(), client, id));
        assert!(!restarted(0).verify(Timestamp::from_secs(2 * u64::from(WINDOW)), client, id));
        assert!(!restarted(2 * u64::from(WINDOW)).verify(Timestamp::default(), client, id));
    }

    proptest! {
        #[test]
        fn an_id_is_valid_for_one_to_two_windows(client in client(), issued in 0..10_000_u64, age in 0..1_000_u64) {
            let ids = ids();
            let id = ids.issue(Timestamp::from_secs(issued), client);
            let window = u64::from(WINDOW);
            let expected = (issued + age) / window - issued / window <= 1;
            prop_assert_eq!(ids.verify(Timestamp::from_secs(issued + age), client, id), expected);
            prop_assert!(age > window || expected);
            prop_assert!(age < 2 * window || !expected);
        }

        #[test]
        fn an_id_depends_on_the_address_the_key_and_every_bit(
            client in client(), other in client(), bit in 0..64_u32, at in 0..10_000_u64,
        ) {
            let now = Timestamp::from_secs(at);
            let id = ids().issue(now, client);
            prop_assert!(ids().verify(now, client, id));
            prop_assert!(!ids().verify(now, client, id ^ (1 << bit)));
            prop_assert!(client == other || !ids().verify(now, other, id));
            prop_assert!(!ConnectionIds::new([0; 16], WINDOW, Duration::ZERO).verify(now, client, id));
        }
    }

    #[test]
    fn no_id_is_valid_before_the_first_window() {
        // The wrapped number of the window before 0 must not be one for which ids are issued.
        let ids = ids();
        let client = IpAddr::from([192, 0, 2, 1]);
        let late = ids.issue(Timestamp::from_secs(u64::from(WINDOW)), client);
        assert!(!ids.verify(Timestamp::from_secs(0), client, late));
    }
}
