//! Owns the reply slots. A slot holds everything that the kernel reads while a reply is submitted.

use std::net::{IpAddr, SocketAddr};
use std::ptr;

use io_uring::{opcode, squeue, types};

use super::recv::CONTROL_BYTES;
use super::tag::Tag;
use crate::engine::Endpoint;
use crate::limits::{REPLY_SLOTS, UDP_REPLY_MAX_BYTES};

/// A reply is sent during submission or fails. A failure raises no signal.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A reply: payload, destination, and for a wildcard address its source address. Aligned to cache lines.
#[repr(C, align(64))]
pub(super) struct ReplySlot {
    payload: [u8; UDP_REPLY_MAX_BYTES],
    name: Name,
    control: [u8; CONTROL_BYTES],
    vector: libc::iovec,
    header: libc::msghdr,
}

/// A socket address in the kernel's form.
#[repr(C, align(8))]
struct Name {
    bytes: [u8; size_of::<libc::sockaddr_in6>()],
    length: u32,
}

impl Name {
    fn set(&mut self, address: &SocketAddr) {
        let (family, length) = match address {
            SocketAddr::V4(_) => (libc::AF_INET, size_of::<libc::sockaddr_in>()),
            SocketAddr::V6(_) => (libc::AF_INET6, size_of::<libc::sockaddr_in6>()),
        };
        self.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        self.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                self.bytes[4..8].copy_from_slice(&address.ip().octets());
                self.bytes[8..16].fill(0);
            }
            SocketAddr::V6(address) => {
                self.bytes[4..8].fill(0); // flow label
                self.bytes[8..24].copy_from_slice(&address.ip().octets());
                self.bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
            }
        }
        self.length = length as u32;
    }
}

impl ReplySlot {
    /// Returns the buffer that the response is written to.
    pub(super) fn payload(&mut self) -> &mut [u8; UDP_REPLY_MAX_BYTES] {
        &mut self.payload
    }

    /// Sets the destination and returns the entry that sends the first `length` bytes of the payload. A `connected`
    /// socket sends to the address it is connected to.
    #[inline]
    pub(super) fn address(&mut self, to: &Endpoint, length: usize, connected: bool) -> squeue::Entry {
        assert!(length <= UDP_REPLY_MAX_BYTES, "a reply of {length} bytes");
        let socket = types::Fixed(to.socket.into());
        let send = opcode::Send::new(socket, self.payload.as_ptr(), length as u32).flags(SEND_FLAGS);
        self.name.set(&to.source);
        let entry = match to.local {
            None if connected => send.build(),
            None => send.dest_addr(self.name.bytes.as_ptr().cast()).dest_addr_len(self.name.length).build(),
            Some(local) => {
                let control_length = self.set_control(local);
                self.vector = libc::iovec { iov_base: self.payload.as_mut_ptr().cast(), iov_len: length };
                self.header = libc::msghdr {
                    msg_name: self.name.bytes.as_mut_ptr().cast(),
                    msg_namelen: self.name.length,
                    msg_iov: &mut self.vector,
                    msg_iovlen: 1,
                    msg_control: self.control.as_mut_ptr().cast(),
                    msg_controllen: control_length,
                    msg_flags: 0,
                };
                opcode::SendMsg::new(socket, &self.header).flags(SEND_FLAGS as u32).build()
            }
        };
        entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::Reply.encode())
    }

    /// Writes the control message that sets the source address. Returns its length.
    fn set_control(&mut self, local: IpAddr) -> usize {
        const HEAD: usize = size_of::<libc::cmsghdr>();
        let (level, kind, data) = match local {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
        };
        self.control.fill(0); // interface 0: the route decides
        self.control[..8].copy_from_slice(&(HEAD + data).to_ne_bytes());
        self.control[8..12].copy_from_slice(&level.to_ne_bytes());
        self.control[12..16].copy_from_slice(&kind.to_ne_bytes());
        match local {
            IpAddr::V4(ip) => self.control[HEAD + 4..HEAD + 8].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => self.control[HEAD..HEAD + 16].copy_from_slice(&ip.octets()),
        }
        HEAD + data.next_multiple_of(8)
    }
}

/// The slots. They are used from the first to the last, and all become free again when a submission is complete, so
/// that the first ones stay in the cache.
pub(super) struct ReplySlots {
    slots: Box<[ReplySlot]>,
    used: usize,
}

impl ReplySlots {
    pub(super) fn new() -> Self {
        let empty = || ReplySlot {
            payload: [0; UDP_REPLY_MAX_BYTES],
            name: Name { bytes: [0; size_of::<libc::sockaddr_in6>()], length: 0 },
            control: [0; CONTROL_BYTES],
            vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            header: libc::msghdr {
                msg_name: ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: ptr::null_mut(),
                msg_iovlen: 0,
                msg_control: ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
        };
        Self { slots: (0..REPLY_SLOTS).map(|_| empty()).collect(), used: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.used == self.slots.len()
    }

    /// Returns the next free slot.
    #[inline]
    pub(super) fn next(&mut self) -> Option<&mut ReplySlot> {
        self.slots.get_mut(self.used)
    }

    /// Marks the next slot as used: its entry is queued.
    pub(super) fn use_next(&mut self) {
        self.used += 1;
    }

    /// Marks all slots as free if the kernel has taken all queued entries.
    pub(super) fn free_if(&mut self, all_taken: bool) {
        if all_taken {
            self.used = 0;
        }
    }
}
