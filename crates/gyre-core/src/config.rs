//! Owns the operator's settings, their ranges, and the checks that they are consistent.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::access::{ListName, ListOf};
use crate::limits::{
    ACCESS_LISTS_MAX, ANNOUNCE_INTERVAL_RANGE_S, BAN_RANGE_S, BUSY_POLL_RANGE_US,
    CONNECTION_ID_WINDOW_RANGE_S, DEFAULT_ANNOUNCE_INTERVAL_S, DEFAULT_CONNECTION_ID_WINDOW_S,
    DEFAULT_DENY_REASON, DEFAULT_GATHER_US, DEFAULT_HTTP_CONNECTIONS, DEFAULT_MIN_INTERVAL_S, DEFAULT_PEERS,
    DEFAULT_RECEIVE_BUFFER_BYTES, DEFAULT_SNAPSHOT_INTERVAL_S, DEFAULT_STATS_INTERVAL_S, EXEMPT_NETWORKS_MAX,
    GATHER_RANGE_US, HTTP_CONNECTIONS_RANGE, INTERVAL_SPREAD_DIVISOR, MAX_FAILURE_BYTES, MAX_LISTENERS,
    MAX_MEMORY_RANGE_BYTES, MAX_PEERS_RANGE, MAX_WORKERS, MIN_INTERVAL_RANGE_S, NETWORK_SHARE_RANGE,
    PEER_TIMEOUT_RANGE_S, RECEIVE_BUFFER_RANGE_BYTES, SNAPSHOT_INTERVAL_RANGE_S, STATS_INTERVAL_RANGE_S,
    WEB_TRUSTED_NETWORKS_MAX,
};
use crate::throttle::SourceLimits;
use crate::types::parse_network;

/// The usual port of a tracker.
pub const DEFAULT_PORT: u16 = 6969;

/// All settings of a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to serve UDP on.
    pub udp: Listen,
    /// Addresses to serve HTTP on.
    pub http: Listen,
    /// Number of workers, and the cores that they run on.
    pub cores: Cores,
    /// How the kernel chooses the worker that gets a datagram.
    pub steering: Steering,
    /// Seconds that clients are asked to wait between announces.
    pub announce_interval_secs: u32,
    /// Minimum number of seconds that clients must wait between announces (sent over HTTP only).
    pub min_interval_secs: u32,
    /// Seconds after its last announce at which a peer expires.
    pub peer_timeout_secs: u32,
    /// Maximum number of peers in a response.
    pub max_peers: u16,
    /// Memory limit of the process in bytes, without HTTP connections (2.5 KiB each). The workers' tables divide evenly
    /// what the buffers leave. `None`: half of the memory that the machine, or the process's cgroup, has.
    pub max_memory_bytes: Option<u64>,
    /// Seconds of a connection id window. An id is valid for one to two windows.
    pub connection_id_window_secs: u32,
    /// How long a worker polls for work before it sleeps.
    pub busy_poll: Duration,
    /// How long a worker that is not busy lets UDP datagrams come together before a turn. Zero: it serves each at once.
    pub gather: Duration,
    /// Maximum number of open HTTP connections of all workers together, divided evenly among them. `None`:
    /// [`DEFAULT_HTTP_CONNECTIONS`], or fewer if the limit of open files is too low.
    pub http_connections: Option<usize>,
    /// Networks of the proxies that are trusted to name the client. Empty: each connection's peer is the client.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Files with the clients, networks and torrents that are allowed or denied.
    pub lists: Lists,
    /// Rate limits for each source address.
    pub source_limits: SourceLimits,
    /// Directory that keeps the swarms and the secret of the connection ids over a restart. `None`: neither is kept.
    pub state_dir: Option<PathBuf>,
    /// Seconds between two snapshots of the swarms. 0: only one, at the end.
    pub snapshot_interval_secs: u32,
    /// Size of each UDP socket's receive buffer in bytes.
    pub receive_buffer_bytes: usize,
    /// Seconds between two lines of statistics. 0: no statistics.
    pub stats_interval_secs: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            udp: Listen::Default,
            http: Listen::Default,
            cores: Cores::Auto,
            steering: Steering::InfoHash,
            announce_interval_secs: DEFAULT_ANNOUNCE_INTERVAL_S,
            min_interval_secs: DEFAULT_MIN_INTERVAL_S,
            peer_timeout_secs: Self::peer_timeout_for(DEFAULT_ANNOUNCE_INTERVAL_S),
            max_peers: DEFAULT_PEERS as u16,
            max_memory_bytes: None,
            connection_id_window_secs: DEFAULT_CONNECTION_ID_WINDOW_S,
            busy_poll: Duration::ZERO,
            gather: Duration::from_micros(u64::from(DEFAULT_GATHER_US)),
            http_connections: None,
            trusted_proxies: Vec::new(),
            lists: Lists::default(),
            source_limits: SourceLimits::default(),
            state_dir: None,
            snapshot_interval_secs: DEFAULT_SNAPSHOT_INTERVAL_S,
            receive_buffer_bytes: DEFAULT_RECEIVE_BUFFER_BYTES,
            stats_interval_secs: DEFAULT_STATS_INTERVAL_S,
        }
    }
}

