//! Owns a second implementation of the UDP protocol (BEP 15), from the side of the client. The checks use it instead of
//! the tracker's own parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use gyre_core::types::{Event, InfoHash, SwarmCounts};

const MAGIC: u64 = 0x0417_2710_1980;

/// An announce as the client means it, by UDP or HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientAnnounce {
    pub(crate) info_hash: InfoHash,
    pub(crate) peer_id: [u8; 20],
    /// Address at which the peer accepts connections.
    pub(crate) peer: SocketAddr,
    pub(crate) event: Event,
    pub(crate) seeder: bool,
    /// Number of peers wanted, if the client says it.
    pub(crate) num_want: Option<u16>,
}

/// A datagram to the tracker, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Datagram {
    Short,
    NoMagic,
    NoAction,
    Connect { transaction: u32 },
    Announce { id: u64, transaction: u32, request: ClientAnnounce, options_are_good: bool },
    Scrape { id: u64, transaction: u32, info_hashes: Vec<InfoHash> },
}

fn read_array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the length was checked")
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(read_array(bytes, at))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(read_array(bytes, at))
}

pub(crate) fn connect(transaction: u32) -> Vec<u8> {
    [&MAGIC.to_be_bytes()[..], &0_u32.to_be_bytes(), &transaction.to_be_bytes()].concat()
}

/// Writes an announce. `num_want` is the value of the field in the datagram.
pub(crate) fn announce(
    id: u64,
    transaction: u32,
    request: &ClientAnnounce,
    num_want: i32,
    options: &[u8],
) -> Vec<u8> {
    let event: u32 = match request.event {
        Event::None => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    };
    let left = u64::from(!request.seeder);
    [
        &id.to_be_bytes()[..],
        &1_u32.to_be_bytes(),
        &transaction.to_be_bytes(),
        &request.info_hash.0,
        &request.peer_id,
        &77_u64.to_be_bytes(),
        &left.to_be_bytes(),
        &78_u64.to_be_bytes(),
        &event.to_be_bytes(),
        &[9; 4], // the address field, which the tracker must ignore
        &[8; 4],
        &num_want.to_be_bytes(),
        &request.peer.port().to_be_bytes(),
        options,
    ]
    .concat()
}

pub(crate) fn scrape(id: u64, transaction: u32, info_hashes: &[InfoHash]) -> Vec<u8> {
    let mut out = [&id.to_be_bytes()[..], &2_u32.to_be_bytes(), &transaction.to_be_bytes()].concat();
    info_hashes.iter().for_each(|hash| out.extend(hash.0));
    out
}

/// Returns whether the options (BEP 41) are well-formed.
fn options_are_good(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        options = match kind {
            0 => return true,
            1 => rest,
            _ => match rest {
                [length, data @ ..] if data.len() >= usize::from(*length) => &data[usize::from(*length)..],
                _ => return false,
            },
        };
    }
    true
}

impl Datagram {
    /// Parses a datagram from this address.
    pub(crate) fn read(bytes: &[u8], from: IpAddr) -> Self {
        if bytes.len() < 16 {
            return Self::Short;
        }
        let (id, action, transaction) = (read_u64(bytes, 0), read_u32(bytes, 8), read_u32(bytes, 12));
        match action {
            0 if id == MAGIC => Self::Connect { transaction },
            0 => Self::NoMagic,
            1 if bytes.len() < 98 => Self::Short,
            1 => {
                let num_want = read_u32(bytes, 92).cast_signed();
                let request = ClientAnnounce {
                    info_hash: InfoHash(read_array(bytes, 16)),
                    peer_id: read_array(bytes, 36),
                    peer: SocketAddr::new(from, u16::from_be_bytes(read_array(bytes, 96))),
                    event: match read_u32(bytes, 80) {
                        1 => Event::Completed,
                        2 => Event::Started,
                        3 => Event::Stopped,
                        _ => Event::None,
                    },
                    seeder: read_u64(bytes, 64) == 0,
                    num_want: (num_want >= 0).then(|| num_want.min(65_535) as u16),
                };
                Self::Announce { id, transaction, request, options_are_good: options_are_good(&bytes[98..]) }
            }
            2 if bytes.len() < 36 => Self::Short,
            2 => {
                let hashes = bytes[16..].as_chunks().0.iter().take(74);
                Self::Scrape { id, transaction, info_hashes: hashes.map(|hash| InfoHash(*hash)).collect() }
            }
            _ => Self::NoAction,
        }
    }
}

/// A reply of the tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Connect { id: u64 },
    Announce { interval_secs: u32, seeders: u32, leechers: u32, peers: Vec<SocketAddr> },
    Scrape { counts: Vec<SwarmCounts> },
    Error { message: String },
}

/// Parses compact peers of one address family.
pub(crate) fn peers(bytes: &[u8], v6: bool) -> Vec<SocketAddr> {
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let chunk = if v6 { 18 } else { 6 };
    assert_eq!(bytes.len() % chunk, 0, "a truncated peer");
    let read = |peer: &[u8]| match v6 {
        false => SocketAddr::new(IpAddr::from(Ipv4Addr::from(read_array::<4>(peer, 0))), port(&peer[4..])),
        true => SocketAddr::new(IpAddr::from(Ipv6Addr::from(read_array::<16>(peer, 0))), port(&peer[16..])),
    };
    bytes.chunks(chunk).map(read).collect()
}

impl Reply {
    /// Parses a reply to this client. Returns it with its transaction id.
    pub(crate) fn read(bytes: &[u8], to: SocketAddr) -> (u32, Self) {
        assert!(bytes.len() >= 8 && bytes.len() <= 1_472, "a reply of {} bytes", bytes.len());
        let transaction = read_u32(bytes, 4);
        let reply = match read_u32(bytes, 0) {
            0 => {
                assert_eq!(bytes.len(), 16, "length of a connect reply");
                Self::Connect { id: read_u64(bytes, 8) }
            }
            1 => Self::Announce {
                interval_secs: read_u32(bytes, 8),
                leechers: read_u32(bytes, 12),
                seeders: read_u32(bytes, 16),
                peers: peers(&bytes[20..], to.is_ipv6()),
            },
            2 => {
                let (entries, rest) = bytes[8..].as_chunks::<12>();
                assert!(rest.is_empty(), "a truncated scrape reply");
                let counts = |entry: &[u8; 12]| SwarmCounts {
                    seeders: read_u32(entry, 0),
                    downloaded: read_u32(entry, 4),
                    leechers: read_u32(entry, 8),
                };
                Self::Scrape { counts: entries.iter().map(counts).collect() }
            }
            3 => Self::Error {
                message: String::from_utf8(bytes[8..].to_vec()).expect("an error message in UTF-8"),
            },
            other => panic!("a reply of action {other}"),
        };
        (transaction, reply)
    }
}
