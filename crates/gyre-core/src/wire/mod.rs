//! Owns the wire formats, for reading and writing: pure functions over slices, without sockets or clocks.

pub mod answer;
pub mod bencode;
pub mod chunked;
pub mod forwarded;
pub mod http;
pub mod proxy;
pub mod query;
pub mod udp;
