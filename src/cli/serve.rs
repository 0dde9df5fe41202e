//! Owns the options of `gyre serve`, and the configuration that they describe.

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
    DEFAULT_DENY_REASON, DEFAULT_NETWORK_SHARE, DEFAULT_PEERS, DEFAULT_RECEIVE_BUFFER_BYTES,
    DEFAULT_SNAPSHOT_INTERVAL_S, DEFAULT_STATS_INTERVAL_S, HTTP_CONNECTIONS_RANGE, MAX_MEMORY_RANGE_BYTES,
    MAX_PEERS_RANGE, MIN_INTERVAL_RANGE_S, NETWORK_SHARE_RANGE, PEER_TIMEOUT_RANGE_S,
    RECEIVE_BUFFER_RANGE_BYTES, SNAPSHOT_INTERVAL_RANGE_S, STATS_INTERVAL_RANGE_S,
};
use crate::server::{Privileges, UserName};
use crate::throttle::{Rate, SourceLimits};
use crate::types::parse_network;

/// The headings of the help.
const WORKERS: &str = "Workers";
const ANNOUNCES: &str = "Announces";
const LIMITS: &str = "Limits";
const SOURCES: &str = "Limits of each source";
const LISTS: &str = "Lists";
const STATE: &str = "State";
const PRIVILEGES: &str = "Privileges";
const ADMIN: &str = "Admin";
const LOGGING: &str = "Logging";

/// The options of `gyre serve`.
#[derive(Args, Clone, Debug)]
#[command(allow_negative_numbers = true)] // so that they are refused by the option's range, which names it
pub struct Serve {
    /// Read options from this file, TOML with the names that they have here; those that are given here go before it.
    /// `gyre config print` writes one
    #[arg(long = "config", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Serve UDP (BEP 15) here. May be given several times (at most 64). Port 0 takes any free port
    /// [default: 0.0.0.0:6969 and [::]:6969]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "no_udp")]
    udp: Vec<SocketAddr>,

    /// Serve HTTP (BEP 3) here. May be given several times (at most 64). Port 0 takes any free port
    /// [default: 0.0.0.0:6969 and [::]:6969]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "no_http")]
    http: Vec<SocketAddr>,

    /// Do not serve UDP
    #[arg(long, conflicts_with = "udp")]
    no_udp: bool,

    /// Do not serve HTTP
    #[arg(long, conflicts_with = "http")]
    no_http: bool,

    /// Network of proxies that say who the client is, as `10.0.0.0/8`, or the address of one: by the PROXY protocol
    /// (version 1 or 2) or by a header field (Forwarded, X-Forwarded-For, X-Real-IP). With an address of --http and a
    /// `=` before it (`127.0.0.1:6969=10.0.0.0/8`) for that address alone. May be given several times (at most 256)
    /// [default: none, each peer is a client]
    #[arg(long, value_name = "[ADDR:PORT=]CIDR")]
    trusted_proxy: Vec<TrustedProxy>,

    /// Serve only the torrents in this file: a line for each, its info-hash (hexadecimal or base 32), and if it ends,
    /// when (2027-01-31, 2027-01-31T12:00:00Z, or seconds since 1970); `#` begins a comment. What no list allows is
    /// denied. Read again when it changes, like all lists. May be given several times (at most 16) [default: none, all
    /// torrents are served]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    allow_hashes: Vec<PathBuf>,

    /// Do not serve the torrents in this file, even if a list allows them. Those that are there are taken out. May be
    /// given several times (at most 16) [default: none]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    deny_hashes: Vec<PathBuf>,

