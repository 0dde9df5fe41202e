//! Owns the words of the protocol: info-hash, peer id, event, family, address, worker.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The SHA-1 (BEP 3) or truncated SHA-256 (BEP 52) that names a swarm: 20 raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoHash(pub [u8; 20]);

impl InfoHash {
    /// The bytes that decide which worker owns the swarm, as the number that they are on the wire.
    pub fn head(&self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The 20 bytes that a client calls itself (BEP 3, BEP 20).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// Stands for an id that isn't known. (A client that really calls itself so is treated as one without a name.)
    pub const UNKNOWN: Self = Self([0; 20]);
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// What an announce tells about the download (BEP 3, BEP 15).
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

/// The address family of a peer: the one that its packet came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4: 6 bytes a peer.
    V4,
    /// IPv6: 18 bytes a peer (BEP 7, BEP 15).
    V6,
}

impl Family {
    /// The family of an address, an IPv4 address mapped into IPv6 counting as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Reads a network like `10.0.0.0/8`, or an address, which is the network of itself alone; `None`: it is neither. IPv4
/// addresses that are mapped into IPv6 count as what they are.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let network: IpNet = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let mapped = match network {
        IpNet::V4(_) => None,
        IpNet::V6(network) => network.network().to_ipv4_mapped(),
    };
    match mapped {
        // Their first 96 bits say that they are mapped.
        Some(ip) => IpNet::new(ip.into(), network.prefix_len() - 96).ok(),
        None => Some(network),
    }
}

/// Bytes of a port, at the end of a compact peer.
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
    /// Packs the address that a request came from and the port that it names.
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

    /// The address, unpacked.
    pub fn unpack(&self) -> SocketAddr {
        match self {
            Self::V4(packed) => unpack_v4(packed),
            Self::V6(packed) => unpack_v6(packed),
        }
    }

    /// The packed bytes: 6 or 18, by the family.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(packed) => packed,
            Self::V6(packed) => packed,
        }
    }

    /// The address family.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

/// Reads a packed IPv4 peer.
pub fn unpack_v4(packed: &[u8; PEER_V4_BYTES]) -> SocketAddr {
    let [a, b, c, d, high, low] = *packed;
    SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

/// Reads a packed IPv6 peer.
pub fn unpack_v6(packed: &[u8; PEER_V6_BYTES]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&packed[..16]);
    SocketAddr::from((Ipv6Addr::from(octets), u16::from_be_bytes([packed[16], packed[17]])))
}

/// What a swarm counts (BEP 48): the three numbers of a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SwarmCounts {
    /// Peers that have everything (`complete`).
    pub seeders: u32,
    /// Peers that still download (`incomplete`).
    pub leechers: u32,
    /// How many downloads have finished (`downloaded`, "snatches").
    pub downloaded: u32,
}

/// A worker's number: its place in `--cores` and in every reuseport group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// The number as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One announce, whatever wire it came by: all that the swarm table has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Who asks.
    pub peer_id: PeerId,
    /// Where the asker can be reached; its identity within the swarm.
    pub peer: PeerAddr,
    /// What happened.
    pub event: Event,
    /// Nothing is left to download.
    pub seeder: bool,
    /// How many peers the asker gets at most; clamped to the server's limits already.
    pub num_want: u16,
    /// The asker reads the peers' ids: only HTTP has them, with `compact=0` (BEP 3).
    pub wants_ids: bool,
}
