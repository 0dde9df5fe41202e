//! Owns the options of `gyre serve`, and their conversion to a configuration.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::RangedI64ValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use crate::admin::AdminConfig;
use crate::config::{Config, Cores, Listen, Lists, Steering, TrustedProxy};
use crate::limits::{
    ANNOUNCE_INTERVAL_RANGE_S, BAN_RANGE_S, BUSY_POLL_RANGE_US, CONNECTION_ID_WINDOW_RANGE_S,
    DEFAULT_ADMIN_ADDRESS, DEFAULT_ANNOUNCE_INTERVAL_S, DEFAULT_BAN_S, DEFAULT_CONNECTION_ID_WINDOW_S,
    DEFAULT_DENY_REASON, DEFAULT_GATHER_US, DEFAULT_NETWORK_SHARE, DEFAULT_PEERS,
    DEFAULT_RECEIVE_BUFFER_BYTES, DEFAULT_SNAPSHOT_INTERVAL_S, DEFAULT_STATS_INTERVAL_S, GATHER_RANGE_US,
    HTTP_CONNECTIONS_RANGE, MAX_MEMORY_RANGE_BYTES, MAX_PEERS_RANGE, MIN_INTERVAL_RANGE_S,
    NETWORK_SHARE_RANGE, PEER_TIMEOUT_RANGE_S, RECEIVE_BUFFER_RANGE_BYTES, SNAPSHOT_INTERVAL_RANGE_S,
    STATS_INTERVAL_RANGE_S,
};
use crate::server::{Privileges, UserName};
use crate::throttle::{Rate, SourceLimits};
use crate::types::parse_network;

/// The headings of the help.
const WORKERS: &str = "Workers";
const ANNOUNCES: &str = "Announces";
const LIMITS: &str = "Limits";
const SOURCES: &str = "Rate limits";
const LISTS: &str = "Lists";
const STATE: &str = "State";
const PRIVILEGES: &str = "Privileges";
const ADMIN: &str = "Admin";
const LOGGING: &str = "Logging";

/// The options of `gyre serve`.
#[derive(Args, Clone, Debug)]
#[command(allow_negative_numbers = true)] // so that the error names the option and its range
pub struct Serve {
    /// Read options from this TOML file. Its keys are the names of these options. Command-line options override the
    /// file. `gyre config print` writes a file with all options
    #[arg(long = "config", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Address to serve UDP (BEP 15) on. May be given several times (at most 64). Port 0 selects a free port
    /// [default: 0.0.0.0:6969 and [::]:6969]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "no_udp")]
    udp: Vec<SocketAddr>,

    /// Address to serve HTTP (BEP 3) on. May be given several times (at most 64). Port 0 selects a free port
    /// [default: 0.0.0.0:6969 and [::]:6969]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "no_http")]
    http: Vec<SocketAddr>,

    /// Do not serve UDP
    #[arg(long, conflicts_with = "udp")]
    no_udp: bool,

    /// Do not serve HTTP
    #[arg(long, conflicts_with = "http")]
    no_http: bool,

    /// Trust these proxies to name the client, with the PROXY protocol (version 1 or 2) or a header field (Forwarded,
    /// X-Forwarded-For, X-Real-IP). A network like `10.0.0.0/8`, or a single address. With an address of --http and `=`
    /// in front (`127.0.0.1:6969=10.0.0.0/8`), they are trusted only on connections to that address. May be given
    /// several times (at most 256) [default: none, the peer of each connection is the client]
    #[arg(long, value_name = "[ADDR:PORT=]CIDR")]
    trusted_proxy: Vec<TrustedProxy>,

    /// Allow only the torrents in this file. Each line has an info-hash (hexadecimal or base32), optionally followed by
    /// the time until which the entry is valid (2027-01-31, 2027-01-31T12:00:00Z, or seconds since 1970). `#` starts a
    /// comment. If there is any allow list, torrents on none of them are denied. Like all lists, the file is read again
    /// when it changes. May be given several times (at most 16) [default: none, all torrents are allowed]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    allow_hashes: Vec<PathBuf>,

