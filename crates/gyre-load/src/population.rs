//! Owns whom the load stands for: torrents of different popularity, their peers, and what each does when its turn
//! comes. Pure: the same seed gives the same load.

use std::str::FromStr;

use gyre::types::{Event, InfoHash, PeerId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Gamma, Zipf};

/// Of a thousand announces of peers that are there, so many say that the peer stops. A new one takes its place.
const STOPS_PER_MILLE: u32 = 30;
/// Of a thousand announces of leechers, so many say that the download is complete.
const COMPLETES_PER_MILLE: u32 = 40;
/// A peer that comes for one that is gone has a port so far from that one's.
const NEXT_PORT: u32 = 32_003;
/// The lowest port of a peer.
const FIRST_PORT: u16 = 1_024;
/// Ports that peers have.
const PORTS: u32 = u16::MAX as u32 + 1 - FIRST_PORT as u32;
/// What an announce says is left, of a leecher.
const LEFT_BYTES: u64 = 1 << 30;

/// How peers are spread over torrents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Popularity {
    /// The torrent of rank n has a share proportional to n^-s.
    Zipf(f64),
    /// A peer's torrent is drawn from a gamma distribution of this shape and scale, in per cent of the torrents.
    Gamma(f64, f64),
    /// All torrents are alike.
    Uniform,
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str, what: &str| match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 && number <= 1e6 => Ok(number),
            _ => Err(format!("`{text}` is no {what}: a number above 0 is wanted")),
        };
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("zipf", exponent)) => number(exponent, "exponent").map(Self::Zipf),
            Some(("gamma", parameters)) => {
                let (shape, scale) = parameters.split_once(',').ok_or("write gamma:SHAPE,SCALE")?;
                Ok(Self::Gamma(number(shape, "shape")?, number(scale, "scale")?))
            }
            _ => Err("write uniform, zipf:EXPONENT or gamma:SHAPE,SCALE".to_owned()),
        }
    }
}

impl std::fmt::Display for Popularity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::Gamma(shape, scale) => write!(f, "gamma:{shape},{scale}"),
            Self::Uniform => f.write_str("uniform"),
        }
    }
}

/// Draws a torrent.
enum Sampler {
    Zipf(Zipf<f64>, u32),
    Gamma(Gamma<f64>, u32),
    Uniform(u32),
}

impl Sampler {
    fn new(popularity: Popularity, torrents: u32) -> Self {
        match popularity {
            Popularity::Zipf(exponent) => {
                let zipf = Zipf::new(f64::from(torrents), exponent).expect("a checked exponent");
                Self::Zipf(zipf, torrents)
            }
            Popularity::Gamma(shape, scale) => {
                Self::Gamma(Gamma::new(shape, scale).expect("checked parameters"), torrents)
            }
            Popularity::Uniform => Self::Uniform(torrents),
        }
    }

    fn draw(&self, rng: &mut SmallRng) -> u32 {
        match self {
            Self::Zipf(zipf, torrents) => (zipf.sample(rng) as u32).clamp(1, *torrents) - 1,
            Self::Gamma(gamma, torrents) => {
                let part = gamma.sample(rng).min(100.0) / 100.0;
                (part * f64::from(torrents - 1)) as u32
            }
            Self::Uniform(torrents) => rng.random_range(..*torrents),
        }
    }
}

/// A peer, in eight bytes, as there may be millions.
#[derive(Clone, Copy)]
struct Peer {
    torrent: u32,
    /// How many had its place before it.
    before: u16,
    seeder: bool,
    /// It has announced itself.
    started: bool,
}

/// An announce that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) info_hash: InfoHash,
    pub(crate) peer_id: PeerId,
    pub(crate) port: u16,
    pub(crate) event: Event,
    pub(crate) left: u64,
}

/// The peers of one thread of the generator.
pub(crate) struct Population {
    seed: u64,
    rng: SmallRng,
    sampler: Sampler,
    peers: Vec<Peer>,
    /// Those of a source are every so many, and its next one is:
    cursors: Vec<u32>,
    /// Of the peers that come for one that has stopped, so many are leechers, so that the share of seeders stays.
    new_leechers: f64,
    vanish: f64,
    /// Sources share an address: their peers have different ports.
    one_address: bool,
    number: u32,
}

