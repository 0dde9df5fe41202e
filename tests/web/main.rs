//! Owns the tests of the web: the HTTP connection that handlers have in hand, by real clients.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod files;
mod hostile;
mod intrusion;
mod request;
mod response;
mod stream;
