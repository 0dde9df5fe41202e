//! Owns what an operator can decide, and which decisions go together.

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
    DEFAULT_DENY_REASON, DEFAULT_HTTP_CONNECTIONS, DEFAULT_MIN_INTERVAL_S, DEFAULT_PEERS,
    DEFAULT_RECEIVE_BUFFER_BYTES, DEFAULT_SNAPSHOT_INTERVAL_S, DEFAULT_STATS_INTERVAL_S, EXEMPT_NETWORKS_MAX,
    HTTP_CONNECTIONS_RANGE, INTERVAL_SPREAD_DIVISOR, MAX_FAILURE_BYTES, MAX_LISTENERS,
    MAX_MEMORY_RANGE_BYTES, MAX_PEERS_RANGE, MAX_WORKERS, MIN_INTERVAL_RANGE_S, NETWORK_SHARE_RANGE,
    PEER_TIMEOUT_RANGE_S, RECEIVE_BUFFER_RANGE_BYTES, SNAPSHOT_INTERVAL_RANGE_S, STATS_INTERVAL_RANGE_S,
    WEB_TRUSTED_NETWORKS_MAX,
};
use crate::throttle::SourceLimits;
use crate::types::parse_network;

/// The port that trackers are known by.
pub const DEFAULT_PORT: u16 = 6969;

/// Everything that an operator decides about a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where UDP is served.
    pub udp: Listen,
    /// Where HTTP is served.
    pub http: Listen,
    /// How many workers there are, and where they run.
    pub cores: Cores,
    /// Which worker's socket gets a datagram.
    pub steering: Steering,
    /// Seconds that clients are asked to let pass between announces.
    pub announce_interval_secs: u32,
    /// Seconds that clients must let pass (HTTP alone can say so).
    pub min_interval_secs: u32,
    /// Seconds after its last announce at which a peer is gone.
    pub peer_timeout_secs: u32,
    /// Peers in a reply, at most.
    pub max_peers: u16,
    /// Bytes that the process may take, HTTP connections aside (2.5 KiB each); what its workers' buffers leave is
    /// shared out evenly among their tables. `None`: half of the memory that the machine, or the process's cgroup, has.
    pub max_memory_bytes: Option<u64>,
    /// Seconds of a window of connection ids: an id is valid for one to two windows.
    pub connection_id_window_secs: u32,
    /// How long a worker looks for work before it sleeps.
    pub busy_poll: Duration,
    /// HTTP connections open at a time, of all workers together and shared out evenly among them. `None`: as many as
    /// [`DEFAULT_HTTP_CONNECTIONS`] and the limit of open files allow.
    pub http_connections: Option<usize>,
    /// Networks of the proxies that are believed when they say who the client is. None: each peer is a client.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Who may use the tracker, and for which torrents.
    pub lists: Lists,
    /// What each source may ask for.
    pub source_limits: SourceLimits,
    /// Where the swarms and the secret of the connection ids are kept over a restart. `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Seconds between two snapshots of the swarms; 0 for none but the one at the end.
    pub snapshot_interval_secs: u32,
    /// Bytes of each UDP socket's receive buffer.
    pub receive_buffer_bytes: usize,
    /// Seconds between two lines of statistics; 0 for none.
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
    /// The default of `--peer-timeout` for an announce interval: two of the longest that a client is given, so that one
    /// lost announce doesn't cost the peer its place.
    pub fn peer_timeout_for(announce_interval_secs: u32) -> u32 {
        2 * longest_interval(announce_interval_secs)
    }

    /// Each number with the name of its option and what it may be.
    fn numbers(&self) -> [(&'static str, u64, RangeInclusive<u64>); 13] {
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
            ("http-connections", connections as u64, HTTP_CONNECTIONS_RANGE),
            ("limit-networks", self.source_limits.network_share.into(), NETWORK_SHARE_RANGE),
            ("ban-time", self.source_limits.ban_secs.into(), BAN_RANGE_S),
            ("receive-buffer", self.receive_buffer_bytes as u64, RECEIVE_BUFFER_RANGE_BYTES),
            ("snapshot-interval", self.snapshot_interval_secs.into(), SNAPSHOT_INTERVAL_RANGE_S),
            ("stats-interval", self.stats_interval_secs.into(), STATS_INTERVAL_RANGE_S),
        ]
    }

    /// What this configuration becomes when a tracker that runs takes another one: what can change without a new start
    /// is taken from that, the rest stays. Says which options would need a new start.
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
            state_dir: self.state_dir.clone(),
            receive_buffer_bytes: self.receive_buffer_bytes,
            ..new.clone()
        };
        let names = changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name);
        (reloaded, names.collect())
    }

    /// Whether the decisions are possible and go together.
    ///
    /// # Errors
    ///
    /// Which two don't, or which one can't be.
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

/// An interval with all of its random spread.
fn longest_interval(announce_interval_secs: u32) -> u32 {
    announce_interval_secs + announce_interval_secs / INTERVAL_SPREAD_DIVISOR
}

