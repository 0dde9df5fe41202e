//! Owns the basic types of the protocol: info-hash, peer id, event, address family, peer address, worker, announce.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The SHA-1 (BEP 3) or truncated SHA-256 (BEP 52) that identifies a swarm: 20 raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoHash(pub [u8; 20]);

impl InfoHash {
    /// Returns the first four bytes as a big-endian number. They decide which worker owns the swarm.
    pub fn head(&self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The 20-byte id that a client chooses for itself (BEP 3, BEP 20).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// Stands for an unknown id. A client that really sends this id is treated as one without an id.
    pub const UNKNOWN: Self = Self([0; 20]);
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// The event of an announce (BEP 3, BEP 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Event {
    /// A regular re-announce.
    #[default]
    None,
    /// The download has just finished.
    Completed,
    /// The first announce.
    Started,
    /// The peer leaves the swarm.
    Stopped,
}

/// The address family of a peer: the one of the packet that it announced with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4: 6 bytes a peer.
    V4,
    /// IPv6: 18 bytes a peer (BEP 7, BEP 15).
    V6,
}

impl Family {
    /// Returns the family of an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Parses a network like `10.0.0.0/8`, or an address, which becomes a network with a single address. `None` if the text
/// is neither. IPv4-mapped IPv6 networks become IPv4 networks.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let network: IpNet = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let mapped = match network {
        IpNet::V4(_) => None,
        IpNet::V6(network) => network.network().to_ipv4_mapped(),
    };
    match mapped {
        // The first 96 bits are the mapping prefix.
        Some(ip) => IpNet::new(ip.into(), network.prefix_len() - 96).ok(),
        None => Some(network),
    }
}

/// Bytes of the port at the end of a compact peer.
pub const PORT_BYTES: usize = 2;
/// Bytes of a compact IPv4 peer: address and port (BEP 23).
pub const PEER_V4_BYTES: usize = 6;
/// Bytes of a compact IPv6 peer: address and port (BEP 7).
pub const PEER_V6_BYTES: usize = 18;

/// A peer's address as it is stored and sent: packed, in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// IPv4 address and port.
    V4([u8; PEER_V4_BYTES]),
    /// IPv6 address and port.
    V6([u8; PEER_V6_BYTES]),
}

impl PeerAddr {
    /// Packs the source address of a request and the port that the request names.
    pub fn new(ip: IpAddr, port: u16) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let mut packed = [0; PEER_V4_BYTES];
                packed[..4].copy_from_slice(&ip.octets());
                packed[4..].copy_from_slice(&port.to_be_bytes());
                Self::V4(packed)
            }
            IpAddr::V6(ip) => {
                let mut packed = [0; PEER_V6_BYTES];
                packed[..16].copy_from_slice(&ip.octets());
                packed[16..].copy_from_slice(&port.to_be_bytes());
                Self::V6(packed)
            }
        }
    }

    /// Unpacks the address.
    pub fn unpack(&self) -> SocketAddr {
        match self {
            Self::V4(packed) => unpack_v4(packed),
            Self::V6(packed) => unpack_v6(packed),
        }
    }

    /// Returns the packed bytes: 6 for IPv4, 18 for IPv6.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(packed) => packed,
            Self::V6(packed) => packed,
        }
    }

    /// Returns the address family.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

/// Unpacks an IPv4 peer.
pub fn unpack_v4(packed: &[u8; PEER_V4_BYTES]) -> SocketAddr {
    let [a, b, c, d, high, low] = *packed;
    SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

/// Unpacks an IPv6 peer.
pub fn unpack_v6(packed: &[u8; PEER_V6_BYTES]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&packed[..16]);
    SocketAddr::from((Ipv6Addr::from(octets), u16::from_be_bytes([packed[16], packed[17]])))
}

/// The counts of a swarm in a scrape (BEP 48).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SwarmCounts {
    /// Number of seeders (`complete`).
    pub seeders: u32,
    /// Number of leechers (`incomplete`).
    pub leechers: u32,
    /// Number of completed downloads (`downloaded`, "snatches").
    pub downloaded: u32,
}

/// A worker's number: its index in `--cores` and in every reuseport group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// Returns the number as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// An announce as the swarm table needs it, from UDP or HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The peer's id.
    pub peer_id: PeerId,
    /// The peer's address, which identifies it within the swarm.
    pub peer: PeerAddr,
    /// The event.
    pub event: Event,
    /// Whether the peer is a seeder: nothing is left to download.
    pub seeder: bool,
    /// Maximum number of peers in the reply, already clamped to the server's limits.
    pub num_want: u16,
    /// Whether the reply includes peer ids. Only HTTP with `compact=0` does (BEP 3).
    pub wants_ids: bool,
}
