//! Owns the command line: each option's name, help, default and range.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gyre::cli::Describe;
use gyre::config::Cores;

use crate::population::Popularity;

/// What is worth measuring.
const DURATION_MIN: Duration = Duration::from_millis(10);
/// Torrents, peers: at most so many, as many as a number of 32 bits leaves room to count.
const MANY: i64 = 1 << 30;
/// Sources of a thread, at most.
pub(crate) const SOURCES_MAX: i64 = 30_000;
/// Datagrams that the kernel cuts one message into, at most (UDP_MAX_SEGMENTS).
const TRAIN_MAX: i64 = 64;

/// Loads a BitTorrent tracker as its clients do, checks every reply, and says how fast and how well it answered.
///
/// It exits with 1 if replies were wrong, there were none, or all refused; with 2 if it was called wrongly.
#[derive(Debug, Parser)]
#[command(name = "gyre-load", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load a tracker by UDP (BEP 15).
    Udp(UdpLoad),
    /// Load a tracker by HTTP (BEP 3).
    Http(HttpLoad),
    /// Flood a tracker by UDP, as an attacker would.
    ///
    /// It waits for no reply, but counts what comes back. `udp --flood` does the same beside clients that behave.
    Flood(FloodLoad),
    /// Answer without doing anything: the physical limit that trackers are compared with.
    ///
    /// It sends canned replies of the sizes that a tracker's have (30 peers), from one core, with the ring and the
    /// sockets that gyre uses, until SIGINT or SIGTERM.
    Floor(Floor),
    /// Print a table of runs: of each name the median of its runs, and its ratio to the first name's.
    Compare(Compare),
    /// Print the info-hashes of the torrents that a load asks for, in hexadecimal, for a tracker with a whitelist.
    Hashes(Hashes),
    #[command(flatten)]
    Describe(Describe),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// Runs: what `--json` has written, under the name of what was loaded
    #[arg(required = true, value_name = "NAME=FILE", value_parser = named)]
    pub(crate) runs: Vec<(String, PathBuf)>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Hashes {
    /// Torrents, as in the load
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MANY))]
    pub(crate) torrents: u32,

    /// The seed, as in the load
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err("write NAME=FILE".to_owned()),
    }
}

#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)] // so that a script's options can be followed by others
pub(crate) struct UdpLoad {
    #[command(flatten)]
    pub(crate) load: Load,

    /// Shares of the requests, by kind
    #[arg(long, default_value = "connect:50,announce:50,scrape:1", value_name = "KIND:SHARE,...")]
    pub(crate) mix: Mix,

    /// Requests in flight at each source, at most
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) pipeline: u32,

    /// Clients of each thread to send as: up to 64, each on a port of its own, and at a loopback target also on an
    /// address of its own, in a network of its own (127.0.0.1, 127.0.1.1 ...); at such a target also more
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SOURCES_MAX))]
    pub(crate) sources: u32,

    #[command(flatten)]
    pub(crate) beside: Beside,
}

#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub(crate) struct FloodLoad {
    /// What to send
    #[arg(value_enum)]
    pub(crate) kind: FloodKind,

    #[command(flatten)]
    pub(crate) course: Course,

    /// Addresses of each thread to send from, at a loopback target, each in a network of its own (127.125.0.1,
    /// 127.125.1.1 ...); at others ports. `mad` has one
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=SOURCES_MAX))]
    pub(crate) sources: u32,

    /// Datagrams of one source that are handed to the kernel together, and cut apart there (UDP_SEGMENT)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=TRAIN_MAX))]
    pub(crate) train: u32,
}

/// Floods beside a load.
#[derive(Args, Clone, Debug)]
pub(crate) struct Beside {
    /// Flood the tracker beside this load, from the same threads (see `gyre-load flood`)
    #[arg(long, value_enum, value_name = "KIND")]
    flood: Option<FloodKind>,

    /// Datagrams of the flood a second; or `max`: as fast as they can be sent
    #[arg(long, default_value = "max", value_name = "N|max")]
    flood_rate: Rate,