/// Why a [`Config`] is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number that isn't possible.
    #[error("--{option} {value} is not in {least} to {most}")]
    Range {
        /// The option's name.
        option: &'static str,
        /// The number.
        value: u64,
        /// The least that is possible.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A list of cores without any, or no workers.
    #[error("no core to run on: --cores names at least one")]
    NoCores,
    /// Neither UDP nor HTTP.
    #[error("nothing to serve: --no-udp and --no-http leave neither protocol")]
    NothingToServe,
    /// More addresses than a worker's ring has numbers for.
    #[error("{given} addresses for --{protocol}: at most {MAX_LISTENERS} are possible")]
    TooManyAddresses {
        /// `udp` or `http`.
        protocol: &'static str,
        /// How many.
        given: usize,
    },
    /// The same address again.
    #[error("--{protocol} {address} is given twice")]
    AddressTwice {
        /// `udp` or `http`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// More networks than each connection's address is compared with.
    #[error("{0} networks for --trusted-proxy: at most {WEB_TRUSTED_NETWORKS_MAX} are possible")]
    TooManyProxies(usize),
    /// More networks than each request over a limit is compared with.
    #[error("{0} networks for --limit-exempt: at most {EXEMPT_NETWORKS_MAX} are possible")]
    TooManyExempt(usize),
    /// A proxy is trusted at an address that nothing is served at.
    #[error("--trusted-proxy {0}=... is for an address that --http doesn't name")]
    ProxyElsewhere(SocketAddr),
    /// More lists than each announce is looked up in.
    #[error("at most {ACCESS_LISTS_MAX} files are possible for --{0}")]
    TooManyLists(&'static str),
    /// More words than fit into a response.
    #[error("the words of --deny-reason have {0} bytes: at most {MAX_FAILURE_BYTES} are possible")]
    Reason(usize),
    /// Clients would be asked to come before they may.
    #[error("--min-interval {min} is longer than --announce-interval {interval}")]
    MinInterval {
        /// The former.
        min: u32,
        /// The latter.
        interval: u32,
    },
    /// Peers would be gone before they are asked to announce again.
    #[error(
        "--peer-timeout {timeout} must be longer than the longest interval that clients are given, {longest} s \
         (--announce-interval and a sixteenth)"
    )]
    PeerTimeout {
        /// The timeout.
        timeout: u32,
        /// The interval with its spread.
        longest: u32,
    },
}

impl ConfigError {
    /// The option to change, by its name.
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

/// A network whose word on who the client is is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedProxy {
    /// The address that HTTP is served at for which this holds; `None`: all of them.
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

    /// Reads a network, or an address, which is the network of itself alone, perhaps with what it holds for:
    /// `10.0.0.0/8`, `[::1]:6969=fe80::/10`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (at, network) = match text.split_once('=') {
            Some((at, network)) => {
                (Some(at.parse().map_err(|_| "what stands before the `=` is no ADDR:PORT")?), network)
            }
            None => (None, text),
        };
        let network = parse_network(network).ok_or("neither a network like `10.0.0.0/8` nor an address")?;
        Ok(Self { at, network })
    }
}

/// The files that say who may use the tracker and for which torrents; see [`access`](crate::access).
///
/// Of each kind, who is in no file of those that allow is denied, unless there is none; who is in one of those that
/// deny is denied in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    /// Info-hashes of the torrents that are served.
    pub allow_hashes: Vec<PathBuf>,
    /// Info-hashes of torrents that are not served.
    pub deny_hashes: Vec<PathBuf>,
    /// How the peer ids of clients begin that are served.
    pub allow_clients: Vec<PathBuf>,
    /// How the peer ids of clients begin that are not served.
    pub deny_clients: Vec<PathBuf>,
    /// Networks that are served.
    pub allow_sources: Vec<PathBuf>,
    /// Networks that are not served.
    pub deny_sources: Vec<PathBuf>,
    /// What clients are told of a torrent that is denied. Empty: nothing by UDP.
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
    /// The files of the lists of this name.
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

    /// All files.
    pub fn all_files(&self) -> impl Iterator<Item = &PathBuf> {
        ListName::ALL.into_iter().flat_map(|name| self.files(name))
    }

    /// The option that names too many files.
    fn overlong(&self) -> Option<&'static str> {
        let overlong = |name: &ListName| self.files(*name).len() > ACCESS_LISTS_MAX;
        ListName::ALL.into_iter().find(overlong).map(ListName::as_str)
    }
}

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// All of the machine's addresses, at [`DEFAULT_PORT`]; without IPv6 if the machine has none.
    Default,
    /// These, and none of them may be missing. No address at all: the protocol is not served.
    At(Vec<SocketAddr>),
}

impl Listen {
    /// The addresses.
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
    /// One on each core that the process may use, pinned.
    Auto,
    /// One on each of these cores, pinned.
    List(Vec<usize>),
    /// So many, wherever the kernel puts them: for tests on machines with few cores.
    Floating(usize),
}

impl FromStr for Cores {
    type Err = CoresError;

    /// Reads `auto`, or a list as `taskset(1)` takes it: `0-3,6`.
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

/// Why a list of cores is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    /// Neither a number nor a range.
    #[error("`{0}` is neither a core nor a range of cores; write `auto`, or a list like `0-3,6`")]
    Form(String),
    /// The same core again.
    #[error("core {0} is named twice; a core has one worker")]
    Twice(usize),
    /// More than a process has workers.
    #[error("more than {MAX_WORKERS} cores")]
    TooMany,
}

/// Which worker's socket the kernel hands a datagram to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Announces and scrapes to the owner of their (first) info-hash; everything else to the core that received it.
    InfoHash,
    /// Everything to the worker on the core that received it, TCP connections too.
    Cpu,
    /// By a hash of the addresses, as the kernel does on its own.
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
    fn decisions_that_do_not_go_together_are_named() {
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
