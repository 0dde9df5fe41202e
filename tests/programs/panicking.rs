//! Owns the program whose worker panics at its first request. Built for tests it unwinds, and the server has to notice.
//! Built with the profiles `release` and `dist` (scripts/panic-test.sh) it aborts.

use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use gyre::Tracker;
use gyre::config::{Config, Cores};
use gyre::engine::context::RequestContext;

fn serve() -> Result<(), Box<dyn Error>> {
    let fault = |_: &mut RequestContext<'_>| panic!("a fault of the program's");
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config { cores: Cores::Floating(1), ..Config::default() };
    let mut tracker =
        Tracker::builder().config(config).udp(anywhere).http(anywhere).middleware(fault).listen()?;
    let mut client = TcpStream::connect(tracker.http_addresses()[0])?;
    write!(client, "GET /scrape?info_hash=aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: t\r\n\r\n")?;
    let has_ended = tracker.wait(Duration::from_secs(20))?;
    Err(format!("the worker has not panicked; the server has ended: {has_ended}").into())
}

fn main() -> ExitCode {
    if let Err(error) = serve() {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}
