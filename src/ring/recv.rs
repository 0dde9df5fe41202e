//! Owns the layout of a receive buffer (io_uring_prep_recvmsg_multishot(3)): a header, room for the source address,
//! room for control messages (only for a wildcard address), the payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::engine::Endpoint;
use crate::limits::UDP_REQUEST_MAX_BYTES;

/// `struct io_uring_recvmsg_out`: lengths of name, control messages and payload, and flags, 32 bits each.
const HEADER_BYTES: usize = 16;
/// `struct sockaddr_in6`, the longer one.
const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// `struct cmsghdr`: a length of 64 bits, level and type of 32.
const CONTROL_HEAD_BYTES: usize = size_of::<libc::cmsghdr>();
/// One control message with an `in6_pktinfo` (20 bytes, the longer one), padded to eight bytes.
pub(super) const CONTROL_BYTES: usize = CONTROL_HEAD_BYTES + 24;

const CACHE_LINE: usize = 64;

/// Bytes of a receive buffer: an odd number of cache lines, so that the headers of consecutive buffers fall into
/// different cache sets. With a power of two they would evict each other.
pub(super) const RECEIVE_BYTES: usize =
    ((HEADER_BYTES + NAME_BYTES + CONTROL_BYTES + UDP_REQUEST_MAX_BYTES).div_ceil(CACHE_LINE) | 1)
        * CACHE_LINE;

/// The buffer layout of one socket's datagrams.
pub(super) struct ReceiveLayout {
    header: libc::msghdr,
    control_bytes: usize,
}

impl ReceiveLayout {
    /// Creates the layout. A `wildcard` socket delivers the local address of each datagram.
    pub(super) fn new(wildcard: bool) -> Box<Self> {
        let control_bytes = if wildcard { CONTROL_BYTES } else { 0 };
        let header = libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: NAME_BYTES as libc::socklen_t,
            msg_iov: std::ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: std::ptr::null_mut(),
            msg_controllen: control_bytes,
            msg_flags: 0,
        };
        Box::new(Self { header, control_bytes })
    }

    /// Returns the header that a receive is submitted with. The kernel reads only the two lengths from it.
    pub(super) fn header(&self) -> *const libc::msghdr {
        &self.header
    }

    /// Parses a filled buffer. Returns `None` if the datagram is longer than any request or has no source address.
    #[inline]
    pub(super) fn read<'a>(&self, buffer: &'a [u8], socket: u8) -> Option<(Endpoint, &'a [u8])> {
        let (head, rest) = buffer.split_first_chunk::<HEADER_BYTES>()?;
        let (name, rest) = rest.split_first_chunk::<NAME_BYTES>()?;
        let (control, payload) = rest.split_at_checked(self.control_bytes)?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (control_length, payload_length, flags) = (word(4) as usize, word(8) as usize, word(12));
        if flags & libc::MSG_TRUNC as u32 != 0 || payload_length > UDP_REQUEST_MAX_BYTES {
            return None;
        }
        let source = read_name(name)?;
        let local = read_local_address(&control[..control_length.min(control.len())]);
        Some((Endpoint { source, local, socket }, payload.get(..payload_length)?))
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
#[inline]
fn read_name(name: &[u8; NAME_BYTES]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes([name[0], name[1]]));
    let port = u16::from_be_bytes([name[2], name[3]]);
    let word = |at: usize| [name[at], name[at + 1], name[at + 2], name[at + 3]];
    match family {
        libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(word(4)), port))),
        libc::AF_INET6 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&name[8..24]);
            let scope = u32::from_ne_bytes(word(24));
            Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope)))
        }
        _ => None,
    }
}

/// Reads the local address from the control messages: an `in_pktinfo` or an `in6_pktinfo`.
#[inline]
fn read_local_address(mut control: &[u8]) -> Option<IpAddr> {
    while let Some((head, rest)) = control.split_first_chunk::<CONTROL_HEAD_BYTES>() {
        let number = |at: usize| i32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = usize::from_ne_bytes(*head.first_chunk().expect("the head is longer")); // includes the head
        let data = rest.get(..length.checked_sub(CONTROL_HEAD_BYTES)?)?;
        match (number(8), number(12)) {
            // Interface (4 bytes), local address of the route (4), address in the packet's header (4).
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                return Some(IpAddr::V4(Ipv4Addr::from(*data.get(4..)?.first_chunk::<4>()?)));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                return Some(IpAddr::V6(Ipv6Addr::from(*data.first_chunk::<16>()?)));
            }
            _ => control = rest.get(data.len().next_multiple_of(8)..)?,
        }
    }
    None
}