    /// Addresses of the flood, as `--sources` of `gyre-load flood`
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=SOURCES_MAX))]
    flood_sources: u32,

    /// As `--train` of `gyre-load flood`
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=TRAIN_MAX))]
    flood_train: u32,
}

/// A flood, as it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flooding {
    pub(crate) kind: FloodKind,
    pub(crate) rate: Rate,
    pub(crate) sources: u32,
    pub(crate) train: u32,
}

impl FloodLoad {
    pub(crate) fn flooding(&self) -> Flooding {
        let Self { kind, course, sources, train } = self;
        Flooding { kind: *kind, rate: course.rate, sources: *sources, train: *train }
    }
}

impl Beside {
    pub(crate) fn flooding(&self) -> Option<Flooding> {
        let Self { flood, flood_rate, flood_sources, flood_train } = *self;
        flood.map(|kind| Flooding { kind, rate: flood_rate, sources: flood_sources, train: flood_train })
    }
}

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FloodKind {
    /// Random bytes, 0 to 1,500 of them
    Junk,
    /// Connects with a wrong protocol id
    BadMagic,
    /// Announces that look right, with random connection ids
    BadIds,
    /// Connects
    Connects,
    /// Right announces of one source that has gone mad
    Mad,
    /// Right announces for one info-hash
    Hash,
    /// Right announces for info-hashes that all belong to one worker, as they have the same first four bytes
    Worker,
    /// Right scrapes of 74 info-hashes that nobody has
    Scrapes,
}

impl FloodKind {
    /// A connection id that the tracker has given belongs to it.
    pub(crate) fn needs_id(self) -> bool {
        matches!(self, Self::Mad | Self::Hash | Self::Worker | Self::Scrapes)
    }

    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub(crate) struct HttpLoad {
    #[command(flatten)]
    pub(crate) load: Load,

    /// Shares of the requests, by kind
    #[arg(long, default_value = "announce:100,scrape:1", value_name = "KIND:SHARE,...")]
    pub(crate) mix: Mix,

    /// Keep connections open (the default)
    #[arg(long, conflicts_with = "close")]
    pub(crate) keep_alive: bool,

    /// Make a connection for each request; its time counts
    #[arg(long)]
    pub(crate) close: bool,

    /// Connections of each thread
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) connections: u32,

    /// Requests in flight on each connection, at most
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) pipeline: u32,

    /// Local addresses to connect from, at a loopback target (127.0.0.1, 127.0.1.1 ...)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) sources: u32,
}

/// What is the same for all that is sent: where to, how fast, how long, and what is told of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Course {
    /// The tracker
    #[arg(long, value_name = "HOST:PORT")]
    target: String,

    /// Of the target's addresses, take one of IPv6
    #[arg(long)]
    ipv6: bool,

    /// Requests a second, sent on schedule whether replies come or not (by HTTP as far as --connections and --pipeline
    /// go; what is due waits), latency counted from when each was due; or `max`: as fast as replies come
    #[arg(long, default_value = "max", value_name = "N|max")]
    pub(crate) rate: Rate,

    /// With a rate: milliseconds from one step to the next, at which all leaves together that has become due since;
    /// spares the core that this runs on, and the programs there. 0: each request leaves by itself
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) step: u32,

    /// Seconds to measure
    #[arg(long, default_value = "10", value_name = "S", value_parser = some_seconds)]
    pub(crate) duration: Duration,

    /// Seconds to load before that
    #[arg(long, default_value = "2", value_name = "S", value_parser = seconds)]
    pub(crate) warmup: Duration,

    /// Cores to run on, a thread on each [default: the last one that this process may use]
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<Cores>,

    /// The load repeats if its seed does
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,

    /// The server's process: report its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,

    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,

    /// Print a line each so many seconds: seconds since the begin, requests/s, replies/s, lost, p50 us, p99 us
    #[arg(long, value_name = "S", value_parser = some_seconds)]
    pub(crate) every: Option<Duration>,

    /// Print nothing but what is wrong
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) course: Course,

    /// Torrents
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MANY))]
    pub(crate) torrents: u32,

    /// Peers, on all threads together
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MANY))]
    pub(crate) peers: u32,

    /// How peers are spread over torrents: `uniform`, `zipf:EXPONENT`, or `gamma:SHAPE,SCALE` in per cent of
    /// the torrents
    #[arg(long, default_value = "gamma:0.2,100", value_name = "KIND")]
    pub(crate) popularity: Popularity,

    /// Share of the peers that are seeders
    #[arg(long, default_value = "0.75", value_name = "0..1", value_parser = share)]
    pub(crate) seeders: f64,

    /// Share of the announces after which a peer is gone without a word, and another comes in its place (beside the 3 %
    /// that stop)
    #[arg(long, default_value = "0", value_name = "0..1", value_parser = share)]
    pub(crate) vanish: f64,

    /// Peers wanted in each reply
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=200))]
    pub(crate) numwant: u16,

    /// Announce each peer once before the warm-up, as fast as replies come
    #[arg(long)]
    pub(crate) fill: bool,

    /// Milliseconds after which a request counts as lost
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) timeout: u32,
}

