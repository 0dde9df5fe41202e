//! Owns the command line: each option's name, help, default and range.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gyre::cli::Describe;
use gyre::config::Cores;

use crate::population::Popularity;

/// The shortest time to measure.
const DURATION_MIN: Duration = Duration::from_millis(10);
/// Maximum number of torrents and of peers, so that counts fit 32 bits.
const COUNT_MAX: i64 = 1 << 30;
/// Maximum number of sources of a thread.
pub(crate) const SOURCES_MAX: i64 = 30_000;
/// Maximum number of datagrams that the kernel splits a message into (UDP_MAX_SEGMENTS).
const TRAIN_MAX: i64 = 64;

/// A load generator for BitTorrent trackers. It simulates clients, checks every reply, and reports rates, latencies and
/// errors.
///
/// The exit code is 1 if there were no replies, or some were invalid, or all were errors; 2 if the command line is
/// invalid.
#[derive(Debug, Parser)]
#[command(name = "gyre-load", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load a tracker by UDP (BEP 15).
    Udp(UdpOptions),
    /// Load a tracker by HTTP (BEP 3).
    Http(HttpOptions),
    /// Flood a tracker by UDP, like an attacker.
    ///
    /// Sends without waiting for replies and counts what comes back. `udp --flood` does the same beside well-behaved
    /// clients.
    Flood(FloodOptions),
    /// Run a null responder: the upper limit to compare trackers with.
    ///
    /// Sends canned replies of realistic sizes (30 peers) from one core, with the same ring and sockets as gyre, until
    /// SIGINT or SIGTERM.
    Floor(FloorOptions),
    /// Print a table of results: the median of each name's runs, and its ratio to the first name.
    Compare(Compare),
    /// Print the info-hashes of a load's torrents in hexadecimal, for a tracker with an allow list.
    Hashes(Hashes),
    #[command(flatten)]
    Describe(Describe),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// Results written by `--json`, each with the name of the server
    #[arg(required = true, value_name = "NAME=FILE", value_parser = named)]
    pub(crate) runs: Vec<(String, PathBuf)>,

    /// Compare the runs of each rate with each other: a row for each rate and name, with ratios of the CPU time per
    /// reply to the first name
    #[arg(long)]
    pub(crate) by_rate: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Hashes {
    /// Number of torrents, as in the load
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=COUNT_MAX))]
    pub(crate) torrents: u32,

    /// Seed, as in the load
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err("must be NAME=FILE".to_owned()),
    }
}

#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)] // so that users of scripts can override their options
pub(crate) struct UdpOptions {
    #[command(flatten)]
    pub(crate) load: LoadOptions,

    /// Shares of the requests, by kind
    #[arg(long, default_value = "connect:50,announce:50,scrape:1", value_name = "KIND:SHARE,...")]
    pub(crate) mix: Mix,

    /// Maximum number of requests in flight of each source
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) pipeline: u32,

    /// Simulated client addresses of each thread: up to 64, each with its own port. With an IPv4 loopback target each
    /// also has its own address in a different network (127.0.0.1, 127.0.1.1 ...), and there may be more than 64
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SOURCES_MAX))]
    pub(crate) sources: u32,

    #[command(flatten)]
    pub(crate) flood_flags: FloodFlags,
}

#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub(crate) struct FloodOptions {
    /// Kind of flood
    #[arg(value_enum)]
    pub(crate) kind: FloodKind,

    #[command(flatten)]
    pub(crate) common: CommonOptions,

    /// Source addresses of each thread. With an IPv4 loopback target each is in a different network (127.125.0.1,
    /// 127.125.1.1 ...), otherwise only the ports differ. `mad` has only one source
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=SOURCES_MAX))]
    pub(crate) sources: u32,

    /// Datagrams of one source per system call (UDP_SEGMENT)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=TRAIN_MAX))]
    pub(crate) train: u32,
}

/// Options of a flood beside a load.
#[derive(Args, Clone, Debug)]
pub(crate) struct FloodFlags {
    /// Also flood the tracker, from the same threads (see `gyre-load flood`)
    #[arg(long, value_enum, value_name = "KIND")]
    flood: Option<FloodKind>,

    /// Datagrams of the flood per second, or `max` for as fast as possible
    #[arg(long, default_value = "max", value_name = "N|max")]
    flood_rate: Rate,

    /// Source addresses of the flood, like `--sources` of `gyre-load flood`
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=SOURCES_MAX))]
    flood_sources: u32,

    /// Like `--train` of `gyre-load flood`
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=TRAIN_MAX))]
    flood_train: u32,
}

/// The parameters of a flood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloodConfig {
    pub(crate) kind: FloodKind,
    pub(crate) rate: Rate,
    pub(crate) sources: u32,
    pub(crate) train: u32,
}

impl FloodOptions {
    pub(crate) fn flooding(&self) -> FloodConfig {
        let Self { kind, common, sources, train } = self;
        FloodConfig { kind: *kind, rate: common.rate, sources: *sources, train: *train }
    }
}