impl Config {
    /// Returns the default of `--peer-timeout` for an announce interval: twice the longest interval that a client is
    /// given, so that a peer stays in its swarm when one announce is lost.
    pub fn peer_timeout_for(announce_interval_secs: u32) -> u32 {
        2 * longest_interval(announce_interval_secs)
    }

    /// Returns each number with the name of its option and its valid range.
    fn numbers(&self) -> [(&'static str, u64, RangeInclusive<u64>); 14] {
        let connections = self.http_connections.unwrap_or(DEFAULT_HTTP_CONNECTIONS);
        [
            ("announce-interval", self.announce_interval_secs.into(), ANNOUNCE_INTERVAL_RANGE_S),
            ("min-interval", self.min_interval_secs.into(), MIN_INTERVAL_RANGE_S),
            ("peer-timeout", self.peer_timeout_secs.into(), PEER_TIMEOUT_RANGE_S),
            ("max-peers", self.max_peers.into(), MAX_PEERS_RANGE),
            (
                "max-memory",
                self.max_memory_bytes.unwrap_or(*MAX_MEMORY_RANGE_BYTES.end()),
                MAX_MEMORY_RANGE_BYTES,
            ),
            ("connection-id-window", self.connection_id_window_secs.into(), CONNECTION_ID_WINDOW_RANGE_S),
            ("busy-poll", self.busy_poll.as_micros() as u64, BUSY_POLL_RANGE_US),
            ("gather", self.gather.as_micros() as u64, GATHER_RANGE_US),
            ("http-connections", connections as u64, HTTP_CONNECTIONS_RANGE),
            ("limit-networks", self.source_limits.network_share.into(), NETWORK_SHARE_RANGE),
            ("ban-time", self.source_limits.ban_secs.into(), BAN_RANGE_S),
            ("receive-buffer", self.receive_buffer_bytes as u64, RECEIVE_BUFFER_RANGE_BYTES),
            ("snapshot-interval", self.snapshot_interval_secs.into(), SNAPSHOT_INTERVAL_RANGE_S),
            ("stats-interval", self.stats_interval_secs.into(), STATS_INTERVAL_RANGE_S),
        ]
    }

    /// Returns the configuration of a running tracker after a reload with `new`: settings that can change at run time
    /// are taken from `new`, the others stay. Also returns the names of the changed options that need a restart.
    pub fn reloaded(&self, new: &Self) -> (Self, Vec<&'static str>) {
        let changed = [
            ("udp", new.udp != self.udp),
            ("http", new.http != self.http),
            ("cores", new.cores != self.cores),
            ("steering", new.steering != self.steering),
            ("peer-timeout", new.peer_timeout_secs != self.peer_timeout_secs),
            ("max-memory", new.max_memory_bytes != self.max_memory_bytes),
            ("connection-id-window", new.connection_id_window_secs != self.connection_id_window_secs),
            ("state-dir", new.state_dir != self.state_dir),
            ("busy-poll", new.busy_poll != self.busy_poll),
            ("gather", new.gather != self.gather),
            ("receive-buffer", new.receive_buffer_bytes != self.receive_buffer_bytes),
        ];
        let reloaded = Self {
            udp: self.udp.clone(),
            http: self.http.clone(),
            cores: self.cores.clone(),
            steering: self.steering,
            peer_timeout_secs: self.peer_timeout_secs,
            max_memory_bytes: self.max_memory_bytes,
            connection_id_window_secs: self.connection_id_window_secs,
            busy_poll: self.busy_poll,
            gather: self.gather,
            state_dir: self.state_dir.clone(),
            receive_buffer_bytes: self.receive_buffer_bytes,
            ..new.clone()
        };
        let names = changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name);
        (reloaded, names.collect())
    }

