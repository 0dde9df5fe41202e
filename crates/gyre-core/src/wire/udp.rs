//! Owns reading and writing the requests and responses of the UDP tracker protocol: BEP 15 with the options of BEP 41.
//!
//! All numbers are in network byte order. Parsing borrows from the datagram and does not allocate. A response is
//! written directly into the send buffer.

use arrayvec::ArrayVec;

use crate::limits::{
    MAX_FAILURE_BYTES, MAX_SCRAPE_HASHES, MAX_URL_DATA_BYTES, UDP_ANNOUNCE_BYTES, UDP_CONNECT_BYTES,
    UDP_CONNECT_REPLY_BYTES, UDP_REPLY_HEAD_BYTES, UDP_SCRAPE_ENTRY_BYTES,
};
use crate::types::{Event, InfoHash, PeerId, SwarmCounts};

/// The first eight bytes of a connect request (BEP 15, "magic constant").
pub const PROTOCOL_ID: u64 = 0x0417_2710_1980;

const ACTION_CONNECT: u32 = 0;
const ACTION_ANNOUNCE: u32 = 1;
const ACTION_SCRAPE: u32 = 2;
const ACTION_ERROR: u32 = 3;

/// Why a datagram is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Too short for its kind of message.
    Short,
    /// A connect request without BEP 15's magic constant.
    Magic,
    /// An unknown action.
    Action,
}

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Requests a connection id.
    Connect {
        /// Chosen by the client, and returned unchanged.
        transaction_id: u32,
    },
    /// Enters, renews or leaves a swarm and requests peers.
    Announce(Announce<'a>),
    /// Requests the counts of swarms.
    Scrape(Scrape<'a>),
}

/// An announce request with the values of the datagram. The deprecated `ip` field is ignored, because it could be used
/// to attack third parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce<'a> {
    /// The id from the connect response.
    pub connection_id: u64,
    /// Chosen by the client, and returned unchanged.
    pub transaction_id: u32,
    /// The swarm.
    pub info_hash: InfoHash,
    /// The client's peer id.
    pub peer_id: PeerId,
    /// Bytes downloaded since `started`.
    pub downloaded: u64,
    /// Bytes left to download, 0 for a seeder.
    pub left: u64,
    /// Bytes uploaded since `started`.
    pub uploaded: u64,
    /// The event. Numbers not in BEP 15 are [`Event::None`].
    pub event: Event,
    /// A random number of the client, which identifies it when its address changes.
    pub key: u32,
    /// Number of peers wanted. Negative: the tracker's default.
    pub num_want: i32,
    /// The port on which the client listens. 0 is invalid.
    pub port: u16,
    /// The bytes after the fixed fields: options (BEP 41).
    pub options: &'a [u8],
}

/// A scrape request with the values of the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrape<'a> {
    /// The id from the connect response.
    pub connection_id: u64,
    /// Chosen by the client, and returned unchanged.
    pub transaction_id: u32,
    /// One to [`MAX_SCRAPE_HASHES`] info-hashes. More are cut off, but the ring does not receive longer datagrams.
    pub info_hashes: &'a [[u8; 20]],
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at)) << 32) | u64::from(u32_at(bytes, at + 4))
}

fn hash_at<const N: usize>(bytes: &[u8; N], at: usize) -> [u8; 20] {
    let mut hash = [0; 20];
    hash.copy_from_slice(&bytes[at..at + 20]);
    hash
}

