//! Owns the checks of replies: what a client may expect of a tracker. Pure.

use gyre::wire::answer::Value;

use crate::measure::ReplyError;

/// Replies with more peers are not searched for duplicates. No client asks for that many.
const PEERS_MAX: usize = 256;
/// One in this number of replies is searched for duplicate peers, which takes longer than all other checks.
pub(crate) const DUPLICATE_CHECK_EVERY: u64 = 16;

/// What the peers in a reply to an announce must fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// The packed address of the client as the tracker sees it, if that is known.
    pub(crate) own_address: Option<&'a [u8]>,
    pub(crate) num_want: u16,
    /// Whether to search for duplicate peers.
    pub(crate) check_duplicates: bool,
}

impl Expected<'_> {
    /// Returns whether `count` is more than the client wants. Some trackers traditionally send peers to a client that
    /// wants none, so that is not an error.
    fn is_exceeded(&self, count: usize) -> bool {
        self.num_want > 0 && count > usize::from(self.num_want)
    }
}

/// Checks packed peers of `size` bytes each. Returns their number.
pub(crate) fn peers(packed: &[u8], size: usize, expected: Expected<'_>) -> Result<usize, ReplyError> {
    let count = packed.len() / size;
    if !packed.len().is_multiple_of(size) {
        return Err(ReplyError::Length);
    }
    if expected.is_exceeded(count) {
        return Err(ReplyError::TooManyPeers);
    }
    if let Some(own_address) = expected.own_address
        && own_address.len() == size
        && packed.chunks_exact(size).any(|peer| peer == own_address)
    {
        return Err(ReplyError::OwnAddress);
    }
    if expected.check_duplicates && count <= PEERS_MAX {
        let mut all: arrayvec::ArrayVec<&[u8], PEERS_MAX> = packed.chunks_exact(size).collect();
        all.sort_unstable();
        if all.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(ReplyError::DuplicatePeer);
        }
    }
    Ok(count)
}

/// The content of a valid reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// A connection id.
    Connection,
    /// Number of peers.
    Peers(usize),
    /// Number of swarms.
    Swarms(usize),
    /// The reason of a failure.
    Refused(&'a [u8]),
}

/// The content of a reply, or its error.
pub(crate) type CheckedReply<'a> = Result<Answer<'a>, ReplyError>;

/// Parses a body. Some trackers append a line end, which all clients skip.
fn read(body: &[u8]) -> Result<Value<'_>, ReplyError> {
    Value::parse(body.strip_suffix(b"\r\n").unwrap_or(body)).map_err(|_| ReplyError::Malformed)
}

/// Checks the body of a reply to an announce.
pub(crate) fn announce_body<'a>(body: &'a [u8], expected: Expected<'_>) -> CheckedReply<'a> {
    let value = read(body)?;
    if let Some(reason) = value.get("failure reason") {
        return reason.as_bytes().map(Answer::Refused).ok_or(ReplyError::Field);
    }
    let interval = value.get("interval").and_then(Value::as_number).ok_or(ReplyError::Field)?;
    let v4 = value.get("peers").and_then(Value::as_bytes).ok_or(ReplyError::Field)?;
    let v6 = value.get("peers6").map_or(Some(&b""[..]), Value::as_bytes).ok_or(ReplyError::Field)?;
    if interval <= 0 {
        return Err(ReplyError::Field);
    }
    let count = peers(v4, 6, expected)? + peers(v6, 18, expected)?;
    if expected.is_exceeded(count) { Err(ReplyError::TooManyPeers) } else { Ok(Answer::Peers(count)) }
}