impl FloodFlags {
    pub(crate) fn flooding(&self) -> Option<FloodConfig> {
        let Self { flood, flood_rate, flood_sources, flood_train } = *self;
        flood.map(|kind| FloodConfig { kind, rate: flood_rate, sources: flood_sources, train: flood_train })
    }
}

/// A kind of flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FloodKind {
    /// 0 to 1,500 random bytes
    Junk,
    /// Connect requests with a wrong protocol id
    BadMagic,
    /// Announces with random connection ids
    BadIds,
    /// Connect requests
    Connects,
    /// Valid announces from a single source
    Mad,
    /// Valid announces for one info-hash
    Hash,
    /// Valid announces for info-hashes of one worker (the same first four bytes)
    Worker,
    /// Valid scrapes of 74 unknown info-hashes
    Scrapes,
}

impl FloodKind {
    /// Returns whether its requests need a valid connection id.
    pub(crate) fn needs_id(self) -> bool {
        matches!(self, Self::Mad | Self::Hash | Self::Worker | Self::Scrapes)
    }

    /// Returns its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub(crate) struct HttpOptions {
    #[command(flatten)]
    pub(crate) load: LoadOptions,

    /// Shares of the requests, by kind
    #[arg(long, default_value = "announce:100,scrape:1", value_name = "KIND:SHARE,...")]
    pub(crate) mix: Mix,

    /// Use persistent connections (default)
    #[arg(long, conflicts_with = "close")]
    pub(crate) keep_alive: bool,

    /// Open a connection for each request. Latency includes the connection setup
    #[arg(long)]
    pub(crate) close: bool,

    /// Connections of each thread
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) connections: u32,

    /// Maximum number of requests in flight on each connection
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) pipeline: u32,

    /// Local addresses to connect from, with an IPv4 loopback target (127.0.0.1, 127.0.1.1 ...)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) sources: u32,
}

/// Options of all kinds of load: target, rate, duration, output.
#[derive(Args, Clone, Debug)]
pub(crate) struct CommonOptions {
    /// Address of the tracker
    #[arg(long, value_name = "HOST:PORT")]
    target: String,

    /// Use an IPv6 address of the target
    #[arg(long)]
    ipv6: bool,

    /// Requests per second (open loop), or `max` for as fast as replies arrive (closed loop; a flood does not wait for
    /// replies). An open loop sends on schedule whether replies arrive or not, and counts latency from when a request
    /// was due. By HTTP, due requests wait until --connections and --pipeline have room
    #[arg(long, default_value = "max", value_name = "N|max")]
    pub(crate) rate: Rate,

    /// With --rate: send in batches every MS milliseconds, which saves CPU time of this generator and of other programs
    /// on its core. 0 sends each request when it is due
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) step: u32,

    /// Measured time in seconds
    #[arg(long, default_value = "10", value_name = "S", value_parser = positive_seconds)]
    pub(crate) duration: Duration,

    /// Warm-up in seconds, before the measured time
    #[arg(long, default_value = "2", value_name = "S", value_parser = seconds)]
    pub(crate) warmup: Duration,

    /// Cores to use, one thread on each [default: the last core that this process may use]
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<Cores>,

    /// Seed of the random numbers. The same seed gives the same load
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,

    /// Process id of the server, to report its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,

    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write an HTML report with plots to this file
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,

    /// Print a line every S seconds: seconds since the start, requests/s, replies/s, lost, p50 us, p99 us
    #[arg(long, value_name = "S", value_parser = positive_seconds)]
    pub(crate) every: Option<Duration>,

    /// Print only errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LoadOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,

    /// Number of torrents
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=COUNT_MAX))]
    pub(crate) torrents: u32,

    /// Number of peers on all threads together
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=COUNT_MAX))]
    pub(crate) peers: u32,

    /// Distribution of peers over torrents: `uniform`, `zipf:EXPONENT`, or `gamma:SHAPE,SCALE` (in per cent of the
    /// torrents)
    #[arg(long, default_value = "gamma:0.2,100", value_name = "KIND")]
    pub(crate) popularity: Popularity,

    /// Share of the peers that are seeders
    #[arg(long, default_value = "0.75", value_name = "0..1", value_parser = share)]
    pub(crate) seeders: f64,

    /// Share of the announces after which a peer disappears without a stop and a new one replaces it (in addition to
    /// the 3 % that stop)
    #[arg(long, default_value = "0", value_name = "0..1", value_parser = share)]
    pub(crate) vanish: f64,

    /// Number of peers to ask for in each announce
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=200))]
    pub(crate) numwant: u16,

    /// Announce each peer once before the warm-up, as fast as replies arrive
    #[arg(long)]
    pub(crate) fill: bool,

    /// Milliseconds after which a request counts as lost
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) timeout: u32,
}

