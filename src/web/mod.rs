//! Owns what is served by HTTP beside the tracker: pages, files, APIs that a program adds by routes.

pub mod cache;
mod compress;
pub mod links;
pub mod log;
mod negotiate;
pub mod query;
mod router;
pub mod templates;
pub mod transport;

pub use router::{Params, RouteError};
