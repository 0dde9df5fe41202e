//! Owns the simulated clients: torrents of different popularity, their peers, and the next announce of each peer. Pure:
//! the same seed gives the same load.

use std::str::FromStr;

use gyre::types::{Event, InfoHash, PeerId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Gamma, Zipf};

/// Number of stops per 1,000 announces of started peers. A new peer takes the place of a stopped one.
const STOPS_PER_MILLE: u32 = 30;
/// Number of completions per 1,000 announces of leechers.
const COMPLETES_PER_MILLE: u32 = 40;
/// Distance between the ports of a peer and the peer that replaces it.
const NEXT_PORT: u32 = 32_003;
/// The lowest port of a peer.
const FIRST_PORT: u16 = 1_024;
/// Number of ports that peers use.
const PORTS: u32 = u16::MAX as u32 + 1 - FIRST_PORT as u32;
/// `left` in the announce of a leecher.
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
            _ => Err(format!("invalid {what} `{text}`: must be a number above 0 and at most 1000000")),
        };
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("zipf", exponent)) => number(exponent, "exponent").map(Self::Zipf),
            Some(("gamma", parameters)) => {
                let (shape, scale) = parameters.split_once(',').ok_or("must be gamma:SHAPE,SCALE")?;
                Ok(Self::Gamma(number(shape, "shape")?, number(scale, "scale")?))
            }
            _ => Err("must be uniform, zipf:EXPONENT or gamma:SHAPE,SCALE".to_owned()),
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

/// The distribution that torrents are drawn from.
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

/// A peer, in eight bytes, since there may be millions.
#[derive(Clone, Copy)]
struct Peer {
    torrent: u32,
    /// Number of peers that had this place before.
    predecessors: u16,
    seeder: bool,
    /// Whether it has announced itself.
    started: bool,
}

/// The parameters of an announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnnounceParams {
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
    /// Index of the next peer of each source. The peers of source `n` have the indices `n`, `n + sources` and so on.
    cursors: Vec<u32>,
    /// Share of leechers among replacements, chosen so that the overall share of seeders stays the same.
    new_leechers: f64,
    vanish: f64,
    /// Whether all sources share an address. Then their peers have different ports.
    one_address: bool,
    number: u32,
}

/// The parameters of a population.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PopulationConfig {
    pub(crate) seed: u64,
    /// Number of the generator's thread.
    pub(crate) thread: u32,
    pub(crate) torrents: u32,
    pub(crate) peers: u32,
    pub(crate) sources: u32,
    pub(crate) seeders: f64,
    /// Share of the announces after which the peer disappears without a stop.
    pub(crate) vanish: f64,
    pub(crate) popularity: Popularity,
    pub(crate) one_address: bool,
}

impl Population {
    pub(crate) fn new(config: PopulationConfig) -> Self {
        let mut rng = SmallRng::seed_from_u64(config.seed.wrapping_add(u64::from(config.thread) << 32));
        let sampler = Sampler::new(config.popularity, config.torrents);
        let peers = (0..config.peers.max(config.sources))
            .map(|_| Peer {
                torrent: sampler.draw(&mut rng),
                predecessors: 0,
                seeder: rng.random_bool(config.seeders),
                started: false,
            })
            .collect();
        let leechers = 1.0 - config.seeders;
        let [stops, completes] =
            [STOPS_PER_MILLE, COMPLETES_PER_MILLE].map(|share| f64::from(share) / 1_000.0);
        let correction = 1.0 + completes / (stops + config.vanish);
        Self {
            seed: config.seed,
            rng,
            sampler,
            peers,
            cursors: (0..config.sources).collect(),
            new_leechers: (leechers * correction).min(1.0),
            vanish: config.vanish,
            one_address: config.one_address,
            number: config.thread,
        }
    }