/// What a population is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Make {
    pub(crate) seed: u64,
    /// Which of the generator's threads it is for.
    pub(crate) thread: u32,
    pub(crate) torrents: u32,
    pub(crate) peers: u32,
    pub(crate) sources: u32,
    pub(crate) seeders: f64,
    /// Share of the announces after which the peer is gone without a word.
    pub(crate) vanish: f64,
    pub(crate) popularity: Popularity,
    pub(crate) one_address: bool,
}

impl Population {
    pub(crate) fn new(make: Make) -> Self {
        let mut rng = SmallRng::seed_from_u64(make.seed.wrapping_add(u64::from(make.thread) << 32));
        let sampler = Sampler::new(make.popularity, make.torrents);
        let peers = (0..make.peers.max(make.sources))
            .map(|_| Peer {
                torrent: sampler.draw(&mut rng),
                before: 0,
                seeder: rng.random_bool(make.seeders),
                started: false,
            })
            .collect();
        let leechers = 1.0 - make.seeders;
        let [stops, completes] =
            [STOPS_PER_MILLE, COMPLETES_PER_MILLE].map(|share| f64::from(share) / 1_000.0);
        let gone = 1.0 + completes / (stops + make.vanish);
        Self {
            seed: make.seed,
            rng,
            sampler,
            peers,
            cursors: (0..make.sources).collect(),
            new_leechers: (leechers * gone).min(1.0),
            vanish: make.vanish,
            one_address: make.one_address,
            number: make.thread,
        }
    }

    /// How many peers there are.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.rng.random_range(..bound)
    }

    /// What the next peer at this source announces.
    pub(crate) fn next(&mut self, source: usize) -> Ask {
        let at = self.advance(source);
        let (roll, peer) = (self.rng.random_range(..1_000_u32), &mut self.peers[at]);
        let stays = 1_000 - STOPS_PER_MILLE;
        let event = match (peer.started, peer.seeder) {
            (false, _) => Event::Started,
            (true, _) if roll >= stays => Event::Stopped,
            (true, false) if roll < COMPLETES_PER_MILLE => Event::Completed,
            (true, _) => Event::None,
        };
        peer.started = true;
        peer.seeder |= event == Event::Completed;
        let ask = self.ask(at, event);
        if event == Event::Stopped || self.vanish > 0.0 && self.rng.random_bool(self.vanish) {
            let torrent = self.sampler.draw(&mut self.rng);
            let seeder = !self.rng.random_bool(self.new_leechers);
            let before = self.peers[at].before.wrapping_add(1);
            self.peers[at] = Peer { torrent, before, seeder, started: false };
        }
        ask
    }

    /// A torrent that somebody at this source is in.
    pub(crate) fn torrent(&mut self, source: usize) -> InfoHash {
        let at = self.advance(source);
        info_hash(self.seed, self.peers[at].torrent)
    }

    fn advance(&mut self, source: usize) -> usize {
        let sources = self.cursors.len() as u32;
        let cursor = &mut self.cursors[source];
        let at = *cursor;
        *cursor = match at + sources {
            next if (next as usize) < self.peers.len() => next,
            _ => source as u32,
        };
        at as usize
    }

    fn ask(&self, at: usize, event: Event) -> Ask {
        let peer = self.peers[at];
        // A peer is known by its address and port: within a source, or among all if they have one address.
        let number = match self.one_address {
            true => (at as u32).wrapping_add(self.number.wrapping_mul(self.peers.len() as u32)),
            false => at as u32 / self.cursors.len() as u32,
        };
        let who = u64::from(self.number) << 48 | u64::from(peer.before) << 32 | at as u64;
        let mut peer_id = *b"-GL0100-............";
        peer_id[8..16].copy_from_slice(&mix(self.seed ^ who).to_be_bytes());
        let number = number.wrapping_add(u32::from(peer.before).wrapping_mul(NEXT_PORT));
        Ask {
            info_hash: info_hash(self.seed, peer.torrent),
            peer_id: PeerId(peer_id),
            port: FIRST_PORT + (number % PORTS) as u16,
            event,
            left: if peer.seeder { 0 } else { LEFT_BYTES },
        }
    }
}

/// The info-hash of a torrent: spread like real ones, and the same in all threads.
pub(crate) fn info_hash(seed: u64, torrent: u32) -> InfoHash {
    let words = [0, 1, 2].map(|word| mix(seed ^ (u64::from(torrent) * 3 + word)).to_be_bytes());
    let mut hash = [0; 20];
    hash.copy_from_slice(&words.as_flattened()[..20]);
    InfoHash(hash)
}