/// Checks the body of a reply to a scrape of one swarm, which may be unknown.
pub(crate) fn scrape_body<'a>(body: &'a [u8], info_hash: &[u8; 20]) -> CheckedReply<'a> {
    let value = read(body)?;
    if let Some(reason) = value.get("failure reason") {
        return reason.as_bytes().map(Answer::Refused).ok_or(ReplyError::Field);
    }
    let Some(Value::Dictionary(files)) = value.get("files") else { return Err(ReplyError::Field) };
    for (name, swarm) in files {
        let counts =
            ["complete", "downloaded", "incomplete"].map(|key| swarm.get(key).and_then(Value::as_number));
        if *name != info_hash {
            return Err(ReplyError::Unsolicited);
        }
        if counts.iter().any(|count| count.is_none_or(|count| count < 0)) {
            return Err(ReplyError::Field);
        }
    }
    Ok(Answer::Swarms(files.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(num_want: u16) -> Expected<'static> {
        Expected { own_address: Some(b"me\0\0ab"), num_want, check_duplicates: true }
    }

    #[test]
    fn peers_are_checked() {
        assert_eq!(peers(b"peer01peer02", 6, expected(2)), Ok(2));
        assert_eq!(peers(b"", 6, expected(0)), Ok(0));
        assert_eq!(peers(b"peer01peer0", 6, expected(2)), Err(ReplyError::Length));
        assert_eq!(peers(b"peer01peer02", 6, expected(1)), Err(ReplyError::TooManyPeers));
        assert_eq!(peers(b"peer01me\0\0ab", 6, expected(2)), Err(ReplyError::OwnAddress));
        assert_eq!(peers(b"peer01peer02peer01", 6, expected(3)), Err(ReplyError::DuplicatePeer));
        assert_eq!(peers(b"peer01peer01", 6, Expected { check_duplicates: false, ..expected(2) }), Ok(2));
        // Bytes of the own address that span two peers don't count.
        assert_eq!(peers(b"xxxme\0\0abxxx", 6, expected(2)), Ok(2));
    }

    #[test]
    fn announces_are_checked() {
        let check = |body: &'static [u8]| announce_body(body, expected(1));
        assert_eq!(check(b"d8:intervali1800e5:peers6:peer01e"), Ok(Answer::Peers(1)));
        assert_eq!(check(b"d8:intervali1800e5:peers0:6:peers618:0123456789abcdefxye"), Ok(Answer::Peers(1)));
        assert_eq!(check(b"d14:failure reason4:nopee"), Ok(Answer::Refused(b"nope")));
        assert_eq!(check(b"d8:intervali1800e5:peers0:e\r\n"), Ok(Answer::Peers(0)));
        assert_eq!(check(b"d8:intervali1800e5:peers0:ei1e"), Err(ReplyError::Malformed));
        assert_eq!(check(b"d8:intervali1800e5:peers6:peer01"), Err(ReplyError::Malformed));
        assert_eq!(check(b"d5:peers6:peer01e"), Err(ReplyError::Field));
        assert_eq!(check(b"d8:intervali0e5:peers6:peer01e"), Err(ReplyError::Field));
        assert_eq!(check(b"d8:intervali1800ee"), Err(ReplyError::Field));
        assert_eq!(
            check(b"d8:intervali1800e5:peers6:peer016:peers618:0123456789abcdefxye"),
            Err(ReplyError::TooManyPeers)
        );
    }

    #[test]
    fn scrapes_are_checked() {
        let check = |body: &'static [u8]| scrape_body(body, b"0123456789abcdefghij");
        let right = b"d5:filesd20:0123456789abcdefghijd8:completei1e10:downloadedi0e10:incompletei2eeee";
        assert_eq!(check(right), Ok(Answer::Swarms(1)));
        assert_eq!(check(b"d5:filesdee"), Ok(Answer::Swarms(0)));
        assert_eq!(check(b"de"), Err(ReplyError::Field));
        assert_eq!(check(b"d5:filesd20:x123456789abcdefghijdeee"), Err(ReplyError::Unsolicited));
        assert_eq!(check(b"d5:filesd20:0123456789abcdefghijd8:completei-1eeee"), Err(ReplyError::Field));
    }
}
