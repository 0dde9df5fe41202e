//! Owns the tests of a tracker in this process: what it answers by UDP and HTTP, what it keeps, what operators see.

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
