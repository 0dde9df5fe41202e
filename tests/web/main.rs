//! Owns the tests of the web: routes and their handlers, tested with real clients.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod files;
mod hostile;
mod intrusion;
mod request;
mod response;
mod stream;
