//! Owns how much one source may ask for: the limits of an address and of its network, and bans.
//!
//! A source has a token bucket for each kind of request. A bucket is kept as one number, the moment at which it will be
//! full again (the virtual scheduling of ATM's GCRA, ITU-T I.371), and one that is full is as good as none. So the
//! table is of fixed size, whoever comes: where its place is taken, the bucket goes that will be full first. Of a flood
//! from more sources than there are places, those are remembered that ask most.

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

/// What is limited for each source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limited {
    /// Connects by UDP. Their address can be forged.
    Connect,
    /// Announces by UDP with a valid connection id.
    Announce,
    /// Scrapes by UDP with a valid connection id.
    Scrape,
    /// Requests by HTTP, of any kind.
    HttpRequest,
    /// New connections by HTTP.
    HttpConnection,
}

impl Limited {
    const COUNT: usize = 5;
}

/// So many requests in a second, a minute or an hour, and so many at once.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::throttle::Rate;
///
/// let rate: Rate = "30/m:100".parse().unwrap();
/// assert_eq!(rate.to_string(), "30/m:100");
/// assert_eq!("5".parse::<Rate>().unwrap().to_string(), "5/s:50"); // at once: what ten seconds bring
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

/// Why a text is no [`Rate`].
const NO_RATE: &str =
    "a rate is a number from 1 to 1000000, perhaps with /s, /m or /h, and with :BURST, another one";

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
        let (requests, per) = rate.split_once('/').unwrap_or((rate, "s"));
        let (_, per) = Per::ALL.into_iter().find(|(name, _)| *name == per).ok_or(NO_RATE)?;
        let number = |text: &str, range: RangeInclusive<u32>| {
            text.parse().ok().filter(|number| range.contains(number)).ok_or(NO_RATE)
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

/// What each source may do. The default is anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Connects by UDP.
    pub connects: Option<Rate>,
    /// Announces by UDP.
    pub announces: Option<Rate>,
    /// Scrapes by UDP.
    pub scrapes: Option<Rate>,
    /// Requests by HTTP.
    pub http_requests: Option<Rate>,
    /// New connections by HTTP.
    pub http_connections: Option<Rate>,
    /// Wrong connection ids; past it the address is banned.
    pub wrong_ids: Option<Rate>,
    /// Seconds of a ban: announces and scrapes by UDP are dropped unread.
    pub ban_secs: u32,
    /// So many times what an address may a network may as a whole, a /24 of IPv4 or a /48 of IPv6; 0: anything.
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
    /// The rates, in the order of [`Limited`].
    fn rates(&self) -> [Option<Rate>; Limited::COUNT] {
        [self.connects, self.announces, self.scrapes, self.http_requests, self.http_connections]
    }

    /// Whether nothing is limited.
    pub fn is_open(&self) -> bool {
        self.wrong_ids.is_none() && self.rates().iter().all(Option::is_none)
    }
}

/// How fast a bucket fills, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// What a request takes.
    each_ns: u64,
    /// What a full bucket holds.
    full_ns: u64,
}

impl Pace {
    /// That of so many sources together.
    fn of(rate: Rate, sources: u32) -> Self {
        let sources = u64::from(sources);
        let each_ns = u64::from(rate.per.secs()) * 1_000_000_000 / (u64::from(rate.requests) * sources);
        Self { each_ns, full_ns: each_ns * u64::from(rate.burst) * sources }
    }
}

/// What one worker lets each source do.
pub struct Throttle {
    /// Of an address and of a network, by [`Limited`].
    paces: [Option<(Pace, Option<Pace>)>; Limited::COUNT],
    wrong_ids: Option<Pace>,
    ban: Duration,
    exempt: Vec<IpNet>,
    buckets: Buckets,
    /// No ban lasts longer.
    banned_until: Timestamp,
}

impl Throttle {
    /// Of sources that have asked for nothing yet. The key is secret, so that nobody can choose sources that meet in
    /// one place.
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

