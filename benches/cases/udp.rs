//! Owns the bench cases for UDP: parsing requests, and writing responses into the send buffer.

use std::hint::black_box;

use gyre_core::limits::{MAX_SCRAPE_HASHES, UDP_ANNOUNCE_REPLY_BYTES, UDP_REPLY_MAX_BYTES};
use gyre_core::types::{PEER_V4_BYTES, PEER_V6_BYTES, SwarmCounts};
use gyre_core::wire::udp::{
    Announce, Malformed, Request, Scrape, put_announce_head, put_connect, put_error, put_scrape,
};

use super::samples::{self, COUNTS, Crowd, OPTIONS};
use super::{Amount, Meter};

const TRANSACTION: u32 = 0x8f13_dc86;
const CONNECTION: u64 = 0x1122_3344_5566_7788;

/// Measures parsing requests and malformed datagrams.
pub(crate) fn parse(meter: &mut impl Meter) {
    let hashes = samples::scraped().map(|info_hash| info_hash.0);
    let scrape = |swarms| {
        let info_hashes = &hashes[..swarms];
        Request::Scrape(Scrape { connection_id: CONNECTION, transaction_id: TRANSACTION, info_hashes })
    };
    let announce = samples::udp_announce(samples::info_hash(1));
    for (name, request) in [
        ("udp parse/connect", Request::Connect { transaction_id: TRANSACTION }),
        ("udp parse/announce", Request::Announce(announce)),
        (
            "udp parse/announce with options left unread",
            Request::Announce(Announce { options: OPTIONS, ..announce }),
        ),
        ("udp parse/scrape of 1", scrape(1)),
        ("udp parse/scrape of 74", scrape(MAX_SCRAPE_HASHES)),
    ] {
        let datagram = samples::datagram(request);
        let amount = Amount::Bytes(datagram.len());
        meter.measure(name, amount, Ok(request), || Request::parse(black_box(&datagram)));
    }
    let with_options = samples::datagram(Request::Announce(Announce { options: OPTIONS, ..announce }));
    let amount = Amount::Bytes(with_options.len());
    meter.measure("udp parse/announce with its options", amount, Some((16_881, 9)), || {
        let Ok(Request::Announce(announce)) = Request::parse(black_box(&with_options)) else { return None };
        let options = announce.options();
        (!options.malformed).then_some((announce.port, options.url_data.len()))
    });
    let mut magicless = samples::datagram(Request::Connect { transaction_id: TRANSACTION });
    magicless[0] ^= 1;
    let announce = samples::datagram(Request::Announce(announce));
    for (name, junk, error) in [
        ("udp parse/no magic", &magicless[..], Malformed::Magic),
        ("udp parse/an announce cut short", &announce[..97], Malformed::Short),
    ] {
        meter.measure(name, Amount::Bytes(junk.len()), Err(error), || Request::parse(black_box(junk)));
    }
}

/// Measures writing responses.
pub(crate) fn encode(meter: &mut impl Meter) {
    let head = |action: u32| [action.to_be_bytes(), TRANSACTION.to_be_bytes()].concat();
    let expected = [&head(0)[..], &CONNECTION.to_be_bytes()].concat();
    written(meter, "udp encode/connect", &expected, |out| put_connect(out, TRANSACTION, CONNECTION));
    let crowd = Crowd::of(50);
    let announce = |packed: &[u8]| {
        let numbers = [1_800, COUNTS.leechers, COUNTS.seeders].map(u32::to_be_bytes).concat();
        [&head(1)[..], &numbers, packed].concat()
    };
    for (name, packed) in [
        ("udp encode/announce, no peers", &[][..]),
        ("udp encode/announce, 30 peers", &crowd.v4.as_flattened()[..30 * PEER_V4_BYTES]),
        ("udp encode/announce, 50 peers", crowd.v4.as_flattened()),
        ("udp encode/announce, 30 peers of IPv6", &crowd.v6.as_flattened()[..30 * PEER_V6_BYTES]),
    ] {
        written(meter, name, &announce(packed), |out| {
            let end = UDP_ANNOUNCE_REPLY_BYTES + packed.len();
            out[UDP_ANNOUNCE_REPLY_BYTES..end].copy_from_slice(black_box(packed));
            put_announce_head(out, TRANSACTION, 1_800, COUNTS);
            end
        });
    }
    let entry = [COUNTS.seeders, COUNTS.downloaded, COUNTS.leechers].map(u32::to_be_bytes).concat();
    let swarms: [SwarmCounts; MAX_SCRAPE_HASHES] = [COUNTS; MAX_SCRAPE_HASHES];
    for (name, swarms) in [("udp encode/scrape of 1", &swarms[..1]), ("udp encode/scrape of 74", &swarms)] {
        let expected = [head(2), entry.repeat(swarms.len())].concat();
        written(meter, name, &expected, |out| put_scrape(out, TRANSACTION, black_box(swarms)));
    }
    let expected = [&head(3)[..], b"invalid parameter: port"].concat();
    written(meter, "udp encode/error", &expected, |out| {
        put_error(out, TRANSACTION, "invalid parameter: port")
    });
}

/// Measures a function that writes a response into the send buffer and returns its length.
fn written(
    meter: &mut impl Meter,
    name: &str,
    expected: &[u8],
    mut write: impl FnMut(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize,
) {
    let mut out = [0; UDP_REPLY_MAX_BYTES];
    let length = write(&mut out);
    assert_eq!(&out[..length], expected, "{name}");
    meter.measure(name, Amount::Bytes(length), length, || write(black_box(&mut out)));
}
