//! Owns the sample data of the benches: requests of real clients with their parsed values, and lists of peers for
//! responses.

use std::net::IpAddr;
use std::sync::LazyLock;

use gyre_core::limits::MAX_SCRAPE_HASHES;
use gyre_core::types::{Event, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId, SwarmCounts};
use gyre_core::wire::bencode::{AnnounceReply, Form, Peers};
use gyre_core::wire::http::{Framing, Method, Request};
use gyre_core::wire::query::AnnounceQuery;
use gyre_core::wire::udp;

/// The counts of a swarm.
pub(crate) const COUNTS: SwarmCounts = SwarmCounts { seeders: 1_234, leechers: 345, downloaded: 98_765 };

/// The query of an HTTP announce of libtorrent 2.0.8, recorded on loopback.
pub(crate) const LIBTORRENT_QUERY: &str = "info_hash=%a0%a3%a3u!%d5%1b%9a%ed%c3%cfE%0d*%a8%ac%d8P%22%a2\
    &peer_id=-LT2080-eJ5X023rJcKB&port=16891&uploaded=0&downloaded=0&left=100000&corrupt=0&key=64C2061F&event=started\
    &numwant=200&compact=1&no_peer_id=1&supportcrypto=1&redundant=0";
/// The header fields of the same announce.
const LIBTORRENT_FIELDS: &str = "Host: 127.0.0.1:9124\r\nUser-Agent: libtorrent/2.0.8.0\r\n\
    Accept-Encoding: gzip\r\nConnection: close\r\n";
/// The header fields of a browser that follows a link to the tracker.
const BROWSER_FIELDS: &str = "Host: tracker.example:6969\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: http://tracker.example/torrents?page=12&sort=seeders\r\nDNT: 1\r\nSec-GPC: 1\r\nConnection: keep-alive\r\n\
    Cookie: session=4b8f4c0d5f2e4d2f9d3f2a7c61d0b7aa; theme=dark; seen=1763660000\r\n\
    Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-site\r\nSec-Fetch-User: ?1\r\nPriority: u=0, i\r\nPragma: no-cache\r\n\
    Cache-Control: no-cache\r\n";

/// Returns the parsed [`LIBTORRENT_QUERY`].
pub(crate) fn libtorrent_query() -> AnnounceQuery {
    AnnounceQuery {
        info_hash: InfoHash(*b"\xa0\xa3\xa3u!\xd5\x1b\x9a\xed\xc3\xcfE\x0d*\xa8\xac\xd8P\x22\xa2"),
        peer_id: PeerId(*b"-LT2080-eJ5X023rJcKB"),
        port: 16_891,
        uploaded: 0,
        downloaded: 0,
        left: Some(100_000),
        event: Event::Started,
        num_want: Some(200),
        compact: true,
        no_peer_id: true,
    }
}

/// Returns the head of a libtorrent request.
pub(crate) fn libtorrent_head(path: &str, query: &str) -> String {
    format!("GET {path}?{query} HTTP/1.1\r\n{LIBTORRENT_FIELDS}\r\n")
}

/// Returns the head of a browser's request, with 18 fields.
pub(crate) fn browser_head() -> String {
    format!("GET /announce?{LIBTORRENT_QUERY} HTTP/1.1\r\n{BROWSER_FIELDS}\r\n")
}

/// The URL of both heads.
static ANNOUNCE_URL: LazyLock<String> = LazyLock::new(|| format!("/announce?{LIBTORRENT_QUERY}"));

/// Returns the parsed request of both heads.
pub(crate) fn announce_request(keep_alive: bool) -> Request<'static> {
    Request {
        method: Method::Get,
        url: ANNOUNCE_URL.as_str(),
        path: "/announce",
        query: LIBTORRENT_QUERY,
        http_10: false,
        keep_alive,
        framing: Framing::Length(0),
        expects_continue: false,
    }
}

