//! Owns the user data of the ring's entries: the operation that a completion belongs to.

/// An operation of the ring. The number is that of a socket, a listener or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A receive of datagrams, with what it waits for first.
    Datagrams(u32),
    /// A response by UDP that failed.
    Reply,
    Cancel,
    Bell,
    Accept(u32),
    /// A receive of a connection.
    Receive(u32),
    /// A send of a connection that needs a completion: it failed, was short or had to wait.
    Send(u32),
    Close,
}

impl Tag {
    /// Returns the 64 bits of user data: the operation above, the number below.
    pub(super) fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Datagrams(socket) => (0, socket),
            Self::Reply => (1, 0),
            Self::Cancel => (2, 0),
            Self::Bell => (3, 0),
            Self::Accept(listener) => (4, listener),
            Self::Receive(connection) => (5, connection),
            Self::Send(connection) => (6, connection),
            Self::Close => (7, 0),
        };
        kind << 32 | u64::from(number)
    }

    /// # Panics
    ///
    /// If it is not the user data of an entry of the ring.
    #[inline]
    pub(super) fn decode(user_data: u64) -> Self {
        let number = user_data as u32;
        match user_data >> 32 {
            0 => Self::Datagrams(number),
            1 => Self::Reply,
            2 => Self::Cancel,
            3 => Self::Bell,
            4 => Self::Accept(number),
            5 => Self::Receive(number),
            6 => Self::Send(number),
            7 => Self::Close,
            _ => unreachable!("user data {user_data:#x} that the ring never submitted"),
        }
    }
}