    /// Checks that each setting is valid, and that they are consistent.
    ///
    /// # Errors
    ///
    /// The first invalid setting, or the first two that contradict each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (option, value, range) in self.numbers() {
            if !range.contains(&value) {
                return Err(ConfigError::Range { option, value, least: *range.start(), most: *range.end() });
            }
        }
        if self.cores == Cores::List(Vec::new()) || self.cores == Cores::Floating(0) {
            return Err(ConfigError::NoCores);
        }
        if self.udp.addresses().is_empty() && self.http.addresses().is_empty() {
            return Err(ConfigError::NothingToServe);
        }
        for (protocol, listen) in [("udp", &self.udp), ("http", &self.http)] {
            let addresses = listen.addresses();
            if addresses.len() > MAX_LISTENERS {
                return Err(ConfigError::TooManyAddresses { protocol, given: addresses.len() });
            }
            let twice = |at: usize| addresses[at].port() != 0 && addresses[..at].contains(&addresses[at]);
            if let Some(at) = (0..addresses.len()).find(|&at| twice(at)) {
                return Err(ConfigError::AddressTwice { protocol, address: addresses[at] });
            }
        }
        if let Some(option) = self.lists.overlong() {
            return Err(ConfigError::TooManyLists(option));
        }
        if self.lists.torrent_reason.len() > MAX_FAILURE_BYTES {
            return Err(ConfigError::Reason(self.lists.torrent_reason.len()));
        }
        if self.trusted_proxies.len() > WEB_TRUSTED_NETWORKS_MAX {
            return Err(ConfigError::TooManyProxies(self.trusted_proxies.len()));
        }
        if self.source_limits.exempt.len() > EXEMPT_NETWORKS_MAX {
            return Err(ConfigError::TooManyExempt(self.source_limits.exempt.len()));
        }
        let served = self.http.addresses();
        let elsewhere =
            self.trusted_proxies.iter().filter_map(|proxy| proxy.at).find(|at| !served.contains(at));
        if let Some(address) = elsewhere {
            return Err(ConfigError::ProxyElsewhere(address));
        }
        let interval = self.announce_interval_secs;
        if self.min_interval_secs > interval {
            return Err(ConfigError::MinInterval { min: self.min_interval_secs, interval });
        }
        let longest = longest_interval(interval);
        if self.peer_timeout_secs <= longest {
            return Err(ConfigError::PeerTimeout { timeout: self.peer_timeout_secs, longest });
        }
        Ok(())
    }
}

/// Returns the interval with the largest random addition.
fn longest_interval(announce_interval_secs: u32) -> u32 {
    announce_interval_secs + announce_interval_secs / INTERVAL_SPREAD_DIVISOR
}

