//! Owns a tracker that runs: workers that started together and end together.

mod builder;
mod control;
mod handle;
mod handover;
mod inherit;
mod lists;
mod passing;
mod privileges;
mod sockets;
mod start;
mod state;
mod tables;
mod takeover;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::Receiver;

use crate::config::Config;
use crate::counters::{Counters, Published};
use crate::engine;
use crate::error::ServerError;
use crate::owner::Owners;
use crate::time::Clock;
use crate::worker::{Order, Trusted};
pub use builder::Builder;
use control::Control;
pub use control::{Status, WrittenSnapshot};
pub use handle::{Busy, Handle, Survey, SwarmState, WorkerState};
use handover::Crew;
pub use inherit::Inherited;
use lists::ListFiles;
pub use lists::{KnownList, ListChange, ListChangeError};
use privileges::explain;
pub use privileges::{Privileges, UserName};
pub(crate) use sockets::{descriptors_needed, probe};
pub use start::Bound;
pub(crate) use start::choose_cores;
use state::StateDirectory;
pub(crate) use tables::{default_memory_bytes, table_bytes};
use takeover::Predecessor;

/// A tracker that runs.
pub struct Tracker {
    udp: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    cores: Vec<Option<usize>>,
    published: Vec<Arc<Published>>,
    crew: Crew,
    /// The workers that are handed over together: these, and those of trackers that go with this one.
    together: Arc<Mutex<Vec<Crew>>>,
    ended: Receiver<Ended>,
    running: usize,
    /// What it runs with.
    config: Config,
    clock: Clock,
    control: Arc<Control>,
    owners: Owners,
    /// What the rest of the program needs.
    spare_descriptors: u64,
    /// Held for as long as it runs.
    state: Option<Arc<StateDirectory>>,
    /// Still serves, until this one is let take over.
    predecessor: Option<Predecessor>,
    /// When the clock was started, as the connection ids reckon.
    started_unix: Duration,
    /// The directories of files that can still be read, if not all can.
    readable: Option<Vec<PathBuf>>,
}

/// What a worker says when it is through: how it ended.
struct Ended {
    worker: usize,
    result: io::Result<()>,
}

impl Tracker {
    /// Begins to put a tracker together.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where UDP is served; a port that was given as 0 is the one that it became.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Where HTTP is served; a port that was given as 0 is the one that it became.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// The core of each worker; `None` for one that isn't pinned.
    pub fn cores(&self) -> &[Option<usize>] {
        &self.cores
    }

    /// What each worker has counted, as of a moment ago.
    pub fn counters(&self) -> Vec<Counters> {
        self.published.iter().map(|published| published.read()).collect()
    }

    /// A way to it for whoever looks at it while it runs.
    pub fn handle(&self) -> Handle {
        let workers = self.cores.iter().copied().zip(self.published.iter().cloned());
        Handle {
            workers: workers.collect(),
            orders: self.crew.orders.clone(),
            owners: self.owners,
            control: self.control.clone(),
            clock: self.clock,
        }
    }

    /// Takes another configuration, as far as it can change while the tracker runs; returns the names of the options
    /// that would need a new start. The workers follow within a second.
    ///
    /// # Errors
    ///
    /// The configuration can't be, or a list can't be read. Then all stays as it was.
    pub fn reload(&mut self, config: &Config) -> Result<Vec<&'static str>, ServerError> {
        config.check()?;
        let (config, fixed) = self.config.reloaded(config);
        config.check()?;
        let workers = self.cores.len();
        let own = self.control.own_lists().map(Path::to_owned);
        let lists = ListFiles::open(&config.lists, own, self.clock);
        let lists = lists.map_err(|error| explain(error, self.readable.as_deref()))?;
        let connections = sockets::reserve_descriptors(&config, workers, self.spare_descriptors)?;
        let policy = tables::policy(&config, 0);
        let trusted_proxies = trusted(&config);
        self.control.set_lists(lists);
        self.control.set_interval(Duration::from_secs(config.snapshot_interval_secs.into()));
        let orders = &self.crew.orders;
        orders.give(|| engine::Order::Policy(policy).into());
        let source_limits = Arc::new(config.source_limits.clone());
        orders.give(|| engine::Order::SourceLimits(source_limits.clone()).into());
        orders.give(|| Order::Connections(connections));
        orders.give(|| Order::TrustedProxies(trusted_proxies.clone()));
        self.config = config;
        Ok(fixed)
    }

    /// Writes a snapshot of the swarms to the state directory, if there is one, while the workers go on.
    ///
    /// # Errors
    ///
    /// It could not be written, or not within this time. The last one is still there.
    pub fn save(&self, at_most: Duration) -> Result<(), ServerError> {
        let what = "a snapshot can't be written";
        self.control.save(at_most).map_err(|source| ServerError::System { what, source })
    }

    /// Asks all workers to end: no new connections, what is in flight is finished. Returns at once; see
    /// [`wait`](Self::wait).
    pub fn stop(&self) {
        self.crew.stop();
    }

    /// Has another tracker of the process go with this one when that is handed over: its sockets are handed over too,
    /// and it ends then.
    pub fn hand_over_with(&self, other: &Self) {
        self.together.lock().unwrap_or_else(PoisonError::into_inner).push(other.crew.clone());
    }

    /// Waits until all workers have ended, for at most so long; `Duration::MAX` is for ever. `Ok(false)`: some still
    /// run.
    ///
    /// # Errors
    ///
    /// If a worker ended by an error. The others go on, but without its part of the swarms and the ports: the process
    /// should end.
    pub fn wait(&mut self, at_most: Duration) -> Result<bool, ServerError> {
        let until = crossbeam::channel::after(at_most);
        while self.running > 0 {
            crossbeam::channel::select! {
                recv(self.ended) -> ended => match ended {
                    Ok(Ended { result: Ok(()), .. }) => self.running -= 1,
                    Ok(Ended { worker, result: Err(source) }) => {
                        return Err(ServerError::Worker { worker, what: "ended", source });
                    }
                    Err(_) => return Ok(true),
                },
                recv(until) -> _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Drop for Tracker {
    /// Asks the workers to end, without waiting for it.
    fn drop(&mut self) {
        self.stop();
    }
}

/// The proxies that are trusted, with the listeners' numbers.
fn trusted(config: &Config) -> Arc<[Trusted]> {
    let served = config.http.addresses();
    let number = |at| served.iter().position(|address| *address == at);
    let proxies = config.trusted_proxies.iter();
    proxies.map(|proxy| Trusted { listener: proxy.at.and_then(number), network: proxy.network }).collect()
}

/// Writes ascending cores as a list with ranges.
pub fn format_cores(cores: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cores;
    while let [first, ..] = *rest {
        let length = rest.iter().zip(first..).take_while(|(core, expected)| *core == expected).count();
        let comma = if text.is_empty() { "" } else { "," };
        text += &match length {
            1 => format!("{comma}{first}"),
            _ => format!("{comma}{first}-{}", rest[length - 1]),
        };
        rest = &rest[length..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_written_as_they_are_read() {
        assert_eq!(format_cores(&[]), "");
        assert_eq!(format_cores(&[0]), "0");
        assert_eq!(format_cores(&[0, 1, 2, 3, 6, 8, 9]), "0-3,6,8-9");
    }
}
