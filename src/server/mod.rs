//! Owns a running tracker: workers that start and end together.

mod builder;
mod control;
mod handle;
mod handover;
mod inherit;
mod lists;
mod orders;
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
pub use handle::{Handle, Survey, SwarmState, WorkerState};
use handover::WorkerGroup;
pub use inherit::Inherited;
use lists::ListFiles;
pub use lists::{KnownList, ListChange, ListChangeError};
pub use orders::Busy;
use privileges::explain;
pub use privileges::{Privileges, UserName};
pub(crate) use sockets::{descriptors_needed, probe};
pub use start::Bound;
pub(crate) use start::choose_cores;
use state::StateDirectory;
pub(crate) use tables::{default_memory_bytes, table_bytes};
use takeover::Predecessor;

/// A running tracker.
pub struct Tracker {
    udp: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    cores: Vec<Option<usize>>,
    published: Vec<Arc<Published>>,
    group: WorkerGroup,
    /// All worker groups that are handed over together: this tracker's, and those of other trackers in the process.
    together: Arc<Mutex<Vec<WorkerGroup>>>,
    ended: Receiver<Ended>,
    running: usize,
    /// The current configuration.
    config: Config,
    clock: Clock,
    control: Arc<Control>,
    owners: Owners,
    /// File descriptors that the rest of the program needs.
    spare_descriptors: u64,
    /// Locked while the tracker runs.
    state: Option<Arc<StateDirectory>>,
    /// The tracker to take over from. It serves until `succeed` is called.
    predecessor: Option<Predecessor>,
    /// When the clock was started, on the time scale of the connection ids.
    started_unix: Duration,
    /// The directories whose files can still be read. `None`: all.
    readable: Option<Vec<PathBuf>>,
}

/// The message of a worker that has ended.
struct Ended {
    worker: usize,
    result: io::Result<()>,
}

impl Tracker {
    /// Returns a builder for a tracker.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns the addresses that UDP is served on, with port 0 replaced by the port in use.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Returns the addresses that HTTP is served on, with port 0 replaced by the port in use.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Returns the core of each worker; `None` for a worker that is not pinned.
    pub fn cores(&self) -> &[Option<usize>] {
        &self.cores
    }

    /// Returns the counters of each worker. They can be a quarter of a second old.
    pub fn counters(&self) -> Vec<Counters> {
        self.published.iter().map(|published| published.read()).collect()
    }

    /// Returns a handle to query the running tracker.
    pub fn handle(&self) -> Handle {
        let workers = self.cores.iter().copied().zip(self.published.iter().cloned());
        Handle {
            workers: workers.collect(),
            orders: self.group.orders.clone(),
            owners: self.owners,
            control: self.control.clone(),
            clock: self.clock,
        }
    }

    /// Applies another configuration, as far as it can change at run time. Returns the names of the changed options
    /// that need a restart. The workers apply the rest within a second.
    ///
    /// # Errors
    ///
    /// The configuration is not valid, or a list can't be read. Then nothing is changed.
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
        let orders = &self.group.orders;
        orders.send_all(|| engine::Order::Policy(policy).into());
        let source_limits = Arc::new(config.source_limits.clone());
        orders.send_all(|| engine::Order::SourceLimits(source_limits.clone()).into());
        orders.send_all(|| Order::Connections(connections));
        orders.send_all(|| Order::TrustedProxies(trusted_proxies.clone()));
        self.config = config;
        Ok(fixed)
    }

    /// Writes a snapshot of the swarms to the state directory, if there is one. The workers keep serving.
    ///
    /// # Errors
    ///
    /// The snapshot could not be written, or not within `at_most`. The last snapshot is kept.
    pub fn save(&self, at_most: Duration) -> Result<(), ServerError> {
        let what = "can't write a snapshot";
        self.control.save(at_most).map_err(|source| ServerError::System { what, source })
    }

    /// Tells all workers to stop accepting connections, finish pending requests, and end. Returns at once; see
    /// [`wait`](Self::wait).
    pub fn stop(&self) {
        self.group.stop();
    }

    /// Makes another tracker of the process part of a handover: its sockets are handed over with those of this tracker,
    /// and it ends at the same time.
    pub fn hand_over_with(&self, other: &Self) {
        self.together.lock().unwrap_or_else(PoisonError::into_inner).push(other.group.clone());
    }

    /// Waits until all workers have ended, for at most `at_most`; `Duration::MAX` is forever. Returns `Ok(false)` if
    /// some are still running.
    ///
    /// # Errors
    ///
    /// A worker ended with an error. The other workers go on, but without its swarms and sockets, so the process should
    /// end.
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
    /// Tells the workers to end, without waiting for them.
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the trusted proxies, with the numbers of their listeners.
fn trusted(config: &Config) -> Arc<[Trusted]> {
    let served = config.http.addresses();
    let number = |at| served.iter().position(|address| *address == at);
    let proxies = config.trusted_proxies.iter();
    proxies.map(|proxy| Trusted { listener: proxy.at.and_then(number), network: proxy.network }).collect()
}

/// Formats ascending core numbers as a list with ranges.
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
    fn cores_are_formatted_in_the_syntax_that_is_parsed() {
        assert_eq!(format_cores(&[]), "");
        assert_eq!(format_cores(&[0]), "0");
        assert_eq!(format_cores(&[0, 1, 2, 3, 6, 8, 9]), "0-3,6,8-9");
    }
}
