//! A tracker with a middleware that logs each request: `cargo run --release --example minimal`.
//!
//! A signal ends the program at once, since it does not handle signals. To shut down cleanly and answer open requests,
//! handle the signal and call `Tracker::stop`, as `src/main.rs` does.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use gyre::Tracker;
use gyre::engine::context::RequestContext;
use gyre::engine::middleware::{Flow, Then};
use gyre::error::ServerError;

/// A tracker that logs each request.
#[derive(Parser)]
struct Options {
    /// Where to serve UDP and HTTP
    #[arg(value_name = "ADDR:PORT", default_value = "127.0.0.1:6969")]
    address: SocketAddr,
}

/// Logs a request and lets it pass.
fn log(request: &mut RequestContext<'_>) -> Flow {
    let (action, ip) = (request.action(), request.connection().ip());
    let protocol = if request.is_source_udp() { "UDP" } else { "HTTP" };
    match request.as_announce() {
        Some(announce) => tracing::info!(
            "{ip} {protocol} announce of {:?} by {:?}: {:?}, {} bytes left",
            announce.info_hash,
            announce.peer_id,
            announce.event(),
            announce.left.map_or_else(|| "unknown".to_owned(), |left| left.to_string()),
        ),
        None => tracing::info!("{ip} {protocol} {action:?}"),
    }
    Ok(Then::Next)
}

fn serve(Options { address }: Options) -> Result<(), ServerError> {
    let mut tracker = Tracker::builder().udp(address).http(address).middleware(log).listen()?;
    tracing::info!("ready: udp://{} http://{}", tracker.udp_addresses()[0], tracker.http_addresses()[0]);
    tracker.wait(Duration::MAX)?;
    Ok(())
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_target(false).with_writer(io::stderr).init();
    match serve(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