    /// Deny the torrents in this file, even if they are on an allow list. Peers of a denied torrent are removed. May be
    /// given several times (at most 16) [default: none]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    deny_hashes: Vec<PathBuf>,

    /// Error message for announces of a denied torrent. If empty, UDP clients get no response. At most 120 bytes
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_DENY_REASON, help_heading = LISTS)]
    deny_reason: String,

    /// Allow only the clients in this file. Each line has the prefix of a peer id, like `-TR`. Write other bytes as `%`
    /// and two hexadecimal digits. May be given several times (at most 16) [default: none, all clients are allowed]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    allow_clients: Vec<PathBuf>,

    /// Deny the clients in this file. May be given several times (at most 16) [default: none]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    deny_clients: Vec<PathBuf>,

    /// Allow only the source addresses in this file. Each line has a network like `10.0.0.0/8`, or a single address.
    /// UDP requests from other addresses get no response. May be given several times (at most 16) [default: none, all
    /// addresses are allowed]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    allow_sources: Vec<PathBuf>,

    /// Deny the source addresses in this file. May be given several times (at most 16) [default: none]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    deny_sources: Vec<PathBuf>,

    /// Cores to run on. Each has one worker, which is pinned to it. `auto` means all cores that the process may use; a
    /// list looks like `0-3,6` (at most 256)
    #[arg(long, value_name = "LIST|auto", default_value = "auto", help_heading = WORKERS)]
    cores: Cores,

    /// How the kernel chooses the worker for a datagram. info-hash: announces and scrapes go to the worker that owns
    /// the swarm, everything else to the core that received it. cpu: everything, including TCP connections, goes to the
    /// core that received it. none: by a hash of the addresses
    #[arg(long, value_enum, default_value_t = SteeringName::InfoHash, help_heading = WORKERS)]
    steering: SteeringName,

    /// Microseconds that a worker polls for work before it sleeps. This lowers the latency, but keeps the core busy all
    /// the time. Range: 0 to 1000000
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = number(BUSY_POLL_RANGE_US))]
    #[arg(help_heading = WORKERS)]
    busy_poll: u32,

    /// Microseconds that a worker that is not busy lets UDP datagrams come together before a turn. A datagram may wait
    /// that long in the kernel; a turn that serves several costs less CPU time for each. Nothing is added when turns
    /// are full, nor to the first datagram after a silence. 0: serve each datagram at once. A worker
    /// that polls (--busy-poll) does not gather. Range: 0 to 2000
    #[arg(long, value_name = "US", default_value_t = DEFAULT_GATHER_US, value_parser = number(GATHER_RANGE_US))]
    #[arg(help_heading = WORKERS)]
    gather: u32,

    /// Seconds that clients are asked to wait between announces. Each response adds a random part of up to a sixteenth,
    /// so that clients don't announce in step. Range: 1 to 604800
    #[arg(long, value_name = "S", default_value_t = DEFAULT_ANNOUNCE_INTERVAL_S)]
    #[arg(value_parser = number(ANNOUNCE_INTERVAL_RANGE_S), help_heading = ANNOUNCES)]
    announce_interval: u32,

    /// Minimum number of seconds between announces, sent to HTTP clients as `min interval`. Range: 0 to
    /// --announce-interval [default: 900, or half of --announce-interval if that is less]
    #[arg(long, value_name = "S", value_parser = number(MIN_INTERVAL_RANGE_S), help_heading = ANNOUNCES)]
    min_interval: Option<u32>,

    /// Seconds after its last announce at which a peer expires. Must be more than the longest interval that clients are
    /// given (--announce-interval plus a sixteenth), and at most 2419200 [default: twice that interval]
    #[arg(long, value_name = "S", value_parser = number(PEER_TIMEOUT_RANGE_S), help_heading = ANNOUNCES)]
    peer_timeout: Option<u32>,

    /// Maximum number of peers in a response, whatever the client asks for. Range: 0 to 200
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PEERS as u32, value_parser = number(MAX_PEERS_RANGE))]
    #[arg(help_heading = ANNOUNCES)]
    max_peers: u32,

    /// Memory limit of the process, without HTTP connections, in bytes or with a unit K, M, G or T (powers of 1024).
    /// When the limit is reached, the peers with the oldest announces are removed. Range: 16M to 1024T [default: half
    /// of the memory of the machine, or of the process's cgroup]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    max_memory: Option<u64>,

    /// Seconds of a connection id window (BEP 15). An id is valid for one to two windows. Range: 10 to 3600
    #[arg(long, value_name = "S", default_value_t = DEFAULT_CONNECTION_ID_WINDOW_S)]
    #[arg(value_parser = number(CONNECTION_ID_WINDOW_RANGE_S), help_heading = LIMITS)]
    connection_id_window: u32,

    /// Maximum number of open HTTP connections, divided evenly among the workers. If more arrive, idle connections are
    /// closed to make room, otherwise new ones get a 503. Range: 1 to 10000000 [default: 20000, or fewer if the limit
    /// of open files is too low]
    #[arg(long, value_name = "N", value_parser = number(HTTP_CONNECTIONS_RANGE), help_heading = LIMITS)]
    http_connections: Option<u32>,

    /// Limit of UDP connects per source address: `RATE[/s|/m|/h][:BURST]`. RATE is a number of requests per second
    /// (minute, hour). BURST is the number of requests allowed at once; by default the RATE of ten seconds. Requests
    /// over the limit get no response. For IPv6, a /64 network counts as one address. Each worker counts separately
    /// [default: unlimited]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_connects: Option<Rate>,

    /// Limit of UDP announces with a valid connection id per source address, like --limit-connects [default: unlimited]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_announces: Option<Rate>,

    /// Limit of UDP scrapes with a valid connection id per source address, like --limit-connects [default: unlimited]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_scrapes: Option<Rate>,

    /// Limit of HTTP requests of any kind per source address, like --limit-connects. Requests over the limit get a 429,
    /// and the connection is closed [default: unlimited]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_http_requests: Option<Rate>,

    /// Limit of new HTTP connections per source address, like --limit-connects. Connections over the limit are closed
    /// at once. Trusted proxies are not limited [default: unlimited]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_http_connections: Option<Rate>,

    /// Limit of a whole network (a /24 of IPv4, a /48 of IPv6), as a multiple of the limits of one address. 0 means
    /// unlimited. Range: 0 to 65536
    #[arg(long, value_name = "N", default_value_t = DEFAULT_NETWORK_SHARE, value_parser = number(NETWORK_SHARE_RANGE))]
    #[arg(help_heading = SOURCES)]
    limit_networks: u32,

    /// Exempt this network from the limits: a network like `10.0.0.0/8`, or a single address. May be given several
    /// times (at most 256) [default: none]
    #[arg(long, value_name = "CIDR", value_parser = network, help_heading = SOURCES)]
    limit_exempt: Vec<IpNet>,

    /// Limit of wrong connection ids per source address, like --limit-connects. An address over the limit is banned:
    /// its UDP announces and scrapes are dropped unread. Source addresses can be forged, so an attacker who knows the
    /// address of a client can get it banned [default: unlimited, no address is banned]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_wrong_ids: Option<Rate>,

    /// Duration of a ban in seconds. Range: 1 to 86400
    #[arg(long, value_name = "S", default_value_t = DEFAULT_BAN_S, value_parser = number(BAN_RANGE_S))]
    #[arg(help_heading = SOURCES)]
    ban_time: u32,

    /// Keep the swarms and the secret of the connection ids in this directory, so that they survive a restart. The
    /// directory is created if it does not exist. After a crash or `kill -9`, changes since the last snapshot are lost
    /// [default: nothing is kept]
    #[arg(long, value_name = "DIR", help_heading = STATE)]
    state_dir: Option<PathBuf>,

    /// Take over the sockets and swarms of the tracker that is running with the same --state-dir. The old tracker
    /// serves until the new one is ready, and then ends. No request is lost. If no tracker is running, this one starts
    /// normally
    #[arg(long, requires = "state_dir", help_heading = STATE)]
    take_over: bool,

    /// Seconds between two snapshots of the swarms. 0 means only one, at the end. Range: 0 to 86400
    #[arg(long, value_name = "S", default_value_t = DEFAULT_SNAPSHOT_INTERVAL_S)]
    #[arg(value_parser = number(SNAPSHOT_INTERVAL_RANGE_S), help_heading = STATE)]
    snapshot_interval: u32,

    /// Size of each UDP socket's receive buffer in bytes. It holds bursts of datagrams. More than net.core.rmem_max
    /// requires CAP_NET_ADMIN. Range: 4096 to 1073741824
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_RECEIVE_BUFFER_BYTES as u32)]
    #[arg(value_parser = number(RECEIVE_BUFFER_RANGE_BYTES), help_heading = LIMITS)]
    receive_buffer: u32,

    /// Address of the admin listener. It serves metrics for Prometheus, an API, and a live page. Anyone who can reach
    /// it can read it
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_ADMIN_ADDRESS, help_heading = ADMIN)]
    admin: SocketAddr,

    /// Do not serve the admin listener
    #[arg(long, conflicts_with_all = ["admin", "admin_token_file"], help_heading = ADMIN)]
    no_admin: bool,

    /// File with the token that API requests need to change something: 16 to 256 visible ASCII characters
    /// [default: `admin-token` in --state-dir, created at the first start. Without either, the API is read-only]
    #[arg(long, value_name = "FILE", help_heading = ADMIN)]
    admin_token_file: Option<PathBuf>,

    /// Switch to this user after binding the ports: a name or a number, optionally with a group. Other groups and all
    /// capabilities are dropped. Requires root [default: if started as root, `gyre` if that user exists, otherwise
    /// `nobody`; if not, the current user]
    #[arg(long, value_name = "NAME[:GROUP]", help_heading = PRIVILEGES)]
    user: Option<UserName>,

    /// Serve as root if no --user is given, or if it names root
    #[arg(long, help_heading = PRIVILEGES)]
    allow_root: bool,

    /// Do not restrict the process beyond the rights of its user. By default, as far as the kernel supports it, the
    /// process can only use --state-dir and the directories of the files that it was given, and cannot open TCP
    /// connections or start programs
    #[arg(long, help_heading = PRIVILEGES)]
    no_sandbox: bool,

    /// Seconds between two lines of statistics on standard error. 0 means no statistics. Range: 0 to 604800
    #[arg(long, value_name = "S", default_value_t = DEFAULT_STATS_INTERVAL_S)]
    #[arg(value_parser = number(STATS_INTERVAL_RANGE_S), help_heading = LOGGING)]
    stats_interval: u32,

    /// Log level for standard error: `off`, `error`, `warn`, `info`, `debug` or `trace`, also for parts of the program,
    /// like `info,gyre::web=off`
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = filter, help_heading = LOGGING)]
    log: String,
}

