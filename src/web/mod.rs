//! Owns what is served by HTTP beside the tracker: pages, files, APIs that a program adds by routes.

pub mod body;
#[cfg(test)]
pub(crate) mod test_transport;
pub mod transport;
