//! A tracker with a middleware that logs each request: `cargo run --release --example minimal -- [ADDR:PORT]`.
//!
//! A signal ends it at once, as it does any program that doesn't watch for it. To end in good order, with what is in
//! flight answered, watch for the signal and call `Tracker::stop`, as `src/main.rs` does.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gyre::Tracker;
use gyre::engine::context::RequestContext;
use gyre::engine::middleware::{Flow, Then};

/// Notes who asked for what, and lets everything pass.
fn log(request: &mut RequestContext<'_>) -> Flow {
    let (action, ip) = (request.action(), request.connection().ip());
    let by = if request.is_source_udp() { "UDP" } else { "HTTP" };
    match request.as_announce() {
        Some(announce) => tracing::info!(
            "{ip} {by} announce {:?} {:?}, {} left, at {}",
            announce.info_hash,
            announce.event(),
            announce.left.map_or_else(|| "?".to_owned(), |left| left.to_string()),
            announce.address(),
        ),
        None => tracing::info!("{ip} {by} {action:?}"),
    }
    Ok(Then::Next)
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_target(false).with_writer(io::stderr).init();
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:6969").parse()?;
    let mut tracker = Tracker::builder().udp(address).http(address).middleware(log).listen()?;
    tracing::info!("ready: udp://{} http://{}", tracker.udp_addresses()[0], tracker.http_addresses()[0]);
    while !tracker.wait(Duration::from_secs(1))? {}
    Ok(())
}
