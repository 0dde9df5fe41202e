//! Owns the bench cases for messages between workers in one thread: both ends, without the transfer of cache lines
//! between cores.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use gyre_core::engine::{Endpoint, Mailbox, Message, Post, UdpAnnounce};
use gyre_core::limits::{MESH_QUEUE_MAX, TURN_DATAGRAMS};
use gyre_core::mesh::{Bell, Mesh};
use gyre_core::types::{Announce, Event, PeerAddr, PeerId, WorkerId};

use super::{Amount, Meter, samples};

/// The sending worker.
pub(crate) const HERE: WorkerId = WorkerId(0);
/// The receiving worker.
pub(crate) const THERE: WorkerId = WorkerId(1);

/// Returns the largest message: a UDP announce that another worker forwards.
pub(crate) fn message(number: u32) -> Message {
    let source = SocketAddr::from(([203, 0, 113, 7], 6_881));
    let announce = Announce {
        info_hash: samples::info_hash(1),
        peer_id: PeerId::UNKNOWN,
        peer: PeerAddr::new(source.ip(), source.port()),
        event: Event::None,
        seeder: false,
        num_want: 30,
        wants_ids: false,
    };
    let to = Endpoint { source, local: None, socket: 0 };
    Message::UdpAnnounce(UdpAnnounce { announce, transaction_id: number, interval_secs: 1, to })
}

pub(crate) fn number(message: &Message) -> u32 {
    match message {
        Message::UdpAnnounce(UdpAnnounce { transaction_id, .. }) => *transaction_id,
        other => panic!("unexpected message {other:?}"),
    }
}

/// A bell that does nothing.
struct Silent;

impl Bell for Silent {
    fn ring(&self) {}
}

pub(crate) fn connect<B: Bell + 'static>(bells: &[Arc<B>; 2]) -> [Mesh; 2] {
    let meshes = Mesh::connect(bells).try_into();
    meshes.unwrap_or_else(|_| panic!("one mesh for each bell"))
}

/// Measures one message, the messages of a turn, and a full queue.
pub(crate) fn in_one_thread(meter: &mut impl Meter) {
    let [mut here, mut there] = connect(&[(); 2].map(|()| Arc::new(Silent)));
    meter.measure("mesh/a look at an empty inbox", Amount::One, true, || {
        black_box(&mut there).take().is_none()
    });
    meter.measure("mesh/a hop", Amount::One, Some((HERE, 7)), || {
        here.post(THERE, message(black_box(7))).expect("room");
        here.flush();
        there.take().map(|(from, message)| (from, number(&message)))
    });
    assert!(there.take().is_none(), "each posted message arrives once");
    let turn = TURN_DATAGRAMS as u32;
    meter.measure("mesh/a turn of 128 hops", Amount::Each(TURN_DATAGRAMS), (1..=turn).sum(), || {
        for number in 1..=turn {
            here.post(THERE, message(black_box(number))).expect("room");
        }
        here.flush();
        std::iter::from_fn(|| there.take()).map(|(_, message)| number(&message)).sum::<u32>()
    });
    for _ in 0..MESH_QUEUE_MAX {
        here.post(THERE, message(1)).expect("room");
    }
    meter.measure("mesh/refused by a full queue", Amount::One, Some(7), || {
        here.post(THERE, message(black_box(7))).err().map(|message| number(&message))
    });
}