    /// What a client is told of a torrent that is denied. Empty: nothing at all by UDP. At most 120 bytes
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_DENY_REASON, help_heading = LISTS)]
    deny_reason: String,

    /// Serve only the clients in this file: a line for each, how its peer ids begin, as `-TR`. What can't be written as
    /// it is, as `%` and two hexadecimal digits. May be given several times (at most 16) [default: none, all clients
    /// are served]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    allow_clients: Vec<PathBuf>,

    /// Do not serve the clients in this file. May be given several times (at most 16) [default: none]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    deny_clients: Vec<PathBuf>,

    /// Serve only the networks in this file: a line for each, as `10.0.0.0/8`, or an address. Others get no answer by
    /// UDP. May be given several times (at most 16) [default: none, all networks are served]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    allow_sources: Vec<PathBuf>,

    /// Do not serve the networks in this file. May be given several times (at most 16) [default: none]
    #[arg(long, value_name = "FILE", help_heading = LISTS)]
    deny_sources: Vec<PathBuf>,

    /// Cores to run on, one pinned worker each: `auto` for all that the process may use, or a list like `0-3,6` (at
    /// most 256)
    #[arg(long, value_name = "LIST|auto", default_value = "auto", help_heading = WORKERS)]
    cores: Cores,

    /// Which worker the kernel hands a datagram to. info-hash: announces and scrapes to the owner of their swarm,
    /// everything else to the core that received it; cpu: everything, TCP connections too, to the core that received
    /// it; none: by a hash of the addresses
    #[arg(long, value_enum, default_value_t = SteeringName::InfoHash, help_heading = WORKERS)]
    steering: SteeringName,

    /// Microseconds for which a worker goes on looking for work before it sleeps: lower latency for a core that is
    /// never idle. 0 to 1000000
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = number(BUSY_POLL_RANGE_US))]
    #[arg(help_heading = WORKERS)]
    busy_poll: u32,

    /// Seconds that clients are asked to let pass between announces; each reply adds up to a sixteenth by chance, so
    /// that clients don't fall into step. 1 to 604800
    #[arg(long, value_name = "S", default_value_t = DEFAULT_ANNOUNCE_INTERVAL_S)]
    #[arg(value_parser = number(ANNOUNCE_INTERVAL_RANGE_S), help_heading = ANNOUNCES)]
    announce_interval: u32,

    /// Seconds that clients must let pass between announces (`min interval`, by HTTP alone). 0 to --announce-interval
    /// [default: 900, or half of --announce-interval if that is less]
    #[arg(long, value_name = "S", value_parser = number(MIN_INTERVAL_RANGE_S), help_heading = ANNOUNCES)]
    min_interval: Option<u32>,

    /// Seconds after its last announce at which a peer is gone; from --announce-interval and a sixteenth to 2419200
    /// [default: twice that]
    #[arg(long, value_name = "S", value_parser = number(PEER_TIMEOUT_RANGE_S), help_heading = ANNOUNCES)]
    peer_timeout: Option<u32>,

    /// Peers in a reply, at most, whatever the client asks for. 0 to 200
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PEERS as u32, value_parser = number(MAX_PEERS_RANGE))]
    #[arg(help_heading = ANNOUNCES)]
    max_peers: u32,

    /// Memory that the process may take, in bytes or with K, M, G or T (powers of 1024), HTTP connections aside. Before
    /// it would take more, the peers that announced longest ago go. 16M to 1024T
    /// [default: half of the memory that the machine, or the process's cgroup, has]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    max_memory: Option<u64>,

    /// Seconds of a window of connection ids (BEP 15): an id is valid for one to two windows. 10 to 3600
    #[arg(long, value_name = "S", default_value_t = DEFAULT_CONNECTION_ID_WINDOW_S)]
    #[arg(value_parser = number(CONNECTION_ID_WINDOW_RANGE_S), help_heading = LIMITS)]
    connection_id_window: u32,

    /// HTTP connections open at a time, shared out evenly among the workers; more get a 503. 1 to 10000000
    /// [default: 20000, or fewer if the limit of open files doesn't allow so many]
    #[arg(long, value_name = "N", value_parser = number(HTTP_CONNECTIONS_RANGE), help_heading = LIMITS)]
    http_connections: Option<u32>,

    /// Connects by UDP that an address may send: `RATE[/s|/m|/h][:BURST]`, so many a second (a minute, an hour), and so
    /// many at once (what ten seconds bring, if it isn't said). What is more gets no answer. A /64 is one address of
    /// IPv6 here. Each worker counts what reaches it [default: any number]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_connects: Option<Rate>,

    /// The same for announces by UDP with a valid connection id [default: any number]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_announces: Option<Rate>,

    /// The same for scrapes by UDP with a valid connection id [default: any number]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_scrapes: Option<Rate>,

    /// The same for requests by HTTP of any kind; what is more gets a 429, and the connection is closed
    /// [default: any number]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_http_requests: Option<Rate>,

    /// The same for new connections by HTTP, but for those of trusted proxies; what is more is closed at once
    /// [default: any number]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_http_connections: Option<Rate>,

    /// What a network may as a whole, a /24 of IPv4 or a /48 of IPv6: so many times what one address may. 0: anything.
    /// 0 to 65536
    #[arg(long, value_name = "N", default_value_t = DEFAULT_NETWORK_SHARE, value_parser = number(NETWORK_SHARE_RANGE))]
    #[arg(help_heading = SOURCES)]
    limit_networks: u32,

    /// Network without these limits, as `10.0.0.0/8`, or an address. May be given several times (at most 256)
    /// [default: none]
    #[arg(long, value_name = "CIDR", value_parser = network, help_heading = SOURCES)]
    limit_exempt: Vec<IpNet>,

    /// Wrong connection ids that an address may send, as --limit-connects; if it sends more, it is banned: its
    /// announces and scrapes by UDP are dropped unread. Addresses can be forged: who knows those of your clients can
    /// have them banned [default: any number, nobody is banned]
    #[arg(long, value_name = "RATE", help_heading = SOURCES)]
    limit_wrong_ids: Option<Rate>,

    /// Seconds of a ban. 1 to 86400
    #[arg(long, value_name = "S", default_value_t = DEFAULT_BAN_S, value_parser = number(BAN_RANGE_S))]
    #[arg(help_heading = SOURCES)]
    ban_time: u32,

    /// Keep the swarms and the secret of the connection ids in this directory, so that a restart loses neither; it is
    /// made if it isn't there. Even `kill -9` loses at most what came since the last snapshot
    /// [default: nothing is kept]
    #[arg(long, value_name = "DIR", help_heading = STATE)]
    state_dir: Option<PathBuf>,

    /// Take over from the tracker that runs with the same --state-dir: its sockets, its swarms, its place. It serves
    /// until this one does, and then ends; no request is lost. If none runs, this one starts as usual
    #[arg(long, requires = "state_dir", help_heading = STATE)]
    take_over: bool,

    /// Seconds between two snapshots of the swarms; 0 for none but the one at the end. 0 to 86400
    #[arg(long, value_name = "S", default_value_t = DEFAULT_SNAPSHOT_INTERVAL_S)]
    #[arg(value_parser = number(SNAPSHOT_INTERVAL_RANGE_S), help_heading = STATE)]
    snapshot_interval: u32,

    /// Bytes of each UDP socket's receive buffer, which holds the datagrams of a burst; beyond net.core.rmem_max only
    /// with CAP_NET_ADMIN. 4096 to 1073741824
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_RECEIVE_BUFFER_BYTES as u32)]
    #[arg(value_parser = number(RECEIVE_BUFFER_RANGE_BYTES), help_heading = LIMITS)]
    receive_buffer: u32,

    /// Serve the admin listener at this address: figures for Prometheus, an API, and a page that shows the tracker
    /// live. Whoever can reach it can read it
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_ADMIN_ADDRESS, help_heading = ADMIN)]
    admin: SocketAddr,

    /// Do not serve the admin listener
    #[arg(long, conflicts_with_all = ["admin", "admin_token_file"], help_heading = ADMIN)]
    no_admin: bool,

    /// The file that holds the token which lets somebody change something by the API: 16 to 256 visible ASCII
    /// characters [default: `admin-token` in --state-dir, made at the first start; without either nothing can be
    /// changed]
    #[arg(long, value_name = "FILE", help_heading = ADMIN)]
    admin_token_file: Option<PathBuf>,

    /// Become this user when the ports are bound: a name or a number, with the user's own group or the one that is
    /// named, without other groups and capabilities. Only root can [default: stay who it is]
    #[arg(long, value_name = "NAME[:GROUP]", help_heading = PRIVILEGES)]
    user: Option<UserName>,

    /// Serve as root, if it is root's process and no --user is named
    #[arg(long, help_heading = PRIVILEGES)]
    allow_root: bool,

    /// Leave the process able to do what its user may. Otherwise it keeps to the directories of the files that it was
    /// given and to its --state-dir, makes no connections and starts no programs, as far as the kernel can see to it
    #[arg(long, help_heading = PRIVILEGES)]
    no_sandbox: bool,

    /// Seconds between two lines of statistics on standard error; 0 for none. 0 to 604800
    #[arg(long, value_name = "S", default_value_t = DEFAULT_STATS_INTERVAL_S)]
    #[arg(value_parser = number(STATS_INTERVAL_RANGE_S), help_heading = LOGGING)]
    stats_interval: u32,

    /// What is logged on standard error: `off`, `error`, `warn`, `info`, `debug` or `trace`, or that for a part of the
    /// program, as `info,gyre::web=off`
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = filter, help_heading = LOGGING)]
    log: String,
}