    /// Returns the number of peers.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Returns a random number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.rng.random_range(..bound)
    }

    /// Returns the announce of the next peer at this source.
    pub(crate) fn next(&mut self, source: usize) -> AnnounceParams {
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
        let params = self.params(at, event);
        if event == Event::Stopped || self.vanish > 0.0 && self.rng.random_bool(self.vanish) {
            let torrent = self.sampler.draw(&mut self.rng);
            let seeder = !self.rng.random_bool(self.new_leechers);
            let predecessors = self.peers[at].predecessors.wrapping_add(1);
            self.peers[at] = Peer { torrent, predecessors, seeder, started: false };
        }
        params
    }

    /// Returns the torrent of the next peer at this source.
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

    fn params(&self, at: usize, event: Event) -> AnnounceParams {
        let peer = self.peers[at];
        // The tracker tells peers apart by address and port, so these differ within a source, or among all sources.
        let number = match self.one_address {
            true => (at as u32).wrapping_add(self.number.wrapping_mul(self.peers.len() as u32)),
            false => at as u32 / self.cursors.len() as u32,
        };
        let identity = u64::from(self.number) << 48 | u64::from(peer.predecessors) << 32 | at as u64;
        let mut peer_id = *b"-GL0100-............";
        peer_id[8..16].copy_from_slice(&mix(self.seed ^ identity).to_be_bytes());
        let number = number.wrapping_add(u32::from(peer.predecessors).wrapping_mul(NEXT_PORT));
        AnnounceParams {
            info_hash: info_hash(self.seed, peer.torrent),
            peer_id: PeerId(peer_id),
            port: FIRST_PORT + (number % PORTS) as u16,
            event,
            left: if peer.seeder { 0 } else { LEFT_BYTES },
        }
    }
}

/// Returns the info-hash of a torrent: distributed like real ones, the same in all threads.
pub(crate) fn info_hash(seed: u64, torrent: u32) -> InfoHash {
    let words = [0, 1, 2].map(|word| mix(seed ^ (u64::from(torrent) * 3 + word)).to_be_bytes());
    let mut hash = [0; 20];
    hash.copy_from_slice(&words.as_flattened()[..20]);
    InfoHash(hash)
}

/// Scrambles a number (the finalizer of splitmix64, Steele et al. 2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(popularity: Popularity) -> PopulationConfig {
        PopulationConfig {
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
    fn popularities_parse_and_print() {
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
            let population = Population::new(config(popularity));
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
    fn peers_start_first_and_the_share_of_seeders_stays_constant() {
        let mut population = Population::new(config(Popularity::Uniform));
        let mut events = [0_u32; 4];
        for round in 0..40 {
            for at in 0..40_000 {
                let params = population.next(at % 4);
                assert!(round > 0 || params.event == Event::Started);
                assert!(params.event != Event::Completed || params.left == 0);
                events[params.event as usize] += u32::from(round > 10);
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
    fn a_replacement_has_another_port_and_peer_id() {
        let alone = PopulationConfig { peers: 1, sources: 1, vanish: 0.5, ..config(Popularity::Uniform) };
        let mut population = Population::new(alone);
        let announces: Vec<AnnounceParams> = (0..1_000).map(|_| population.next(0)).collect();
        let replaced = |pair: &&[AnnounceParams]| pair[1].event == Event::Started;
        let (vanished, stopped): (Vec<_>, Vec<_>) =
            announces.windows(2).filter(replaced).partition(|pair| pair[0].event != Event::Stopped);
        assert!((400..600).contains(&vanished.len()) && stopped.len() > 5, "{}", vanished.len());
        for pair in vanished.iter().chain(&stopped) {
            assert!(pair[0].port != pair[1].port && pair[0].peer_id != pair[1].peer_id, "{pair:?}");
        }
        let same = announces.windows(2).filter(|pair| pair[1].event != Event::Started);
        same.for_each(|pair| assert_eq!((pair[0].port, pair[0].peer_id), (pair[1].port, pair[1].peer_id)));
    }

    #[test]
    fn peers_of_a_source_have_different_ports_and_a_seed_repeats_its_load() {
        let (mut one, mut other) =
            (Population::new(config(Popularity::Uniform)), Population::new(config(Popularity::Uniform)));
        let announces: Vec<AnnounceParams> = (0..10_000).map(|_| one.next(2)).collect();
        let ports: std::collections::HashSet<u16> = announces.iter().map(|params| params.port).collect();
        assert_eq!(ports.len(), 10_000);
        assert!(announces.iter().all(|params| *params == other.next(2)));
    }
}