impl Course {
    /// The target's address.
    pub(crate) fn target(&self) -> Result<SocketAddr, String> {
        let found = self.target.to_socket_addrs().map_err(|error| {
            format!("--target {}: {error}; write HOST:PORT, an IPv6 address in brackets", self.target)
        })?;
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|address| address.is_ipv6() != self.ipv6);
        match found.first() {
            Some(address) if self.ipv6 && !address.is_ipv6() => {
                Err(format!("--target {}: it has no address of {family}", self.target))
            }
            Some(address) => Ok(*address),
            None => Err(format!("--target {}: it has no address", self.target)),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Floor {
    /// What to answer
    #[arg(value_enum)]
    pub(crate) protocol: Protocol,

    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,

    /// The core to run on [default: wherever the kernel puts it]
    #[arg(long, value_name = "N")]
    pub(crate) core: Option<usize>,

    /// Take datagrams and send nothing: the limit of whoever refuses them
    #[arg(long)]
    pub(crate) silent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Udp,
    Http,
}

/// How fast requests leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// As fast as replies come: a closed loop.
    Max,
    /// So many a second, on schedule: an open loop.
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(rate) if (0.1..=1e9).contains(&rate) => Ok(Self::PerSecond(rate)),
            _ if text == "max" => Ok(Self::Max),
            _ => Err("write `max`, or a number of requests a second from 0.1 to 1000000000".to_owned()),
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
                        "`{part}`: write connect:N, announce:N or scrape:N, N up to 1000000"
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
        _ => Err("a number of seconds from 0 to 86400 is wanted".to_owned()),
    }
}

fn some_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| match time >= DURATION_MIN {
        true => Ok(time),
        false => Err("at least 0.01 seconds are wanted".to_owned()),
    })
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0 to 1 is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read = |line: &str| Cli::try_parse_from(line.split_whitespace());
        let Command::Udp(udp) =
            read("gyre-load udp --target 127.0.0.1:1 --rate 1e4 --mix announce:2,scrape:1").unwrap().command
        else {
            panic!("not UDP")
        };
        assert_eq!(udp.load.course.rate, Rate::PerSecond(10_000.0));
        assert_eq!(udp.mix, Mix { connect: 0, announce: 2, scrape: 1 });
        assert_eq!(udp.load.course.target(), Ok("127.0.0.1:1".parse().unwrap()));
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
            Command::Http(http) => http.load.course.target(),
            _ => panic!("not HTTP"),
        };
        assert!(target("gyre-load http --target [::1]:80 --ipv6").unwrap().is_ipv6());
        assert!(target("gyre-load http --target 127.0.0.1:80 --ipv6").is_err());
        assert!(target("gyre-load http --target nowhere").is_err());
    }
}