/// Returns the info-hash of swarm number `swarm`.
pub(crate) fn info_hash(swarm: u32) -> InfoHash {
    let mut info_hash = [0; 20];
    info_hash[..8].copy_from_slice(&(u64::from(swarm) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    InfoHash(info_hash)
}

/// Returns the info-hashes of the largest scrape.
pub(crate) fn scraped() -> [InfoHash; MAX_SCRAPE_HASHES] {
    std::array::from_fn(|swarm| info_hash(swarm as u32))
}

/// Returns the query of a scrape of these swarms, with all bytes of the hashes escaped.
pub(crate) fn scrape_query(swarms: &[InfoHash]) -> String {
    let pairs: Vec<String> = swarms.iter().map(|swarm| format!("info_hash={}", escaped(swarm))).collect();
    pairs.join("&")
}

fn escaped(info_hash: &InfoHash) -> String {
    info_hash.0.map(|byte| format!("%{byte:02x}")).concat()
}

/// Returns libtorrent's query for another swarm.
pub(crate) fn announce_query(swarm: &InfoHash) -> String {
    let (_, others) = LIBTORRENT_QUERY.split_once('&').expect("several parameters");
    format!("info_hash={}&{others}", escaped(swarm))
}

/// Returns a UDP announce of libtorrent.
pub(crate) fn udp_announce(swarm: InfoHash) -> udp::Announce<'static> {
    udp::Announce {
        connection_id: 0x1122_3344_5566_7788,
        transaction_id: 0x8f13_dc86,
        info_hash: swarm,
        peer_id: PeerId(*b"-LT2080-qiOSG(X.YjMb"),
        downloaded: 0,
        left: 100_000,
        uploaded: 0,
        event: Event::Started,
        key: 0xa26e_a3eb,
        num_want: 200,
        port: 16_881,
        options: &[],
    }
}

/// The BEP 41 options of libtorrent: the path of the tracker's URL.
pub(crate) const OPTIONS: &[u8] = b"\x02\x09/announce";

/// Encodes a request.
pub(crate) fn datagram(request: udp::Request<'_>) -> Vec<u8> {
    let mut datagram = Vec::new();
    request.encode(&mut datagram);
    datagram
}

/// Peers of both families for responses.
pub(crate) struct Crowd {
    pub(crate) v4: Vec<[u8; PEER_V4_BYTES]>,
    pub(crate) v6: Vec<[u8; PEER_V6_BYTES]>,
    pub(crate) ids: Vec<PeerId>,
}

impl Crowd {
    /// Creates `peers` peers of each family.
    pub(crate) fn of(peers: u8) -> Self {
        let (mut v4, mut v6, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..peers {
            let PeerAddr::V4(packed) = PeerAddr::new([203, 0, 113, number].into(), 6_881) else {
                unreachable!("an IPv4 address")
            };
            v4.push(packed);
            let ip = [0x2001, 0xdb8, 0, 0, 0, 0xff, u16::from(number) << 8, 0x1234];
            let PeerAddr::V6(packed) = PeerAddr::new(ip.into(), 51_413) else {
                unreachable!("an IPv6 address")
            };
            v6.push(packed);
            let mut id = *b"-TR4060-0123456789ab";
            id[19] = number;
            ids.push(PeerId(id));
        }
        Self { v4, v6, ids }
    }

    /// Returns an announce response with this many peers of each family.
    pub(crate) fn reply(&self, v4: usize, v6: usize, form: Form) -> AnnounceReply<'_> {
        AnnounceReply {
            counts: COUNTS,
            interval_secs: 1_800,
            min_interval_secs: 900,
            external_ip: IpAddr::from([198, 51, 100, 7]),
            warning: None,
            peers: Peers {
                v4: &self.v4[..v4],
                v6: &self.v6[..v6],
                v4_ids: &self.ids[..v4],
                v6_ids: &self.ids[..v6],
            },
            form,
        }
    }
}