/// A number that looks random (the finalizer of splitmix64, Steele et al. 2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(popularity: Popularity) -> Make {
        Make {
            seed: 1,
            thread: 0,
            torrents: 1_000,
            peers: 40_000,
            sources: 4,
            seeders: 0.75,
            vanish: 0.0,
            popularity,
            one_address: false,
        }
    }

    #[test]
    fn popularities_are_read_as_they_are_written() {
        for text in ["uniform", "zipf:1", "zipf:0.8", "gamma:0.2,100"] {
            assert_eq!(text.parse::<Popularity>().unwrap().to_string(), text);
        }
        for text in
            ["", "zipf", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "gamma:1", "gamma:1,x", "uniform:1"]
        {
            assert!(text.parse::<Popularity>().is_err(), "{text}");
        }
    }

    #[test]
    fn popular_torrents_have_more_peers() {
        let counts = |popularity| {
            let population = Population::new(make(popularity));
            let mut counts = vec![0_u32; 1_000];
            population.peers.iter().for_each(|peer| counts[peer.torrent as usize] += 1);
            counts
        };
        let uniform = counts(Popularity::Uniform);
        assert!(uniform.iter().all(|count| (10..90).contains(count)));
        let zipf = counts(Popularity::Zipf(1.0));
        assert!((4_500..6_200).contains(&zipf[0]), "{}", zipf[0]); // 40,000 / H(1,000) is 5,344
        assert!((2_200..3_200).contains(&zipf[1]) && zipf[999] < 30);
        let gamma = counts(Popularity::Gamma(0.2, 100.0));
        assert!(gamma[0] > 5_000 && gamma[500] < 100, "{} {}", gamma[0], gamma[500]);
    }

    #[test]
    fn peers_start_first_and_the_share_of_seeders_stays() {
        let mut population = Population::new(make(Popularity::Uniform));
        let mut events = [0_u32; 4];
        for round in 0..40 {
            for at in 0..40_000 {
                let ask = population.next(at % 4);
                assert!(round > 0 || ask.event == Event::Started);
                assert!(ask.event != Event::Completed || ask.left == 0);
                events[ask.event as usize] += u32::from(round > 10);
            }
        }
        let seeders = population.peers.iter().filter(|peer| peer.seeder).count();
        assert!((29_000..31_000).contains(&seeders), "{seeders} of 40,000 seed");
        let all: u32 = events.iter().sum();
        let share = |event: Event| f64::from(events[event as usize]) / f64::from(all);
        assert!(
            (0.02..0.04).contains(&share(Event::Stopped)) && (0.02..0.04).contains(&share(Event::Started))
        );
        assert!((0.005..0.02).contains(&share(Event::Completed)));
    }

    #[test]
    fn who_comes_for_one_that_is_gone_is_somebody_else() {
        let alone = Make { peers: 1, sources: 1, vanish: 0.5, ..make(Popularity::Uniform) };
        let mut population = Population::new(alone);
        let asks: Vec<Ask> = (0..1_000).map(|_| population.next(0)).collect();
        let gone = |pair: &&[Ask]| pair[1].event == Event::Started;
        let (vanished, stopped): (Vec<_>, Vec<_>) =
            asks.windows(2).filter(gone).partition(|pair| pair[0].event != Event::Stopped);
        assert!((400..600).contains(&vanished.len()) && stopped.len() > 5, "{}", vanished.len());
        for pair in vanished.iter().chain(&stopped) {
            assert!(pair[0].port != pair[1].port && pair[0].peer_id != pair[1].peer_id, "{pair:?}");
        }
        let same = asks.windows(2).filter(|pair| pair[1].event != Event::Started);
        same.for_each(|pair| assert_eq!((pair[0].port, pair[0].peer_id), (pair[1].port, pair[1].peer_id)));
    }

    #[test]
    fn each_peer_of_a_source_has_a_port_of_its_own_and_loads_repeat() {
        let (mut one, mut other) =
            (Population::new(make(Popularity::Uniform)), Population::new(make(Popularity::Uniform)));
        let asks: Vec<Ask> = (0..10_000).map(|_| one.next(2)).collect();
        let ports: std::collections::HashSet<u16> = asks.iter().map(|ask| ask.port).collect();
        assert_eq!(ports.len(), 10_000);
        assert!(asks.iter().all(|ask| *ask == other.next(2)));
    }
}