pub(super) fn number(range: RangeInclusive<u64>) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(*range.start() as i64..=*range.end() as i64)
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    parse_network(text).ok_or("neither a network like `10.0.0.0/8` nor an address")
}

/// Reads a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(*unit)?, *bits)));
    let (digits, bits) = unit.unwrap_or((text, 0));
    let number =
        digits.parse::<u64>().map_err(|_| "not a number with K, M, G or T, or without".to_owned())?;
    let bytes = number.checked_mul(1 << bits).filter(|bytes| MAX_MEMORY_RANGE_BYTES.contains(bytes));
    bytes.ok_or_else(|| "it is not in 16M to 1024T".to_owned())
}

/// Sees to it that a text says what is logged.
fn filter(text: &str) -> Result<String, String> {
    let read = EnvFilter::builder().parse(text);
    read.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// [`Steering`], by the names of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SteeringName {
    InfoHash,
    Cpu,
    None,
}

impl Serve {
    /// What is logged, as `tracing-subscriber`'s `EnvFilter` reads it.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// The state directory of the tracker to take over from.
    pub fn take_over(&self) -> Option<&Path> {
        self.state_dir.as_deref().filter(|_| self.take_over)
    }

    /// What they say of the admin listener; `None`: there is to be none.
    pub fn admin(&self) -> Option<AdminConfig> {
        let admin = AdminConfig { address: self.admin, token_file: self.admin_token_file.clone() };
        (!self.no_admin).then_some(admin)
    }

    /// What the process gives up before it serves.
    pub fn privileges(&self) -> Privileges {
        Privileges {
            user: self.user.clone(),
            allow_root: self.allow_root,
            sandbox: !self.no_sandbox,
            files: self.config_file.iter().chain(&self.admin_token_file).cloned().collect(),
        }
    }

    /// The configuration that the options describe.
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