pub(super) fn number(range: RangeInclusive<u64>) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(*range.start() as i64..=*range.end() as i64)
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    parse_network(text).ok_or("not a network like `10.0.0.0/8` and not an address")
}

/// Parses a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(*unit)?, *bits)));
    let (digits, bits) = unit.unwrap_or((text, 0));
    let number =
        digits.parse::<u64>().map_err(|_| "not a number, optionally with a unit K, M, G or T".to_owned())?;
    let bytes = number.checked_mul(1 << bits).filter(|bytes| MAX_MEMORY_RANGE_BYTES.contains(bytes));
    bytes.ok_or_else(|| "out of range: 16M to 1024T".to_owned())
}

/// Checks that a text is a valid log filter.
fn filter(text: &str) -> Result<String, String> {
    let read = EnvFilter::builder().parse(text);
    read.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// [`Steering`] with the names of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SteeringName {
    InfoHash,
    Cpu,
    None,
}

impl Serve {
    /// Returns the log filter, in the syntax of `tracing-subscriber`'s `EnvFilter`.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// Returns the state directory of the tracker to take over from, if any.
    pub fn take_over(&self) -> Option<&Path> {
        self.state_dir.as_deref().filter(|_| self.take_over)
    }

    /// Returns the settings of the admin listener, or `None` with --no-admin.
    pub fn admin(&self) -> Option<AdminConfig> {
        let admin = AdminConfig { address: self.admin, token_file: self.admin_token_file.clone() };
        (!self.no_admin).then_some(admin)
    }

