//! Owns the parameters of a simulation, which the seed decides at the start: size, speed and the rates of faults.

use fastrand::Rng;

use gyre_core::engine::Policy;
use gyre_core::throttle::{Rate, SourceLimits};

/// How a datagram is assigned to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steering {
    InfoHash,
    Chance,
}

/// A probability in thousandths.
pub(crate) type Permille = u16;

/// The parameters of a simulation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) steps: u32,
    pub(crate) workers: usize,
    pub(crate) steering: Steering,
    /// Longest time between two steps.
    pub(crate) step_us: u64,
    pub(crate) policy: Policy,
    pub(crate) window_secs: u32,
    /// Whether the secret of the connection ids is kept over restarts.
    pub(crate) keeps_secret: bool,
    pub(crate) with_middleware: bool,
    pub(crate) limits: SourceLimits,
    pub(crate) clients: usize,
    pub(crate) swarms: usize,
    /// Requests for an info-hash that is used only once, as in a flood.
    pub(crate) unknown_hashes: Permille,
    /// Requests by HTTP.
    pub(crate) http: Permille,
    pub(crate) scrapes: Permille,
    pub(crate) stops: Permille,
    /// Invalid requests.
    pub(crate) junk: Permille,
    pub(crate) network: NetworkFaults,
    pub(crate) faults: Faults,
    /// Pieces per slice of a snapshot.
    pub(crate) slice: usize,
    /// Number of datagrams that fit into a socket.
    pub(crate) socket_room: usize,
}

/// Faults of the network, per datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkFaults {
    pub(crate) lost: Permille,
    pub(crate) repeated: Permille,
    pub(crate) truncated: Permille,
    pub(crate) altered: Permille,
    /// Longest delay.
    pub(crate) delay_us: u64,
}

/// Other faults, per step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) stall: Permille,
    pub(crate) jump: Permille,
    pub(crate) burst: Permille,
    pub(crate) access: Permille,
    pub(crate) snapshot: Permille,
    pub(crate) restart: Permille,
}

/// Draws a rate up to `most`, or 0 in half of the plans, so that other faults are also seen alone.
fn sometimes(rng: &mut Rng, most: Permille) -> Permille {
    if rng.bool() { rng.u16(..=most) } else { 0 }
}

/// Draws an element of a slice.
pub(crate) fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

/// Draws limits per source.
fn limits(rng: &mut Rng) -> SourceLimits {
    let mut rate = || -> Option<Rate> {
        let text = pick(rng, &["", "", "1/s:1", "2/s:5", "10/m:2", "100/s:100"]);
        text.parse().ok()
    };
    let (connects, announces, scrapes, http_requests, wrong_ids) = (rate(), rate(), rate(), rate(), rate());
    SourceLimits {
        connects,
        announces,
        scrapes,
        http_requests,
        wrong_ids,
        ban_secs: pick(rng, &[1, 60]),
        network_share: pick(rng, &[0, 3]),
        ..SourceLimits::default()
    }
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let is_short_of_memory = rng.u8(..8) == 0;
        let table_bytes = match is_short_of_memory {
            true => rng.usize(96..350) << 10,
            false => usize::MAX,
        };
        let policy = Policy {
            announce_interval_secs: pick(rng, &[1, 15, 16, 1_800]),
            min_interval_secs: 900,
            max_peers: pick(rng, &[0, 1, 30, 50, 200]),
            peer_timeout_secs: pick(rng, &[1, 7, 30, 100, 150, 3_825]),
            table_bytes,
        };
        let workers = if rng.u8(..40) == 0 { rng.usize(9..20) } else { rng.usize(1..=6) };
        Self {
            steps: if is_short_of_memory { 6_000 } else { rng.u32(500..3_000) },
            workers,
            steering: if rng.bool() { Steering::InfoHash } else { Steering::Chance },
            step_us: pick(rng, &[2_000, 20_000, 200_000, 2_000_000]),
            policy,
            window_secs: pick(rng, &[10, 60, 120]),
            keeps_secret: rng.u8(..4) > 0,
            with_middleware: rng.u8(..3) == 0,
            limits: if rng.u8(..4) == 0 { limits(rng) } else { SourceLimits::default() },
            clients: pick(rng, &[3, 20, 80, 300]),
            swarms: pick(rng, &[1, 3, 12, 60]),
            unknown_hashes: if is_short_of_memory { 900 } else { sometimes(rng, 100) },
            http: sometimes(rng, 600),
            scrapes: rng.u16(..250),
            stops: rng.u16(..150),
            junk: sometimes(rng, 200),
            network: NetworkFaults {
                lost: sometimes(rng, 150),
                repeated: sometimes(rng, 150),
                truncated: sometimes(rng, 50),
                altered: sometimes(rng, 50),
                delay_us: pick(rng, &[0, 3_000, 100_000, 3_000_000]),
            },
            faults: Faults {
                stall: sometimes(rng, 12),
                jump: sometimes(rng, 4),
                burst: if rng.u8(..6) == 0 { 2 } else { 0 },
                access: sometimes(rng, 10),
                snapshot: sometimes(rng, 20),
                restart: sometimes(rng, 3),
            },
            slice: pick(rng, &[1, 3, 20, 200, 2_048]),
            socket_room: pick(rng, &[8, 500]),
        }
    }
}
