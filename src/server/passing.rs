//! Owns the protocol between a tracker and the one that takes over from it: messages over a Unix socket, some of them
//! with file descriptors.
//!
//! ```text
//!  new tracker                               old tracker
//!  Hello ───────────────────────────────────►
//!        ◄─────────────────────────────────── Welcome, Descriptors ...   (or Refused)
//!  Save ────────────────────────────────────►                            options, cores and lists are read
//!        ◄─────────────────────────────────── Saved                      a snapshot is written
//!  Serving ─────────────────────────────────►                            all new workers serve
//!        ◄─────────────────────────────────── end of the connection      late changes are written
//! ```
//!
//! Before `Serving`, nothing changes for the old tracker.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::limits::{HANDOVER_ANSWER_MS, HANDOVER_DESCRIPTORS, HANDOVER_MESSAGE_BYTES};

/// Version of the protocol.
pub(super) const VERSION: u32 = 1;
/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 4;

/// A message. It is sent as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The new tracker wants to take over, with this version of the protocol.
    Hello { version: u32 },
    /// The old tracker refuses, with the reason.
    Refused { reason: String },
    /// What the new tracker takes over.
    Welcome(Welcome),
    /// Some of the descriptors.
    Descriptors,
    /// The new tracker is ready for a snapshot.
    Save,
    /// The snapshot is written.
    Saved,
    /// The new tracker serves.
    Serving,
}

/// Description of the old tracker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) workers: usize,
    /// Key of the rule that assigns swarms to workers.
    pub(super) owner_key: [u32; 3],
    /// The current time by which its connection ids expire, in microseconds since 1970.
    pub(super) unix_micros: u64,
    /// Number of descriptors: the lock, the socket of this protocol, and all serving sockets, worker by worker.
    pub(super) descriptors: usize,
}

/// One end of the connection.
pub(super) struct Channel(Socket);

impl Channel {
    /// Creates the socket at which the old tracker waits for a new one. Only the user of the tracker can connect.
    pub(super) fn listen(path: &Path) -> io::Result<Socket> {
        use std::os::unix::fs::PermissionsExt;
        let address = SockAddr::unix(path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        listener.bind(&address)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    pub(super) fn accept(listener: &Socket) -> io::Result<Self> {
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(false)?;
        Self::over(socket)
    }

    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        Self::over(socket)
    }

    fn over(socket: Socket) -> io::Result<Self> {
        socket.set_write_timeout(Some(Duration::from_millis(HANDOVER_ANSWER_MS)))?;
        Ok(Self(socket))
    }

    /// Returns the process id of the peer, and whether it runs as the same user or as root.
    pub(super) fn peer(&self) -> io::Result<(i32, bool)> {
        let peer = socket_peercred(&self.0)?;
        let may = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
        Ok((peer.pid.as_raw_pid(), may))
    }

    pub(super) fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HANDOVER_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives the next message. Waits for at most `at_most`.
    pub(super) fn receive(&self, at_most: Duration) -> io::Result<(Message, Vec<OwnedFd>)> {
        self.0.set_read_timeout(Some(at_most))?;
        let mut bytes = [0; HANDOVER_MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HANDOVER_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let received = received.map_err(io::Error::from).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => io::Error::from(ErrorKind::TimedOut),
            _ => error,
        })?;
        if received.bytes == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other side has closed the connection"));
        }
        let whole = !received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        let message = serde_json::from_slice(&bytes[..received.bytes]).ok().filter(|_| whole);
        let message = message.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "not a valid message"))?;
        Ok((message, descriptors))
    }
}

/// Returns the error for a message that is not expected now.
pub(super) fn unexpected(message: &Message) -> io::Error {
    match message {
        Message::Refused { reason } => io::Error::other(reason.clone()),
        other => io::Error::new(ErrorKind::InvalidData, format!("unexpected message {other:?}")),
    }
}
