//! Owns what is served by HTTP beside the tracker: pages, files, APIs that a program adds by routes.

mod conditional;
pub mod cookies;
pub mod files;
mod range;
pub mod session;
pub mod transport;

pub use cookie;