impl<'a> Request<'a> {
    /// Parses a datagram from a client.
    ///
    /// # Errors
    ///
    /// [`Malformed`], if it is not a valid request.
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let Some(head) = datagram.first_chunk::<UDP_CONNECT_BYTES>() else {
            return Err(Malformed::Short);
        };
        let transaction_id = u32_at(head, 12);
        match u32_at(head, 8) {
            ACTION_CONNECT if u64_at(head, 0) == PROTOCOL_ID => Ok(Self::Connect { transaction_id }),
            ACTION_CONNECT => Err(Malformed::Magic),
            ACTION_ANNOUNCE => Announce::parse(datagram).map(Self::Announce),
            ACTION_SCRAPE => {
                let (info_hashes, _) = datagram[UDP_CONNECT_BYTES..].as_chunks::<20>();
                if info_hashes.is_empty() {
                    return Err(Malformed::Short);
                }
                let info_hashes = &info_hashes[..info_hashes.len().min(MAX_SCRAPE_HASHES)];
                Ok(Self::Scrape(Scrape { connection_id: u64_at(head, 0), transaction_id, info_hashes }))
            }
            _ => Err(Malformed::Action),
        }
    }

    /// Writes the request to `out`, whose content is replaced.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Connect { transaction_id } => {
                out.extend_from_slice(&PROTOCOL_ID.to_be_bytes());
                out.extend_from_slice(&ACTION_CONNECT.to_be_bytes());
                out.extend_from_slice(&transaction_id.to_be_bytes());
            }
            Self::Announce(announce) => announce.encode(out),
            Self::Scrape(scrape) => {
                out.extend_from_slice(&scrape.connection_id.to_be_bytes());
                out.extend_from_slice(&ACTION_SCRAPE.to_be_bytes());
                out.extend_from_slice(&scrape.transaction_id.to_be_bytes());
                scrape.info_hashes.iter().for_each(|hash| out.extend_from_slice(hash));
            }
        }
    }
}

// Offsets in an announce: connection id 0, action 8, transaction id 12, info-hash 16, peer id 36, downloaded 56, left
// 64, uploaded 72, event 80, ip 84, key 88, num_want 92, port 96, options 98.
impl<'a> Announce<'a> {
    fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let Some((fixed, options)) = datagram.split_first_chunk::<UDP_ANNOUNCE_BYTES>() else {
            return Err(Malformed::Short);
        };
        Ok(Self {
            connection_id: u64_at(fixed, 0),
            transaction_id: u32_at(fixed, 12),
            info_hash: InfoHash(hash_at(fixed, 16)),
            peer_id: PeerId(hash_at(fixed, 36)),
            downloaded: u64_at(fixed, 56),
            left: u64_at(fixed, 64),
            uploaded: u64_at(fixed, 72),
            event: match u32_at(fixed, 80) {
                1 => Event::Completed,
                2 => Event::Started,
                3 => Event::Stopped,
                _ => Event::None,
            },
            key: u32_at(fixed, 88),
            num_want: u32_at(fixed, 92) as i32,
            port: u16::from_be_bytes([fixed[96], fixed[97]]),
            options,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.connection_id.to_be_bytes());
        out.extend_from_slice(&ACTION_ANNOUNCE.to_be_bytes());
        out.extend_from_slice(&self.transaction_id.to_be_bytes());
        out.extend_from_slice(&self.info_hash.0);
        out.extend_from_slice(&self.peer_id.0);
        out.extend_from_slice(&self.downloaded.to_be_bytes());
        out.extend_from_slice(&self.left.to_be_bytes());
        out.extend_from_slice(&self.uploaded.to_be_bytes());
        let event: u32 = match self.event {
            Event::None => 0,
            Event::Completed => 1,
            Event::Started => 2,
            Event::Stopped => 3,
        };
        out.extend_from_slice(&event.to_be_bytes());
        out.extend_from_slice(&[0; 4]); // ip
        out.extend_from_slice(&self.key.to_be_bytes());
        out.extend_from_slice(&self.num_want.to_be_bytes());
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(self.options);
    }

    /// Returns the number of peers wanted, or `None` for the tracker's default.
    pub fn num_want(&self) -> Option<u16> {
        u16::try_from(self.num_want.clamp(-1, u16::MAX.into())).ok()
    }

    /// Parses the options (BEP 41).
    pub fn options(&self) -> Options {
        Options::parse(self.options)
    }
}