/// Why a [`Config`] is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number is out of its range.
    #[error("--{option} {value} is out of range: {least} to {most}")]
    Range {
        /// The option's name.
        option: &'static str,
        /// The number.
        value: u64,
        /// The smallest valid number.
        least: u64,
        /// The largest valid number.
        most: u64,
    },
    /// An empty list of cores, or no workers.
    #[error("--cores is empty: name at least one core")]
    NoCores,
    /// Neither UDP nor HTTP is served.
    #[error("nothing to serve: there is no address for UDP and none for HTTP; remove --no-udp or --no-http")]
    NothingToServe,
    /// More addresses than a worker's ring can number.
    #[error("--{protocol} has {given} addresses; at most {MAX_LISTENERS} are allowed")]
    TooManyAddresses {
        /// `udp` or `http`.
        protocol: &'static str,
        /// The number of addresses.
        given: usize,
    },
    /// An address is listed twice.
    #[error("--{protocol} {address} is given twice")]
    AddressTwice {
        /// `udp` or `http`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Too many networks to compare the address of each connection with.
    #[error("--trusted-proxy has {0} networks; at most {WEB_TRUSTED_NETWORKS_MAX} are allowed")]
    TooManyProxies(usize),
    /// Too many networks to compare each request over a limit with.
    #[error("--limit-exempt has {0} networks; at most {EXEMPT_NETWORKS_MAX} are allowed")]
    TooManyExempt(usize),
    /// A proxy is trusted at an address that HTTP is not served on.
    #[error("--trusted-proxy {0}=...: {0} is not an address of --http")]
    ProxyElsewhere(SocketAddr),
    /// Too many lists to look up each announce in.
    #[error("--{0} has too many files; at most {ACCESS_LISTS_MAX} are allowed")]
    TooManyLists(&'static str),
    /// A text that does not fit into a response.
    #[error("--deny-reason has {0} bytes; at most {MAX_FAILURE_BYTES} are allowed")]
    Reason(usize),
    /// Clients would be asked to announce earlier than they are allowed to.
    #[error("--min-interval {min} is longer than --announce-interval {interval}")]
    MinInterval {
        /// The minimum interval in seconds.
        min: u32,
        /// The announce interval in seconds.
        interval: u32,
    },
    /// Peers would expire before they are asked to announce again.
    #[error(
        "--peer-timeout {timeout} is too short: it must be more than {longest} s, the longest interval \
         that clients are given (--announce-interval plus a sixteenth)"
    )]
    PeerTimeout {
        /// The timeout in seconds.
        timeout: u32,
        /// The longest interval in seconds, with the random addition.
        longest: u32,
    },
}

impl ConfigError {
    /// Returns the name of the option to change.
    pub fn option(&self) -> &'static str {
        match self {
            Self::Range { option, .. } => option,
            Self::NoCores => "cores",
            Self::NothingToServe => "no-udp",
            Self::TooManyAddresses { protocol, .. } | Self::AddressTwice { protocol, .. } => protocol,
            Self::TooManyProxies(_) | Self::ProxyElsewhere(_) => "trusted-proxy",
            Self::TooManyExempt(_) => "limit-exempt",
            Self::TooManyLists(option) => option,
            Self::Reason(_) => "deny-reason",
            Self::MinInterval { .. } => "min-interval",
            Self::PeerTimeout { .. } => "peer-timeout",
        }
    }
}

/// A network of proxies that are trusted to name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedProxy {
    /// The HTTP listening address that this applies to. `None`: all of them.
    pub at: Option<SocketAddr>,
    /// The network.
    pub network: IpNet,
}

impl From<IpNet> for TrustedProxy {
    fn from(network: IpNet) -> Self {
        Self { at: None, network }
    }
}

impl FromStr for TrustedProxy {
    type Err = &'static str;

    /// Reads a network or a single address, optionally after the listening address that it applies to: `10.0.0.0/8`,
    /// `[::1]:6969=fe80::/10`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (at, network) = match text.split_once('=') {
            Some((at, network)) => {
                (Some(at.parse().map_err(|_| "the part before `=` is not an ADDR:PORT")?), network)
            }
            None => (None, text),
        };
        let network = parse_network(network).ok_or("not a network like `10.0.0.0/8` and not an address")?;
        Ok(Self { at, network })
    }
}

