//! The core of the tracker gyre: wire formats, the swarm table, the engine, the mesh. It knows no socket and no ring,
//! and reads no clock but in [`time`]. Use it through the crate `gyre-tracker`, whose library is called `gyre`: the
//! core's own interface may change at any time.
//!
//! Imports go downwards only, which a test checks.
//!
//! | module | owns |
//! |---|---|
//! | [`mesh`] | the queues between workers |
//! | [`engine`] | what a request means, its context, middleware, gathering of answers |
//! | [`snapshot`] | the table in a file |
//! | [`swarm`] | the table of swarms and peers, the sweep |
//! | [`config`] | what an operator decides |
//! | [`error`] | what can go wrong with a request |
//! | [`access`], [`throttle`] | who may use the tracker, for which torrents, and how much of it |
//! | [`wire`] | UDP, HTTP, queries, bencode, what proxies say |
//! | [`connection_id`], [`counters`], [`owner`] | BEP 15's ids; what is counted; who owns a swarm |
//! | [`text`], [`data`] | how sizes, and words of others, are written for a human; values by type |
//! | [`limits`], [`time`], [`types`] | every bound; the clock; the words |
//! | `canary` | bugs that are planted for a test of the tests (with the feature `canary`) |

pub mod access;
#[doc(hidden)]
pub mod canary;
pub mod config;
pub mod connection_id;
pub mod counters;
pub mod data;
pub mod engine;
pub mod error;
mod keyed_hash;
pub mod limits;
pub mod mesh;
pub mod owner;
pub mod snapshot;
pub mod swarm;
pub mod text;
pub mod throttle;
pub mod time;
pub mod types;
pub mod wire;
