//! Owns what is served by HTTP beside the tracker: pages, files, APIs that a program adds by routes.

mod conditional;
mod range;
pub mod transport;