    /// Returns the user and the restrictions of the process.
    pub fn privileges(&self) -> Privileges {
        Privileges {
            user: self.user.clone(),
            allow_root: self.allow_root,
            sandbox: !self.no_sandbox,
            files: self.config_file.iter().chain(&self.admin_token_file).cloned().collect(),
        }
    }

    /// Returns the configuration that the options describe.
    pub fn config(&self) -> Config {
        let listen = |given: &Vec<SocketAddr>, none: bool| match (none, given.is_empty()) {
            (true, _) => Listen::At(Vec::new()),
            (false, true) => Listen::Default,
            (false, false) => Listen::At(given.clone()),
        };
        let interval = self.announce_interval;
        let default = Config::default();
        Config {
            udp: listen(&self.udp, self.no_udp),
            http: listen(&self.http, self.no_http),
            cores: self.cores.clone(),
            steering: match self.steering {
                SteeringName::InfoHash => Steering::InfoHash,
                SteeringName::Cpu => Steering::Cpu,
                SteeringName::None => Steering::None,
            },
            announce_interval_secs: interval,
            min_interval_secs: self.min_interval.unwrap_or(default.min_interval_secs.min(interval / 2)),
            peer_timeout_secs: self.peer_timeout.unwrap_or_else(|| Config::peer_timeout_for(interval)),
            max_peers: self.max_peers as u16,
            max_memory_bytes: self.max_memory,
            connection_id_window_secs: self.connection_id_window,
            busy_poll: Duration::from_micros(self.busy_poll.into()),
            gather: Duration::from_micros(self.gather.into()),
            http_connections: self.http_connections.map(|connections| connections as usize),
            trusted_proxies: self.trusted_proxy.clone(),
            lists: Lists {
                allow_hashes: self.allow_hashes.clone(),
                deny_hashes: self.deny_hashes.clone(),
                allow_clients: self.allow_clients.clone(),
                deny_clients: self.deny_clients.clone(),
                allow_sources: self.allow_sources.clone(),
                deny_sources: self.deny_sources.clone(),
                torrent_reason: self.deny_reason.clone(),
            },
            source_limits: SourceLimits {
                connects: self.limit_connects,
                announces: self.limit_announces,
                scrapes: self.limit_scrapes,
                http_requests: self.limit_http_requests,
                http_connections: self.limit_http_connections,
                wrong_ids: self.limit_wrong_ids,
                ban_secs: self.ban_time,
                network_share: self.limit_networks,
                exempt: self.limit_exempt.clone(),
            },
            state_dir: self.state_dir.clone(),
            snapshot_interval_secs: self.snapshot_interval,
            receive_buffer_bytes: self.receive_buffer as usize,
            stats_interval_secs: self.stats_interval,
        }
    }
}
