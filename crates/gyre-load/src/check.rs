//! Owns the judgement of replies: what a client may expect of a tracker. Pure.

use gyre::wire::answer::Value;

use crate::measure::Wrong;

/// Peers that are looked at one against the other; more are not wanted by anybody.
const PEERS_MAX: usize = 256;
/// Of so many replies one is searched for a peer that is there twice, which takes longer than all else.
pub(crate) const TWICE_EVERY: u64 = 16;

/// What an announce's peers must fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The asker's packed address, if it is known how the tracker sees it.
    pub(crate) asker: Option<&'a [u8]>,
    pub(crate) num_want: u16,
    /// Search for a peer that is there twice.
    pub(crate) closely: bool,
}

impl Wanted<'_> {
    /// Who wants no peers gets as many as the tracker likes from some, which has been so for long.
    fn is_exceeded(&self, count: usize) -> bool {
        self.num_want > 0 && count > usize::from(self.num_want)
    }
}

/// Judges packed peers of `size` bytes each; returns how many there are.
pub(crate) fn peers(packed: &[u8], size: usize, wanted: Wanted<'_>) -> Result<usize, Wrong> {
    let count = packed.len() / size;
    if !packed.len().is_multiple_of(size) {
        return Err(Wrong::Length);
    }
    if wanted.is_exceeded(count) {
        return Err(Wrong::TooManyPeers);
    }
    if let Some(asker) = wanted.asker
        && asker.len() == size
        && packed.chunks_exact(size).any(|peer| peer == asker)
    {
        return Err(Wrong::Asker);
    }
    if wanted.closely && count <= PEERS_MAX {
        let mut all: arrayvec::ArrayVec<&[u8], PEERS_MAX> = packed.chunks_exact(size).collect();
        all.sort_unstable();
        if all.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Wrong::PeerTwice);
        }
    }
    Ok(count)
}

/// What a right answer has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// A connection id.
    Connection,
    /// So many peers.
    Peers(usize),
    /// So many swarms.
    Swarms(usize),
    /// A failure, and its reason.
    Refused(&'a [u8]),
}

/// What an answer has, or what is wrong with it.
pub(crate) type Judgement<'a> = Result<Answer<'a>, Wrong>;

/// Reads a body. A line end behind it is what some trackers send and all clients skip.
fn read(body: &[u8]) -> Result<Value<'_>, Wrong> {
    Value::parse(body.strip_suffix(b"\r\n").unwrap_or(body)).map_err(|_| Wrong::Malformed)
}

/// Judges the body of an answer to an announce.
pub(crate) fn announce_body<'a>(body: &'a [u8], wanted: Wanted<'_>) -> Judgement<'a> {
    let value = read(body)?;
    if let Some(reason) = value.get("failure reason") {
        return reason.as_bytes().map(Answer::Refused).ok_or(Wrong::Field);
    }
    let interval = value.get("interval").and_then(Value::as_number).ok_or(Wrong::Field)?;
    let v4 = value.get("peers").and_then(Value::as_bytes).ok_or(Wrong::Field)?;
    let v6 = value.get("peers6").map_or(Some(&b""[..]), Value::as_bytes).ok_or(Wrong::Field)?;
    if interval <= 0 {
        return Err(Wrong::Field);
    }
    let count = peers(v4, 6, wanted)? + peers(v6, 18, wanted)?;
    if wanted.is_exceeded(count) { Err(Wrong::TooManyPeers) } else { Ok(Answer::Peers(count)) }
}

/// Judges the body of an answer to a scrape of one swarm, which may be unknown.
pub(crate) fn scrape_body<'a>(body: &'a [u8], info_hash: &[u8; 20]) -> Judgement<'a> {
    let value = read(body)?;
    if let Some(reason) = value.get("failure reason") {
        return reason.as_bytes().map(Answer::Refused).ok_or(Wrong::Field);
    }
    let Some(Value::Dictionary(files)) = value.get("files") else { return Err(Wrong::Field) };
    for (name, swarm) in files {
        let counts =
            ["complete", "downloaded", "incomplete"].map(|key| swarm.get(key).and_then(Value::as_number));
        if *name != info_hash {
            return Err(Wrong::Unasked);
        }
        if counts.iter().any(|count| count.is_none_or(|count| count < 0)) {
            return Err(Wrong::Field);
        }
    }
    Ok(Answer::Swarms(files.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(num_want: u16) -> Wanted<'static> {
        Wanted { asker: Some(b"me\0\0ab"), num_want, closely: true }
    }

    #[test]
    fn peers_are_judged() {
        assert_eq!(peers(b"peer01peer02", 6, wanted(2)), Ok(2));
        assert_eq!(peers(b"", 6, wanted(0)), Ok(0));
        assert_eq!(peers(b"peer01peer0", 6, wanted(2)), Err(Wrong::Length));
        assert_eq!(peers(b"peer01peer02", 6, wanted(1)), Err(Wrong::TooManyPeers));
        assert_eq!(peers(b"peer01me\0\0ab", 6, wanted(2)), Err(Wrong::Asker));
        assert_eq!(peers(b"peer01peer02peer01", 6, wanted(3)), Err(Wrong::PeerTwice));
        assert_eq!(peers(b"peer01peer01", 6, Wanted { closely: false, ..wanted(2) }), Ok(2));
        // Across two peers the asker's bytes are no peer.
        assert_eq!(peers(b"xxxme\0\0abxxx", 6, wanted(2)), Ok(2));
    }

    #[test]
    fn announces_are_judged() {
        let judge = |body: &'static [u8]| announce_body(body, wanted(1));
        assert_eq!(judge(b"d8:intervali1800e5:peers6:peer01e"), Ok(Answer::Peers(1)));
        assert_eq!(judge(b"d8:intervali1800e5:peers0:6:peers618:0123456789abcdefxye"), Ok(Answer::Peers(1)));
        assert_eq!(judge(b"d14:failure reason4:nopee"), Ok(Answer::Refused(b"nope")));
        assert_eq!(judge(b"d8:intervali1800e5:peers0:e\r\n"), Ok(Answer::Peers(0)));
        assert_eq!(judge(b"d8:intervali1800e5:peers0:ei1e"), Err(Wrong::Malformed));
        assert_eq!(judge(b"d8:intervali1800e5:peers6:peer01"), Err(Wrong::Malformed));
        assert_eq!(judge(b"d5:peers6:peer01e"), Err(Wrong::Field));
        assert_eq!(judge(b"d8:intervali0e5:peers6:peer01e"), Err(Wrong::Field));
        assert_eq!(judge(b"d8:intervali1800ee"), Err(Wrong::Field));
        assert_eq!(
            judge(b"d8:intervali1800e5:peers6:peer016:peers618:0123456789abcdefxye"),
            Err(Wrong::TooManyPeers)
        );
    }

    #[test]
    fn scrapes_are_judged() {
        let judge = |body: &'static [u8]| scrape_body(body, b"0123456789abcdefghij");
        let right = b"d5:filesd20:0123456789abcdefghijd8:completei1e10:downloadedi0e10:incompletei2eeee";
        assert_eq!(judge(right), Ok(Answer::Swarms(1)));
        assert_eq!(judge(b"d5:filesdee"), Ok(Answer::Swarms(0)));
        assert_eq!(judge(b"de"), Err(Wrong::Field));
        assert_eq!(judge(b"d5:filesd20:x123456789abcdefghijdeee"), Err(Wrong::Unasked));
        assert_eq!(judge(b"d5:filesd20:0123456789abcdefghijd8:completei-1eeee"), Err(Wrong::Field));
    }
}
