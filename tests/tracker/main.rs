//! Owns the tests of a tracker in this process: its answers by UDP and HTTP, its state, its admin listener.

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod admin;
mod admin_page;
mod answers;
mod contexts;
mod http;
mod lists;
mod middleware;
mod proxies;
mod server;
mod source_limits;
mod state;
mod udp;
