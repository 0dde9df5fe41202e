//! Owns what is served by HTTP beside the tracker: pages, files, APIs that a program adds by routes.
//!
//! ```text
//! worker ──► Site::serve ──► head ──► Router ──► Handler(&mut HttpConnection) ──► Transport ──► worker's ring
//!                               └──► error's route ◄──┘ Err(TrackerError)
//! ```
//!
//! A [`Handler`] is an async function of the [`HttpConnection`]. It knows no ring and no socket: bytes come and go by a
//! [`transport`], which a worker gives and looks after.

mod beneath;
pub mod body;
pub mod cache;
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
pub mod session;
mod site;
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
    pub use gyre_core::{data, engine, error, time, types};
}

/// Returns bytes that nobody can guess.
fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod test_transport;