/// The files that list which clients, networks and torrents are allowed; see [`access`](crate::access).
///
/// For each kind: an entry in a deny file is always denied. If there is any allow file, everything that is in none of
/// them is denied too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    /// Info-hashes of the torrents that are allowed.
    pub allow_hashes: Vec<PathBuf>,
    /// Info-hashes of the torrents that are denied.
    pub deny_hashes: Vec<PathBuf>,
    /// Peer id prefixes of the clients that are allowed.
    pub allow_clients: Vec<PathBuf>,
    /// Peer id prefixes of the clients that are denied.
    pub deny_clients: Vec<PathBuf>,
    /// Networks that are allowed.
    pub allow_sources: Vec<PathBuf>,
    /// Networks that are denied.
    pub deny_sources: Vec<PathBuf>,
    /// Text that is sent to clients that ask for a denied torrent. Empty: UDP requests get no response.
    pub torrent_reason: String,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            allow_hashes: Vec::new(),
            deny_hashes: Vec::new(),
            allow_clients: Vec::new(),
            deny_clients: Vec::new(),
            allow_sources: Vec::new(),
            deny_sources: Vec::new(),
            torrent_reason: DEFAULT_DENY_REASON.to_owned(),
        }
    }
}

impl Lists {
    /// Returns the files of the list with this name.
    pub fn files(&self, name: ListName) -> &[PathBuf] {
        match (name.of, name.allows) {
            (ListOf::Hashes, true) => &self.allow_hashes,
            (ListOf::Hashes, false) => &self.deny_hashes,
            (ListOf::Clients, true) => &self.allow_clients,
            (ListOf::Clients, false) => &self.deny_clients,
            (ListOf::Sources, true) => &self.allow_sources,
            (ListOf::Sources, false) => &self.deny_sources,
        }
    }

    /// Returns all files.
    pub fn all_files(&self) -> impl Iterator<Item = &PathBuf> {
        ListName::ALL.into_iter().flat_map(|name| self.files(name))
    }

    /// Returns the first option that names too many files.
    fn overlong(&self) -> Option<&'static str> {
        let overlong = |name: &ListName| self.files(*name).len() > ACCESS_LISTS_MAX;
        ListName::ALL.into_iter().find(overlong).map(ListName::as_str)
    }
}

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// All addresses of the machine at [`DEFAULT_PORT`]. IPv6 is left out if the machine has none.
    Default,
    /// These addresses; each of them must be available. Empty: the protocol is not served.
    At(Vec<SocketAddr>),
}

impl Listen {
    /// Returns the addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Default => vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT)),
            ],
            Self::At(addresses) => addresses.clone(),
        }
    }
}

/// Where the workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// One pinned worker on each core that the process may use.
    Auto,
    /// One pinned worker on each of these cores.
    List(Vec<usize>),
    /// This number of workers, not pinned. For tests on machines with few cores.
    Floating(usize),
}

impl FromStr for Cores {
    type Err = CoresError;

    /// Reads `auto`, or a list in the format of `taskset(1)`: `0-3,6`.
    fn from_str(text: &str) -> Result<Self, CoresError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let mut cores = Vec::new();
        for part in text.split(',') {
            let number =
                |digits: &str| digits.trim().parse::<usize>().map_err(|_| CoresError::Form(part.into()));
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(CoresError::Form(part.into()));
            }
            if last - first >= MAX_WORKERS || cores.len() + (last - first) >= MAX_WORKERS {
                return Err(CoresError::TooMany);
            }
            for core in first..=last {
                if cores.contains(&core) {
                    return Err(CoresError::Twice(core));
                }
                cores.push(core);
            }
        }
        Ok(Self::List(cores))
    }
}

