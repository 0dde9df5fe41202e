//! Owns the socket options that no safe crate offers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{c_int, c_void, socklen_t};

use crate::owner::Instruction;
use crate::types::Family;

/// Attaches the steering program to the reuseport group of a socket.
///
/// # Errors
///
/// As `setsockopt(2)`: a kernel without classic BPF for reuseport, or a seccomp filter.
pub fn attach_steering(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
    const _: () = assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Removes the steering program from the reuseport group of a socket, if it has one.
pub fn detach_steering(socket: impl AsFd) {
    let _ = set_option::<c_int>(socket.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, &0);
}

/// Makes the kernel deliver the local destination address with each datagram.
///
/// # Errors
///
/// As `setsockopt(2)`.
pub fn deliver_local_address(socket: impl AsFd, family: Family) -> io::Result<()> {
    let (level, name) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    set_option::<c_int>(socket.as_fd(), level, name, &1)
}

/// Limits the unsent bytes that the kernel buffers for a TCP connection. Connections inherit it from their listener.
///
/// # Errors
///
/// As `setsockopt(2)`.
pub fn bound_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &bytes)
}

/// Makes a socket bound to port 0 get its port when it connects. Then only the pair of source and target must be
/// unused, not the port itself.
///
/// # Errors
///
/// As `setsockopt(2)`.
pub fn choose_port_late(socket: impl AsFd) -> io::Result<()> {
    set_option::<c_int>(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1)
}

/// Makes the kernel split what is sent from a UDP socket into datagrams of `bytes` bytes.
///
/// # Errors
///
/// As `setsockopt(2)`.
pub fn send_in_segments(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &bytes)
}

/// Sets the size of a socket's receive buffer, beyond `net.core.rmem_max` if permitted. Returns the resulting size.
///
/// # Errors
///
/// As `setsockopt(2)`.
pub fn set_receive_buffer(socket: impl AsFd, bytes: usize) -> io::Result<usize> {
    let socket = socket.as_fd();
    // The kernel doubles the number to account for its bookkeeping.
    let half = c_int::try_from(bytes / 2).unwrap_or(c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &half).is_err() {
        set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &half)?;
    }
    get_option::<c_int>(socket, libc::SOL_SOCKET, libc::SO_RCVBUF).map(|size| size as usize)
}

/// Returns the number of datagrams that the kernel has dropped because this socket's receive buffer was full. Counted
/// since the socket's creation, wraps around at 2³².
///
/// # Errors
///
/// As `getsockopt(2)`.
pub fn kernel_drops(socket: impl AsFd) -> io::Result<u32> {
    /// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`, an index into the result of `SO_MEMINFO`.
    const DROPS: usize = 8;
    let numbers = get_option::<[u32; DROPS + 1]>(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok(numbers[DROPS])
}

fn set_option<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let value: *const T = value;
    // SAFETY: the kernel reads `size_of::<T>()` bytes from a reference that is valid during the call. The only option
    // whose value holds a pointer is the steering program, and that points to a slice that outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value.cast::<c_void>(), size_of::<T>() as socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Types for which any bytes are a valid value.
trait Plain: Default {}
impl Plain for c_int {}
impl Plain for [u32; 9] {}

fn get_option<T: Plain>(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as socklen_t;
    let target: *mut T = &mut value;
    // SAFETY: the kernel writes at most `length` bytes into `value`, and any bytes are a valid `T` (`Plain`).
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, target.cast::<c_void>(), &mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
