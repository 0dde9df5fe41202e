//! The core of the tracker gyre: wire formats, swarm table, engine and mesh. It uses no sockets and no ring, and reads
//! the clock only in [`time`]. Use it through the crate `gyre-tracker`, whose library is called `gyre`. The interface
//! of the core may change at any time.
//!
//! A module imports only modules in rows below it, which a test checks.
//!
//! | module | owns |
//! |---|---|
//! | [`mesh`] | the queues between workers |
//! | [`engine`] | the handling of requests: context, middleware, responses gathered from several workers |
//! | [`snapshot`] | the file format of a table snapshot |
//! | [`swarm`] | the table of swarms and peers, the sweep |
//! | [`config`] | the operator's settings |
//! | [`error`] | the error of a request |
//! | [`access`], [`throttle`] | allow and deny lists; rate limits for each source |
//! | [`wire`] | UDP, HTTP, queries, bencode, the fields that proxies set |
//! | [`connection_id`], [`counters`], [`owner`] | the connection ids of BEP 15; statistics; the owner of a swarm |
//! | [`text`], [`data`] | text for people; a map from types to values |
//! | [`limits`], [`time`], [`types`] | all limits; the clock; the basic types of the protocol |
//! | `canary` | deliberate bugs that the simulation must find (with the feature `canary`) |

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
