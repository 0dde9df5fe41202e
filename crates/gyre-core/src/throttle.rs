//! Owns rate limits for each source (an address and its network) and bans.
//!
//! A source has a token bucket for each kind of request. A bucket is stored as one number, the time at which it will be
//! full again (the virtual scheduling of ATM's GCRA, ITU-T I.371). A full bucket needs no storage, so the table has a
//! fixed size: when a set is full, the bucket that will be full first is replaced. In a flood from more sources than
//! the table has places, the sources with the most requests stay in the table.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::keyed_hash::KeyedHash;
use crate::limits::{
    DEFAULT_BAN_S, DEFAULT_NETWORK_SHARE, RATE_BURST_RANGE, RATE_BURST_S, RATE_REQUESTS_RANGE, THROTTLE_SETS,
    THROTTLE_WAYS,
};
use crate::time::Timestamp;

/// The kinds of requests that are limited for each source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limited {
    /// UDP connects. Their source address can be forged.
    Connect,
    /// UDP announces with a valid connection id.
    Announce,
    /// UDP scrapes with a valid connection id.
    Scrape,
    /// HTTP requests of any kind.
    HttpRequest,
    /// New HTTP connections.
    HttpConnection,
}

impl Limited {
    const COUNT: usize = 5;
}

/// A rate limit: a number of requests per second, minute or hour, and a burst.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::throttle::Rate;
///
/// let rate: Rate = "30/m:100".parse().unwrap();
/// assert_eq!(rate.to_string(), "30/m:100");
/// assert_eq!("5".parse::<Rate>().unwrap().to_string(), "5/s:50"); // default burst: 10 s
/// assert!("0".parse::<Rate>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Per,
    burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
    Hour,
}

impl Per {
    const ALL: [(&'static str, Self); 3] = [("s", Self::Second), ("m", Self::Minute), ("h", Self::Hour)];

    fn secs(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }
}

/// The error of a text that is not a [`Rate`].
const INVALID_RATE: &str = "invalid rate: use RATE[/s|/m|/h][:BURST], with numbers from 1 to 1000000";

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
        let (requests, per) = rate.split_once('/').unwrap_or((rate, "s"));
        let (_, per) = Per::ALL.into_iter().find(|(name, _)| *name == per).ok_or(INVALID_RATE)?;
        let number = |text: &str, range: RangeInclusive<u32>| {
            text.parse().ok().filter(|number| range.contains(number)).ok_or(INVALID_RATE)
        };
        let requests = number(requests, RATE_REQUESTS_RANGE)?;
        let burst = match burst {
            Some(burst) => number(burst, RATE_BURST_RANGE)?,
            None => (requests.saturating_mul(RATE_BURST_S) / per.secs())
                .clamp(*RATE_BURST_RANGE.start(), *RATE_BURST_RANGE.end()),
        };
        Ok(Self { requests, per, burst })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = Per::ALL.into_iter().find(|(_, per)| *per == self.per).map_or("", |(name, _)| name);
        write!(f, "{}/{per}:{}", self.requests, self.burst)
    }
}

/// The rate limits for each source. By default nothing is limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// UDP connects.
    pub connects: Option<Rate>,
    /// UDP announces.
    pub announces: Option<Rate>,
    /// UDP scrapes.
    pub scrapes: Option<Rate>,
    /// HTTP requests.
    pub http_requests: Option<Rate>,
    /// New HTTP connections.
    pub http_connections: Option<Rate>,
    /// Wrong connection ids. An address over this limit is banned.
    pub wrong_ids: Option<Rate>,
    /// Duration of a ban in seconds. UDP announces and scrapes of a banned address are dropped unread.
    pub ban_secs: u32,
    /// Limit of a whole network (an IPv4 /24 or IPv6 /48), as a multiple of an address's limit. 0: no limit.
    pub network_share: u32,
    /// Networks without limits.
    pub exempt: Vec<IpNet>,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self {
            connects: None,
            announces: None,
            scrapes: None,
            http_requests: None,
            http_connections: None,
            wrong_ids: None,
            ban_secs: DEFAULT_BAN_S,
            network_share: DEFAULT_NETWORK_SHARE,
            exempt: Vec::new(),
        }
    }
}

