//! gyre is a BitTorrent tracker for Linux bare metal: one process serves UDP (BEP 15) and HTTP (BEP 3) from one worker
//! per core, on io_uring. The program `gyre` is a thin user of this library.
//!
//! # How a request travels
//!
//! ```text
//!              kernel                             worker (one per core)
//!  datagram ──► steering ──► UDP socket ──► ring ──► wire::udp ──┐                       ┌──► wire ──► ring ──► out
//!               (BPF, by info-hash)                              ├──► engine ──► swarm ──┤
//!  HTTP ──────► TCP listener ────► tokio-uring ──► wire::http ───┘      │                └──► wire ──► tokio-uring
//!                                                                       ▼
//!                                                                     mesh ◄──► the other workers
//! ```
//!
//! Every swarm is owned by one worker, chosen by a keyed function of its info-hash ([`owner`]). The kernel runs the
//! same function as a BPF program, so that an announce by UDP arrives at its owner's socket and is answered there
//! without any hand-over. What arrives elsewhere (HTTP, scrapes over several owners, other steering) goes through
//! the [`mesh`]: a bounded lock-free queue for each ordered pair of workers. UDP replies leave from the owner's own
//! socket, since all workers' sockets share the port; HTTP answers and gathered scrapes come back.
//!
//! No lock and no written cache line is shared on this path. Counters are plain numbers that each worker publishes
//! four times a second.
//!
//! # A worker's turn
//!
//! Read the clock once; take completions of the UDP ring; take messages; do a slice of the sweep and of the
//! connections' deadlines; submit; ring the doorbells of workers that sleep and got mail; let the HTTP tasks run, or
//! sleep. Each step is bounded by a constant of [`limits`].
//!
//! Two rings serve a worker: one driven by hand for UDP (crate io-uring), one by tokio-uring for HTTP. tokio-uring
//! submits only when its thread is about to sleep. A worker that never sleeps would starve HTTP; so when HTTP has
//! queued something, the worker queues a no-op behind it and sleeps until that has completed ([`worker`]).
//!
//! # The modules
//!
//! Imports go downwards only, which a test checks. A module is pure (no clock, no randomness of its own, no system
//! call), or it is the kernel's side (the only `unsafe` code), or it wires the two together.
//!
//! | module | owns | kind |
//! |---|---|---|
//! | [`cli`] | the command line | wiring |
//! | `top` | `gyre top`, the figures of a tracker in a terminal (with the feature `top`) | wiring |
//! | [`admin`] | what operators see and change of a tracker while it runs, by HTTP | wiring |
//! | [`launcher`] | the start of a process that takes over, by one that is not confined | wiring |
//! | [`doctor`], [`report`] | what is amiss with the machine; the line of statistics | wiring |
//! | [`server`] | sockets, threads, start and end; how a tracker is put together | wiring |
//! | [`worker`] | a worker's turn, its HTTP connections, the tasks of requests that wait | wiring |
//! | [`web`] | routes of a program's own, and the HTTP connection that their handlers have in hand | wiring |
//! | [`ring`] | the UDP ring | kernel |
//! | [`mesh`] | the queues between workers | wiring |
//! | [`engine`] | what a request means, its context, middleware, gathering of answers | pure |
//! | [`snapshot`] | the table in a file | pure |
//! | [`swarm`] | the table of swarms and peers, the sweep | pure |
//! | [`sys`] | cores, socket options, doorbells, files below a directory, what a process gives up | kernel |
//! | [`error`] | what can go wrong, at the start and with a request | pure |
//! | [`config`] | what an operator decides | pure |
//! | [`access`], [`throttle`] | who may use the tracker, for which torrents, and how much of it | pure |
//! | [`wire`] | UDP, HTTP, queries, bencode, what proxies say | pure |
//! | [`connection_id`], [`counters`], [`owner`] | BEP 15's ids; what is counted; who owns a swarm | pure |
//! | [`text`] | how sizes, and words of others, are written for a human | pure |
//! | [`limits`], [`time`], [`data`], [`types`] | every bound; the clock; values by type; the words | pure |
//! | `canary` | bugs that are planted for a test of the tests (with the feature `canary`) | pure |
//!
//! # Example
//!
//! ```
//! use gyre::config::{Config, Cores, Listen};
//! use gyre::Tracker;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), gyre::error::ServerError> {
//! let config = Config {
//!     udp: Listen::At(vec!["127.0.0.1:0".parse().unwrap()]),
//!     http: Listen::At(vec!["127.0.0.1:0".parse().unwrap()]),
//!     cores: Cores::Floating(2),
//!     ..Config::default()
//! };
//! let mut tracker = Tracker::builder().config(config).listen()?;
//! println!("udp://{}", tracker.udp_addresses()[0]);
//! println!("http://{}/announce", tracker.http_addresses()[0]);
//! tracker.stop();
//! assert!(tracker.wait(Duration::from_secs(2))?);
//! # Ok(())
//! # }
//! ```
#![doc = include_str!("../docs/library.md")]

pub mod admin;
pub mod cli;
pub mod doctor;
pub mod error;
pub mod launcher;
pub mod limits;
pub mod report;
pub mod ring;
pub mod server;
pub mod sys;
#[cfg(feature = "top")]
pub mod top;
pub mod worker;

// What the core and the web hold. Users name it by these paths: the two crates promise no stability of their own.
#[doc(inline)]
pub use gyre_core::{
    access, config, connection_id, counters, data, engine, mesh, owner, snapshot, swarm, text, throttle,
    time, types, wire,
};
#[doc(inline)]
pub use gyre_web as web;

pub use server::Tracker;