/// The options of an announce (BEP 41).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The path and query of the tracker's URL: all URLData options joined in order.
    pub url_data: ArrayVec<u8, MAX_URL_DATA_BYTES>,
    /// Whether an option exceeds the datagram, or the URL exceeds [`MAX_URL_DATA_BYTES`]. The options before it are
    /// valid.
    pub malformed: bool,
}

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_URL_DATA: u8 = 2;

impl Options {
    /// Returns the URL's path and query if the options have nothing else and it is in one option, as clients send it.
    pub fn only_url_data(bytes: &[u8]) -> Option<&[u8]> {
        match *bytes {
            [] => Some(&[]),
            [OPTION_URL_DATA, length, ref rest @ ..] => {
                let (data, rest) = rest.split_at_checked(usize::from(length))?;
                matches!(rest, [] | [OPTION_END, ..]).then_some(data)
            }
            _ => None,
        }
    }

    /// Parses the bytes after the fixed fields of an announce. Unknown options are skipped by their length.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut options = Self::default();
        options.malformed = !walk(bytes, |data| options.url_data.try_extend_from_slice(data).is_ok());
        options
    }

    /// Returns whether the options are malformed, without copying the URL.
    #[inline]
    pub fn are_malformed(bytes: &[u8]) -> bool {
        let mut room = MAX_URL_DATA_BYTES;
        let has_room = |data: &[u8]| {
            let left = room.checked_sub(data.len());
            room = left.unwrap_or(0);
            left.is_some()
        };
        !walk(bytes, has_room)
    }
}

/// Passes each part of the URL to `take` until it returns false. Returns false if it did, or if the options are
/// malformed.
#[inline]
fn walk(mut bytes: &[u8], mut take: impl FnMut(&[u8]) -> bool) -> bool {
    loop {
        bytes = match *bytes {
            [] | [OPTION_END, ..] => return true,
            [OPTION_NOP, ref rest @ ..] => rest,
            [kind, length, ref rest @ ..] => match rest.split_at_checked(usize::from(length)) {
                Some((data, rest)) if kind != OPTION_URL_DATA || take(data) => rest,
                _ => return false,
            },
            _ => return false,
        };
    }
}

fn put_head(out: &mut [u8], action: u32, transaction_id: u32) {
    out[..4].copy_from_slice(&action.to_be_bytes());
    out[4..8].copy_from_slice(&transaction_id.to_be_bytes());
}

/// Writes a connect response. Returns its length.
pub fn put_connect(out: &mut [u8], transaction_id: u32, connection_id: u64) -> usize {
    put_head(out, ACTION_CONNECT, transaction_id);
    out[8..16].copy_from_slice(&connection_id.to_be_bytes());
    UDP_CONNECT_REPLY_BYTES
}

/// Writes the head of an announce response. The packed peers belong at `out[UDP_ANNOUNCE_REPLY_BYTES..]`.
pub fn put_announce_head(out: &mut [u8], transaction_id: u32, interval_secs: u32, counts: SwarmCounts) {
    put_head(out, ACTION_ANNOUNCE, transaction_id);
    out[8..12].copy_from_slice(&interval_secs.to_be_bytes());
    out[12..16].copy_from_slice(&counts.leechers.to_be_bytes());
    out[16..20].copy_from_slice(&counts.seeders.to_be_bytes());
}

/// Writes a scrape response. Returns its length.
pub fn put_scrape(out: &mut [u8], transaction_id: u32, swarms: &[SwarmCounts]) -> usize {
    put_head(out, ACTION_SCRAPE, transaction_id);
    let (entries, _) = out[UDP_REPLY_HEAD_BYTES..].as_chunks_mut::<UDP_SCRAPE_ENTRY_BYTES>();
    for (entry, counts) in entries[..swarms.len()].iter_mut().zip(swarms) {
        entry[..4].copy_from_slice(&counts.seeders.to_be_bytes());
        entry[4..8].copy_from_slice(&counts.downloaded.to_be_bytes());
        entry[8..].copy_from_slice(&counts.leechers.to_be_bytes());
    }
    UDP_REPLY_HEAD_BYTES + swarms.len() * UDP_SCRAPE_ENTRY_BYTES
}

