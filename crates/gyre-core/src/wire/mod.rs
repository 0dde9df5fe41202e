//! Owns the bytes on the wire, both ways: pure functions over slices that know no socket and no clock.

pub mod answer;
pub mod bencode;
pub mod chunked;
pub mod forwarded;
pub mod http;
pub mod proxy;
pub mod query;
pub mod udp;
