//! Owns the cases for announces to the swarm table, singly or with lookahead as in the engine.

use fastrand::Rng;
use gyre_core::limits::LOOK_AHEAD;
use gyre_core::swarm::{Lookahead, PeerSink, Shard};
use gyre_core::time::Timestamp;
use gyre_core::types::{Announce, Event, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId};

use crate::MANY;
use crate::cases::samples;

const SWARMS: u32 = 40;
const PEERS: u32 = 1_000;
const WANTED: u16 = 30;

/// Returns the announce with this number.
type Nth = fn(u32, &mut Rng) -> Announce;

/// Returns the announces of a case, and the number of peers in each reply.
fn case(name: &str) -> Option<(Nth, usize)> {
    Some(match name {
        "table/refresh, swarm of 2" => (small, 1),
        "table/refresh, swarm of 1,000" | "table/refresh ahead, swarm of 1,000" => (refresh, 30),
        "table/new, new swarm" => (|number, _| announce(10_000 + number, 1, Event::Started), 0),
        "table/new, swarm of 1,000" => {
            (|number, _| announce(number % SWARMS, PEERS + number, Event::Started), 30)
        }
        "table/stop, swarm of 1,000" => {
            (|number, _| announce(number % SWARMS, number / SWARMS, Event::Stopped), 0)
        }
        "table/complete, swarm of 1,000" => {
            (|number, _| announce(number % SWARMS, number / SWARMS / 4 * 4, Event::Completed), 30)
        }
        _ => return None,
    })
}

fn small(number: u32, _: &mut Rng) -> Announce {
    announce(1_000 + number % 500, number / 7 % 2, Event::None)
}

fn refresh(_: u32, rng: &mut Rng) -> Announce {
    announce(rng.u32(..SWARMS), rng.u32(..PEERS), Event::None)
}

fn announce(swarm: u32, peer: u32, event: Event) -> Announce {
    Announce {
        info_hash: samples::info_hash(swarm),
        peer_id: PeerId::UNKNOWN,
        peer: PeerAddr::new((peer + 0x0a00_0000).to_be_bytes().into(), 6881),
        event,
        seeder: !peer.is_multiple_of(4) || event == Event::Completed,
        num_want: WANTED,
        wants_ids: false,
    }
}

/// Fills a table with [`SWARMS`] swarms of [`PEERS`] peers and 500 swarms of two, and announces `times` times. Returns
/// false if there is no case with this name.
pub(crate) fn repeat(name: &str, times: usize) -> bool {
    let Some((nth, given)) = case(name) else { return false };
    let (mut shard, mut rng) = (Shard::new([7; 16], 3_825, usize::MAX), Rng::with_seed(2));
    let mut reply = Reply { bytes: [0; 1_500], length: 0 };
    let now = Timestamp::from_secs(1);
    let large = (0..SWARMS).flat_map(|swarm| (0..PEERS).map(move |peer| (swarm, peer)));
    let small = (0..500).flat_map(|swarm| (0..2).map(move |peer| (1_000 + swarm, peer)));
    for (swarm, peer) in large.chain(small) {
        let entering = Announce { num_want: 0, ..announce(swarm, peer, Event::Started) };
        shard.announce(now, &entering, &mut rng, &mut reply);
    }
    let mut drawn = Rng::with_seed(1);
    let announces: Vec<Announce> =
        (0..times.max(MANY) as u32).map(|number| nth(number, &mut drawn)).collect();
    let (mut peers, is_ahead) = (0, name.contains("ahead"));
    for turn in announces[..times].chunks(LOOK_AHEAD) {
        let mut ahead = [Lookahead::default(); LOOK_AHEAD];
        if is_ahead {
            shard.look_ahead::<Reply>(&turn.iter(), &mut rng, &mut ahead);
        }
        for (announce, ahead) in turn.iter().zip(&ahead) {
            reply.length = 0;
            match is_ahead {
                true => shard.announce_prefetched(now, announce, ahead, &mut reply),
                false => shard.announce(now, announce, &mut rng, &mut reply),
            };
            peers += reply.length / PEER_V4_BYTES;
        }
    }
    assert_eq!(peers, times * given, "{name}: {given} peers in each reply");
    true
}

/// Writes packed peers into a reply, as the engine does.
struct Reply {
    bytes: [u8; 1_500],
    length: usize,
}

impl PeerSink for Reply {
    const BOTH_FAMILIES: bool = false;

    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], _: &[[u8; 20]]) {
        let packed = peers.as_flattened();
        self.bytes[self.length..self.length + packed.len()].copy_from_slice(packed);
        self.length += packed.len();
    }

    fn v6(&mut self, _: &[[u8; PEER_V6_BYTES]], _: &[[u8; 20]]) {}
}