impl SourceLimits {
    /// Returns the rates in the order of [`Limited`].
    fn rates(&self) -> [Option<Rate>; Limited::COUNT] {
        [self.connects, self.announces, self.scrapes, self.http_requests, self.http_connections]
    }

    /// Returns whether nothing is limited.
    pub fn is_open(&self) -> bool {
        self.wrong_ids.is_none() && self.rates().iter().all(Option::is_none)
    }
}

/// How fast a bucket refills.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Time to refill one request, in nanoseconds.
    each_ns: u64,
    /// Time to refill an empty bucket, in nanoseconds.
    full_ns: u64,
}

impl Pace {
    /// Returns the pace of `sources` sources together.
    fn of(rate: Rate, sources: u32) -> Self {
        let sources = u64::from(sources);
        let each_ns = u64::from(rate.per.secs()) * 1_000_000_000 / (u64::from(rate.requests) * sources);
        Self { each_ns, full_ns: each_ns * u64::from(rate.burst) * sources }
    }
}

/// The rate limiter of one worker.
pub struct Throttle {
    /// Paces of an address and of its network, by [`Limited`].
    paces: [Option<(Pace, Option<Pace>)>; Limited::COUNT],
    wrong_ids: Option<Pace>,
    ban: Duration,
    exempt: Vec<IpNet>,
    buckets: Buckets,
    /// End of the last ban.
    banned_until: Timestamp,
}

impl Throttle {
    /// Creates a limiter in which all buckets are full. The key is secret, so that an attacker can't choose sources
    /// that collide in one set.
    pub fn new(limits: &SourceLimits, key: [u8; 16]) -> Self {
        let mut throttle = Self {
            paces: [None; Limited::COUNT],
            wrong_ids: None,
            ban: Duration::ZERO,
            exempt: Vec::new(),
            buckets: Buckets::new(key),
            banned_until: Timestamp::default(),
        };
        throttle.set_limits(limits);
        throttle
    }

    /// Replaces the limits. Tokens already used stay used.
    pub fn set_limits(&mut self, limits: &SourceLimits) {
        let network = |rate| (limits.network_share > 0).then(|| Pace::of(rate, limits.network_share));
        self.paces = limits.rates().map(|rate| rate.map(|rate| (Pace::of(rate, 1), network(rate))));
        self.wrong_ids = limits.wrong_ids.map(|rate| Pace::of(rate, 1));
        self.ban = Duration::from_secs(limits.ban_secs.into());
        self.exempt.clone_from(&limits.exempt);
    }

    /// Takes a token of the address and of its network. Returns whether the request is permitted: both had a token, or
    /// the address is exempt.
    pub fn permits(&mut self, now: Timestamp, limited: Limited, ip: IpAddr) -> bool {
        let Some((address, network)) = &self.paces[limited as usize] else { return true };
        let permitted = self.buckets.take(now, Source::address(ip), limited as u8, address)
            && network
                .as_ref()
                .is_none_or(|pace| self.buckets.take(now, Source::network(ip), limited as u8, pace));
        permitted || self.is_exempt(ip)
    }

    /// Returns whether this address is banned. Costs one comparison while there are no bans.
    #[inline]
    pub fn bans(&self, now: Timestamp, ip: IpAddr) -> bool {
        now < self.banned_until && self.buckets.is_in_use(now, Source::address(ip), BAN)
    }

    /// Counts a wrong connection id from this address. Returns whether the address is now banned for it.
    #[cold]
    pub fn note_wrong_id(&mut self, now: Timestamp, ip: IpAddr) -> bool {
        let Some(pace) = &self.wrong_ids else { return false };
        let source = Source::address(ip);
        if self.buckets.take(now, source, WRONG_IDS, pace) || self.is_exempt(ip) {
            return false;
        }
        self.banned_until = self.banned_until.max(now + self.ban);
        self.buckets.use_until(now + self.ban, source, BAN);
        true
    }

