//! Owns what a program serves by HTTP next to the tracker: pages, files and APIs, which it adds as routes.
//!
//! ```text
//! worker ──► Site::serve ──► head ──► Router ──► Handler(&mut HttpConnection) ──► Transport ──► worker's ring
//!                               └──► error route ◄────┘ Err(TrackerError)
//! ```
//!
//! A [`Handler`] is an async function of the [`HttpConnection`]. It knows no ring and no socket: it reads and writes
//! through a [`transport`], which the worker provides.

mod beneath;
pub mod body;
pub mod cache;
#[cfg(feature = "compression")]
mod compress;
mod conditional;
mod connection;
mod cookies;
mod files;
mod head;
pub mod limits;
pub mod links;
pub mod log;
mod negotiate;
mod payload;
pub mod query;
mod range;
mod router;
#[cfg(feature = "sessions")]
pub mod session;
mod site;
#[cfg(feature = "templates")]
pub mod templates;
pub mod transport;

pub use connection::{Event, EventStream, HttpConnection, Logger, ResponseHead, ResponseStream};
pub use cookie;
pub use cookies::Cookies;
pub use files::Directory;
pub use head::RequestHead;
pub use payload::{Json, Payload};
pub use router::{Params, RouteError};
pub use site::{Handler, Served, Site, SiteRequest};

/// The paths of the library `gyre`, for the examples in the documentation of this crate.
#[doc(hidden)]
pub mod testing {
    pub use crate as web;
    pub use gyre_core::{counters, data, engine, error, time, types};
}

/// Returns random bytes that can't be guessed.
fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod test_transport;