    /// Holds sources to other limits from now on. What they have used up stays so.
    pub fn set_limits(&mut self, limits: &SourceLimits) {
        let network = |rate| (limits.network_share > 0).then(|| Pace::of(rate, limits.network_share));
        self.paces = limits.rates().map(|rate| rate.map(|rate| (Pace::of(rate, 1), network(rate))));
        self.wrong_ids = limits.wrong_ids.map(|rate| Pace::of(rate, 1));
        self.ban = Duration::from_secs(limits.ban_secs.into());
        self.exempt.clone_from(&limits.exempt);
    }

    /// Whether this source may do this now, and the one that it is in; takes it from what they may.
    pub fn permits(&mut self, now: Timestamp, limited: Limited, ip: IpAddr) -> bool {
        let Some((address, network)) = &self.paces[limited as usize] else { return true };
        let permitted = self.buckets.take(now, Source::address(ip), limited as u8, address)
            && network
                .as_ref()
                .is_none_or(|pace| self.buckets.take(now, Source::network(ip), limited as u8, pace));
        permitted || self.is_exempt(ip)
    }

    /// Whether this address is banned. While no ban is in force it is one comparison.
    #[inline]
    pub fn bans(&self, now: Timestamp, ip: IpAddr) -> bool {
        now < self.banned_until && self.buckets.is_in_use(now, Source::address(ip), BAN)
    }

    /// Notes that a wrong connection id came from this address. True: for that it is banned now.
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

/// The bucket of wrong ids, beside those of [`Limited`].
const WRONG_IDS: u8 = Limited::COUNT as u8;
/// A ban is a bucket too, which is full when the ban ends.
const BAN: u8 = WRONG_IDS + 1;

/// An address or a network, as the table knows it.
#[derive(Clone, Copy, Debug)]
struct Source {
    bits: u64,
    /// Which of both, and of which family.
    of: u8,
}

impl Source {
    /// An address: of IPv6, the /64, of which a host has as many as it likes.
    fn address(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self { bits: ip.to_bits().into(), of: 0 },
            IpAddr::V6(ip) => Self { bits: (ip.to_bits() >> 64) as u64, of: 1 },
        }
    }

    /// The /24 of IPv4, or /48 of IPv6, that an address is in.
    fn network(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self { bits: (ip.to_bits() >> 8).into(), of: 2 },
            IpAddr::V6(ip) => Self { bits: (ip.to_bits() >> 80) as u64, of: 3 },
        }
    }
}

/// The places that a bucket can be in: a line of the cache.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set {
    keys: [u64; THROTTLE_WAYS],
    /// When the bucket of the same place is full, in nanoseconds.
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
        (bytes[8], bytes[9]) = (source.of, kind);
        self.hash.of(&bytes)
    }

    /// When a bucket is full, to be changed.
    fn bucket(&mut self, key: u64) -> &mut u64 {
        let set = &mut self.sets[key as usize % THROTTLE_SETS];
        let at = set.keys.iter().position(|other| *other == key).unwrap_or_else(|| {
            let fullest = (0..THROTTLE_WAYS).min_by_key(|&at| set.full_ns[at]).expect("a set has places");
            (set.keys[fullest], set.full_ns[fullest]) = (key, 0);
            fullest
        });
        &mut set.full_ns[at]
    }

    /// Takes a request from a bucket; false if there is not enough in it.
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

    /// Empties a bucket so that it is full at this moment.
    fn use_until(&mut self, full: Timestamp, source: Source, kind: u8) {
        *self.bucket(self.key(source, kind)) = full.as_micros() * 1_000;
    }

    /// Whether there is a bucket that isn't full.
    fn is_in_use(&self, now: Timestamp, source: Source, kind: u8) -> bool {
        let key = self.key(source, kind);
        let set = &self.sets[key as usize % THROTTLE_SETS];
        (0..THROTTLE_WAYS).any(|at| set.keys[at] == key && set.full_ns[at] > now.as_micros() * 1_000)
    }
}

#[cfg(test)]
mod tests;