/// Writes an error response. Returns its length. A message longer than [`MAX_FAILURE_BYTES`] is truncated.
pub fn put_error(out: &mut [u8], transaction_id: u32, message: &str) -> usize {
    put_head(out, ACTION_ERROR, transaction_id);
    let message = &message.as_bytes()[..message.len().min(MAX_FAILURE_BYTES)];
    let end = UDP_REPLY_HEAD_BYTES + message.len();
    out[UDP_REPLY_HEAD_BYTES..end].copy_from_slice(message);
    end
}

/// A response of a tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// The response to a connect.
    Connect {
        /// The transaction id of the request.
        transaction_id: u32,
        /// The id for later requests.
        connection_id: u64,
    },
    /// The response to an announce.
    Announce {
        /// The transaction id of the request.
        transaction_id: u32,
        /// Seconds until the next announce.
        interval_secs: u32,
        /// Number of leechers.
        leechers: u32,
        /// Number of seeders.
        seeders: u32,
        /// Packed peers: 6 bytes each over IPv4, 18 over IPv6.
        peers: &'a [u8],
    },
    /// The response to a scrape.
    Scrape {
        /// The transaction id of the request.
        transaction_id: u32,
        /// Entries for each info-hash, read with [`scrape_counts`].
        entries: &'a [[u8; UDP_SCRAPE_ENTRY_BYTES]],
    },
    /// An error.
    Error {
        /// The transaction id of the request.
        transaction_id: u32,
        /// The message for the user.
        message: &'a [u8],
    },
}

impl<'a> Response<'a> {
    /// Parses a datagram from a tracker.
    ///
    /// # Errors
    ///
    /// [`Malformed`], if it is not a valid response.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let Some((head, content)) = datagram.split_first_chunk::<UDP_REPLY_HEAD_BYTES>() else {
            return Err(Malformed::Short);
        };
        let transaction_id = u32_at(head, 4);
        match u32_at(head, 0) {
            ACTION_CONNECT => {
                let id = content.first_chunk::<8>().ok_or(Malformed::Short)?;
                Ok(Self::Connect { transaction_id, connection_id: u64::from_be_bytes(*id) })
            }
            ACTION_ANNOUNCE => {
                let (numbers, peers) = content.split_first_chunk::<12>().ok_or(Malformed::Short)?;
                Ok(Self::Announce {
                    transaction_id,
                    interval_secs: u32_at(numbers, 0),
                    leechers: u32_at(numbers, 4),
                    seeders: u32_at(numbers, 8),
                    peers,
                })
            }
            ACTION_SCRAPE => Ok(Self::Scrape { transaction_id, entries: content.as_chunks().0 }),
            ACTION_ERROR => Ok(Self::Error { transaction_id, message: content }),
            _ => Err(Malformed::Action),
        }
    }
}

impl Response<'_> {
    /// Returns the transaction id of the request.
    pub fn transaction_id(&self) -> u32 {
        match *self {
            Self::Connect { transaction_id, .. }
            | Self::Announce { transaction_id, .. }
            | Self::Scrape { transaction_id, .. }
            | Self::Error { transaction_id, .. } => transaction_id,
        }
    }
}

/// Unpacks an entry of a scrape response: seeders, downloaded, leechers.
pub fn scrape_counts(entry: &[u8; UDP_SCRAPE_ENTRY_BYTES]) -> SwarmCounts {
    SwarmCounts { seeders: u32_at(entry, 0), downloaded: u32_at(entry, 4), leechers: u32_at(entry, 8) }
}

#[cfg(test)]
mod tests;