    #[cold]
    fn is_exempt(&self, ip: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(&ip))
    }
}

/// The kind of bucket for wrong ids, after those of [`Limited`].
const WRONG_IDS: u8 = Limited::COUNT as u8;
/// The kind of bucket for bans. It is full when the ban ends.
const BAN: u8 = WRONG_IDS + 1;

/// An address or a network as a key of the table.
#[derive(Clone, Copy, Debug)]
struct Source {
    bits: u64,
    /// Tells addresses from networks, and IPv4 from IPv6.
    tag: u8,
}

impl Source {
    /// Returns the source of an address. For IPv6 it is the /64, in which a host can use any number of addresses.
    fn address(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self { bits: ip.to_bits().into(), tag: 0 },
            IpAddr::V6(ip) => Self { bits: (ip.to_bits() >> 64) as u64, tag: 1 },
        }
    }

    /// Returns the network of an address: its IPv4 /24 or IPv6 /48.
    fn network(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self { bits: (ip.to_bits() >> 8).into(), tag: 2 },
            IpAddr::V6(ip) => Self { bits: (ip.to_bits() >> 80) as u64, tag: 3 },
        }
    }
}

/// The places for the buckets whose keys map to this set: one cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set {
    keys: [u64; THROTTLE_WAYS],
    /// Times at which the buckets will be full, in nanoseconds, in the order of `keys`.
    full_ns: [u64; THROTTLE_WAYS],
}

/// The buckets of all sources.
struct Buckets {
    sets: Box<[Set]>,
    hash: KeyedHash,
}

impl Buckets {
    fn new(key: [u8; 16]) -> Self {
        let key = u128::from_le_bytes(key);
        let hash = KeyedHash::new([key as u64, (key >> 64) as u64]);
        Self { sets: vec![Set::default(); THROTTLE_SETS].into(), hash }
    }

    fn key(&self, source: Source, kind: u8) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&source.bits.to_le_bytes());
        (bytes[8], bytes[9]) = (source.tag, kind);
        self.hash.of(&bytes)
    }

    /// Finds a bucket, or replaces the fullest one of its set. Returns the time at which it will be full.
    fn bucket(&mut self, key: u64) -> &mut u64 {
        let set = &mut self.sets[key as usize % THROTTLE_SETS];
        let at = set.keys.iter().position(|other| *other == key).unwrap_or_else(|| {
            let fullest = (0..THROTTLE_WAYS).min_by_key(|&at| set.full_ns[at]).expect("a set has places");
            (set.keys[fullest], set.full_ns[fullest]) = (key, 0);
            fullest
        });
        &mut set.full_ns[at]
    }

    /// Takes a token from a bucket. Returns false if it has none.
    fn take(&mut self, now: Timestamp, source: Source, kind: u8, pace: &Pace) -> bool {
        let now_ns = now.as_micros() * 1_000;
        let full_ns = self.bucket(self.key(source, kind));
        let taken_ns = now_ns.max(*full_ns) + pace.each_ns;
        let permitted = taken_ns - now_ns <= pace.full_ns;
        if permitted {
            *full_ns = taken_ns;
        }
        permitted
    }

    /// Sets the time at which a bucket will be full.
    fn use_until(&mut self, full: Timestamp, source: Source, kind: u8) {
        *self.bucket(self.key(source, kind)) = full.as_micros() * 1_000;
    }

    /// Returns whether the bucket exists and is not full.
    fn is_in_use(&self, now: Timestamp, source: Source, kind: u8) -> bool {
        let key = self.key(source, kind);
        let set = &self.sets[key as usize % THROTTLE_SETS];
        (0..THROTTLE_WAYS).any(|at| set.keys[at] == key && set.full_ns[at] > now.as_micros() * 1_000)
    }
}

#[cfg(test)]
mod tests;