/// Why a list of cores is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    /// Neither a number nor a range.
    #[error("`{0}` is not a core and not a range of cores; use `auto`, or a list like `0-3,6`")]
    Form(String),
    /// A core is listed twice.
    #[error("core {0} is listed twice; each core has one worker")]
    Twice(usize),
    /// More cores than a process can have workers.
    #[error("more than {MAX_WORKERS} cores are listed; at most {MAX_WORKERS} are allowed")]
    TooMany,
}

/// How the kernel chooses the worker that gets a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Announces and scrapes go to the owner of their (first) info-hash, everything else to the core that received it.
    InfoHash,
    /// Everything, TCP connections included, goes to the worker on the core that received it.
    Cpu,
    /// By a hash of the addresses, which is the kernel's default.
    None,
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfoHash => "info-hash",
            Self::Cpu => "cpu",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        let cores = |text: &str| text.parse::<Cores>();
        assert_eq!(cores("auto"), Ok(Cores::Auto));
        assert_eq!(cores("0-3,6"), Ok(Cores::List(vec![0, 1, 2, 3, 6])));
        assert_eq!(cores("7"), Ok(Cores::List(vec![7])));
        assert_eq!(cores("3, 1"), Ok(Cores::List(vec![3, 1])));
        assert_eq!(cores("0-255").map(|_| ()), Ok(()));
        for wrong in ["", "a", "1-", "-1", "3-1", "1,,2", "0x1", "1-2-3", "18446744073709551616"] {
            assert!(matches!(cores(wrong), Err(CoresError::Form(_))), "{wrong:?}");
        }
        assert_eq!(cores("1,0-1"), Err(CoresError::Twice(1)));
        assert_eq!(cores("0-256"), Err(CoresError::TooMany));
        assert_eq!(cores("0-18446744073709551615"), Err(CoresError::TooMany));
    }

    #[test]
    fn inconsistent_settings_are_named() {
        let check = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check()
        };
        assert_eq!(check(|_| {}), Ok(()));
        let none = || Listen::At(Vec::new());
        assert_eq!(check(|config| config.udp = Listen::At(Vec::new())), Ok(()));
        let mut config = Config { udp: none(), http: none(), ..Config::default() };
        assert_eq!(config.check(), Err(ConfigError::NothingToServe));
        let same = SocketAddr::from(([127, 0, 0, 1], 6969));
        config.udp = Listen::At(vec![same, same]);
        assert_eq!(config.check(), Err(ConfigError::AddressTwice { protocol: "udp", address: same }));
        config.udp = Listen::At((0..65).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect());
        assert!(matches!(config.check(), Err(ConfigError::TooManyAddresses { given: 65, .. })));
        assert!(matches!(
            check(|config| config.min_interval_secs = 1_801),
            Err(ConfigError::MinInterval { .. })
        ));
        assert_eq!(check(|config| config.gather = Duration::from_micros(2_000)), Ok(()));
        assert_eq!(
            check(|config| config.gather = Duration::from_micros(2_001)),
            Err(ConfigError::Range { option: "gather", value: 2_001, least: 0, most: 2_000 })
        );
        let network = TrustedProxy::from(IpNet::from(std::net::IpAddr::from([10, 0, 0, 1])));
        let mut config = Config { trusted_proxies: vec![network; 256], ..Config::default() };
        assert_eq!(config.check(), Ok(()));
        let at = SocketAddr::from(([127, 0, 0, 1], 80));
        config.trusted_proxies[0].at = Some(at);
        assert_eq!(config.check(), Err(ConfigError::ProxyElsewhere(at)));
        config.http = Listen::At(vec![at]);
        assert_eq!(config.check(), Ok(()));
        config.trusted_proxies.push(network);
        assert_eq!(config.check(), Err(ConfigError::TooManyProxies(257)));
        let longest = 1_800 + 112;
        assert_eq!(
            check(|config| config.peer_timeout_secs = 1_912),
            Err(ConfigError::PeerTimeout { timeout: 1_912, longest })
        );
        assert_eq!(check(|config| config.peer_timeout_secs = 1_913), Ok(()));
    }
}
