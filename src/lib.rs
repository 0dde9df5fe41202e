//! gyre is a BitTorrent tracker for Linux on bare metal. One process serves UDP (BEP 15) and HTTP (BEP 3) with one
//! worker per core, on io_uring. The program `gyre` is a thin layer over this library.
//!
//! # How a request travels
//!
//! ```text
//!              kernel                             worker (one per core)
//!  datagram ──► steering ──► UDP socket ──► ring ──► wire::udp ──┐                       ┌──► wire ──► ring ──► out
//!               (BPF, by info-hash)                              ├──► engine ──► swarm ──┤
//!  HTTP ──────► TCP listener ───────────► ring ──► wire::http ───┘      │                └──► wire ──► ring ──► out
//!                                                                       ▼
//!                                                                     mesh ◄──► the other workers
//! ```
//!
//! Each swarm is owned by one worker, chosen by a keyed function of its info-hash ([`owner`]). The kernel runs the same
//! function as a BPF program, so a UDP announce arrives at its owner's socket and is answered there without a
//! hand-over. Requests that arrive at another worker (HTTP, scrapes of several owners, other steering) go through the
//! [`mesh`]: a bounded lock-free queue for each ordered pair of workers. UDP replies leave from the owner's socket,
//! since the sockets of all workers share the port. HTTP responses and gathered scrapes return to the worker that
//! received the request.
//!
//! This path takes no lock and writes no shared cache line. Counters are plain numbers that each worker publishes four
//! times a second.
//!
//! # A worker's turn
//!
//! Read the clock once; take completions of the ring; take messages of the mesh; sweep a slice of the table and
//! check some connection deadlines; submit; ring the doorbells of sleeping workers that have new messages; let the HTTP
//! tasks run, or sleep. Each step is bounded by a constant in [`limits`].
//!
//! A worker has one ring, in which it also sleeps: it has the UDP sockets, the TCP connections and the doorbell. The
//! runtime of tokio-uring runs the tasks of the program that serves: handlers, middleware that waits, and files. A
//! worker without such tasks never enters it ([`worker`]).
//!
//! # The modules
//!
//! The library consists of three crates: gyre-core, gyre-web on top of it, and gyre-tracker (the library `gyre`), which
//! re-exports the modules of the other two. Imports go only downwards, which a test checks. A module is of one of these
//! kinds:
//!
//! - *pure*: no clock, no source of randomness, no system call;
//! - *kernel*: wraps system calls, and may contain `unsafe` code;
//! - *wiring*: connects the two.
//!
//! | module | crate | owns | kind |
//! |---|---|---|---|
//! | [`cli`] | gyre-tracker | the command line | wiring |
//! | `top` | gyre-tracker | `gyre top`, the figures of a tracker in a terminal (feature `top`) | wiring |
//! | [`admin`] | gyre-tracker | the HTTP interface for operators of a running tracker | wiring |
//! | [`doctor`], [`report`] | gyre-tracker | checks of the machine's configuration; the statistics line | wiring |
//! | [`launcher`] | gyre-tracker | start of a successor process by a process that is not sandboxed | wiring |
//! | [`server`] | gyre-tracker | assembly of a tracker: sockets, threads, start and end | wiring |
//! | [`worker`] | gyre-tracker | a worker's thread: its rings, HTTP connections, tasks of waiting requests | wiring |
//! | [`ring`] | gyre-tracker | the ring of a worker | kernel |
//! | [`sys`] | gyre-tracker | cores, socket options, doorbells, the sandbox, privileges | kernel |
//! | [`web`] | gyre-web | routes that a program adds, and the HTTP connection that their handlers use | wiring |
//! | [`mesh`] | gyre-core | the queues between workers | wiring |
//! | [`engine`] | gyre-core | a worker's turn; requests, their context, middleware, gathering of answers | pure |
//! | [`snapshot`] | gyre-core | the file format of the swarm table | pure |
//! | [`swarm`] | gyre-core | the table of swarms and peers, the sweep | pure |
//! | [`error`] | gyre-core, gyre-tracker | errors of requests; errors of the server | pure |
//! | [`config`] | gyre-core | the configuration | pure |
//! | [`access`], [`throttle`] | gyre-core | allow and deny lists; request rates | pure |
//! | [`wire`] | gyre-core | UDP, HTTP, queries, bencode, headers of proxies | pure |
//! | [`connection_id`], [`owner`] | gyre-core | connection ids of BEP 15; the owner of a swarm | pure |
//! | [`counters`] | gyre-core | the counters | pure |
//! | [`limits`] | all three | every bound | pure |
//! | [`time`] | gyre-core | the clock, the only place that reads it | wiring |
//! | [`text`] | gyre-core | sizes and foreign text in readable form | pure |
//! | [`types`], [`data`] | gyre-core | the basic types; values by type | pure |
//! | `canary` | gyre-core | planted bugs that the tests must find (feature `canary`) | pure |
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

// The modules of gyre-core and gyre-web. Users reach them by these paths; the two crates promise no stability.
#[doc(inline)]
pub use gyre_core::{
    access, config, connection_id, counters, data, engine, mesh, owner, snapshot, swarm, text, throttle,
    time, types, wire,
};
#[doc(inline)]
pub use gyre_web as web;

pub use server::Tracker;