impl CommonOptions {
    /// Resolves the target's address.
    pub(crate) fn target(&self) -> Result<SocketAddr, String> {
        let found = self.target.to_socket_addrs().map_err(|error| {
            format!("--target {}: {error}; must be HOST:PORT, with an IPv6 address in brackets", self.target)
        })?;
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|address| address.is_ipv6() != self.ipv6);
        match found.first() {
            Some(address) if self.ipv6 && !address.is_ipv6() => {
                Err(format!("--target {}: no {family} address", self.target))
            }
            Some(address) => Ok(*address),
            None => Err(format!("--target {}: no address", self.target)),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct FloorOptions {
    /// Protocol to answer
    #[arg(value_enum)]
    pub(crate) protocol: Protocol,

    /// Address to listen on
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,

    /// Core to run on [default: chosen by the kernel]
    #[arg(long, value_name = "N")]
    pub(crate) core: Option<usize>,

    /// Receive datagrams but send no replies: the upper limit for dropping them
    #[arg(long)]
    pub(crate) silent: bool,

    /// How long datagrams come together before a turn, in microseconds, as gyre's option
    #[arg(long, value_name = "US", default_value_t = 200, value_parser = clap::value_parser!(u64).range(0..=2_000))]
    pub(crate) gather: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Udp,
    Http,
}

/// The rate of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// As fast as replies arrive (a closed loop).
    Max,
    /// Requests per second, on schedule (an open loop).
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(rate) if (0.1..=1e9).contains(&rate) => Ok(Self::PerSecond(rate)),
            _ if text == "max" => Ok(Self::Max),
            _ => Err("must be `max` or a number from 0.1 to 1000000000".to_owned()),
        }
    }
}

/// Shares of the kinds of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mix {
    pub(crate) connect: u32,
    pub(crate) announce: u32,
    pub(crate) scrape: u32,
}

impl Mix {
    pub(crate) fn sum(self) -> u32 {
        self.connect + self.announce + self.scrape
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Self::default();
        for part in text.split(',') {
            let read = part
                .split_once(':')
                .and_then(|(kind, share)| Some((kind.trim(), share.trim().parse().ok()?)));
            let slot = match read {
                Some(("connect", share)) if share <= 1_000_000 => (&mut mix.connect, share),
                Some(("announce", share)) if share <= 1_000_000 => (&mut mix.announce, share),
                Some(("scrape", share)) if share <= 1_000_000 => (&mut mix.scrape, share),
                _ => {
                    return Err(format!(
                        "invalid share `{part}`: must be connect:N, announce:N or scrape:N, with N up to 1000000"
                    ));
                }
            };
            *slot.0 = slot.1;
        }
        if mix.sum() == 0 { Err("at least one share must be above 0".to_owned()) } else { Ok(mix) }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(secs) if (0.0..=86_400.0).contains(&secs) => Ok(Duration::from_secs_f64(secs)),
        _ => Err("must be a number of seconds from 0 to 86400".to_owned()),
    }
}

fn positive_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| match time >= DURATION_MIN {
        true => Ok(time),
        false => Err("must be at least 0.01 seconds".to_owned()),
    })
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed() {
        let read = |line: &str| Cli::try_parse_from(line.split_whitespace());
        let Command::Udp(udp) =
            read("gyre-load udp --target 127.0.0.1:1 --rate 1e4 --mix announce:2,scrape:1").unwrap().command
        else {
            panic!("not UDP")
        };
        assert_eq!(udp.load.common.rate, Rate::PerSecond(10_000.0));
        assert_eq!(udp.mix, Mix { connect: 0, announce: 2, scrape: 1 });
        assert_eq!(udp.load.common.target(), Ok("127.0.0.1:1".parse().unwrap()));
        for wrong in [
            "gyre-load",
            "gyre-load udp",
            "gyre-load udp --target 127.0.0.1:1 --rate 0",
            "gyre-load udp --target 127.0.0.1:1 --rate fast",
            "gyre-load udp --target 127.0.0.1:1 --mix announce:0",
            "gyre-load udp --target 127.0.0.1:1 --mix gossip:1",
            "gyre-load udp --target 127.0.0.1:1 --seeders 2",
            "gyre-load udp --target 127.0.0.1:1 --duration -1",
            "gyre-load http --target 127.0.0.1:1 --keep-alive --close",
            "gyre-load floor tcp --listen 127.0.0.1:0",
            "gyre-load flood --target 127.0.0.1:1",
            "gyre-load flood junk --target 127.0.0.1:1 --train 65",
            "gyre-load udp --target 127.0.0.1:1 --flood rain",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_target_needs_an_address_of_its_family() {
        let target = |line: &str| match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Http(http) => http.load.common.target(),
            _ => panic!("not HTTP"),
        };
        assert!(target("gyre-load http --target [::1]:80 --ipv6").unwrap().is_ipv6());
        assert!(target("gyre-load http --target 127.0.0.1:80 --ipv6").is_err());
        assert!(target("gyre-load http --target nowhere").is_err());
    }
}
