//! Owns writing the bencoded responses of an HTTP tracker (BEP 3, 7, 23, 24, 31, 48). They are appended to a buffer,
//! with sorted keys.

use std::net::IpAddr;

use crate::types::{InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerId, SwarmCounts, unpack_v4, unpack_v6};

/// The peers of an announce response.
#[derive(Clone, Copy, Debug)]
pub struct Peers<'a> {
    /// Packed IPv4 peers.
    pub v4: &'a [[u8; PEER_V4_BYTES]],
    /// Packed IPv6 peers.
    pub v6: &'a [[u8; PEER_V6_BYTES]],
    /// Ids of the IPv4 peers, as far as known. Only used for [`Form::WithIds`].
    pub v4_ids: &'a [PeerId],
    /// Ids of the IPv6 peers, as far as known. Only used for [`Form::WithIds`].
    pub v6_ids: &'a [PeerId],
}

/// The form of the peers in an announce response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Strings of packed addresses, one for each family (BEP 23, BEP 7).
    Compact,
    /// A list of dictionaries with ip and port (`no_peer_id=1`).
    WithoutIds,
    /// A list of dictionaries with ip, peer id (if known) and port (BEP 3).
    WithIds,
}

/// The content of an announce response.
#[derive(Clone, Copy, Debug)]
pub struct AnnounceReply<'a> {
    /// The swarm's counts.
    pub counts: SwarmCounts,
    /// Seconds until the next announce.
    pub interval_secs: u32,
    /// Minimum seconds until the next announce.
    pub min_interval_secs: u32,
    /// Source address of the request (BEP 24).
    pub external_ip: IpAddr,
    /// A warning message for the user.
    pub warning: Option<&'a str>,
    /// The peers.
    pub peers: Peers<'a>,
    /// The form of the peers.
    pub form: Form,
}

/// Writes an announce response. `peers` is always present, and `peers6` if there are IPv6 peers.
pub fn put_announce(out: &mut Vec<u8>, reply: &AnnounceReply<'_>) {
    out.push(b'd');
    put_key_number(out, b"8:complete", reply.counts.seeders);
    put_key_number(out, b"10:downloaded", reply.counts.downloaded);
    out.extend_from_slice(b"11:external ip");
    match reply.external_ip {
        IpAddr::V4(ip) => put_bytes(out, &ip.octets()),
        IpAddr::V6(ip) => put_bytes(out, &ip.octets()),
    }
    put_key_number(out, b"10:incomplete", reply.counts.leechers);
    put_key_number(out, b"8:interval", reply.interval_secs);
    put_key_number(out, b"12:min interval", reply.min_interval_secs);
    out.extend_from_slice(b"5:peers");
    let Peers { v4, v6, v4_ids, v6_ids } = reply.peers;
    if reply.form == Form::Compact {
        put_bytes(out, v4.as_flattened());
        if !v6.is_empty() {
            out.extend_from_slice(b"6:peers6");
            put_bytes(out, v6.as_flattened());
        }
    } else {
        out.push(b'l');
        let known = |ids: &[PeerId], at: usize| ids.get(at).copied().unwrap_or(PeerId::UNKNOWN);
        let v4 = v4.iter().enumerate().map(|(at, peer)| (unpack_v4(peer), known(v4_ids, at)));
        let v6 = v6.iter().enumerate().map(|(at, peer)| (unpack_v6(peer), known(v6_ids, at)));
        for (address, id) in v4.chain(v6) {
            out.extend_from_slice(b"d2:ip");
            let (mut text, ip) = (arrayvec::ArrayString::<45>::new(), address.ip());
            std::fmt::Write::write_fmt(&mut text, format_args!("{ip}"))
                .expect("an address has at most 45 characters");
            put_bytes(out, text.as_bytes());
            if reply.form == Form::WithIds && id != PeerId::UNKNOWN {
                out.extend_from_slice(b"7:peer id");
                put_bytes(out, &id.0);
            }
            put_key_number(out, b"4:port", address.port().into());
            out.push(b'e');
        }
        out.push(b'e');
    }
    if let Some(warning) = reply.warning {
        out.extend_from_slice(b"15:warning message");
        put_bytes(out, warning.as_bytes());
    }
    out.push(b'e');
}

/// Writes a scrape response (BEP 48). Sorts the swarms, which are the keys of the dictionary, and writes each one once.
pub fn put_scrape(out: &mut Vec<u8>, swarms: &mut [(InfoHash, SwarmCounts)]) {
    swarms.sort_unstable_by_key(|(info_hash, _)| *info_hash);
    out.extend_from_slice(SCRAPE_BEGIN);
    let mut last = None;
    for (info_hash, counts) in swarms {
        if last == Some(*info_hash) {
            continue;
        }
        last = Some(*info_hash);
        put_scrape_entry(out, info_hash, counts);
    }
    out.extend_from_slice(SCRAPE_END);
}

/// The start of a scrape response.
pub const SCRAPE_BEGIN: &[u8] = b"d5:filesd";
/// The end of a scrape response.
pub const SCRAPE_END: &[u8] = b"ee";

/// Writes the entry of one swarm in a scrape response.
pub fn put_scrape_entry(out: &mut Vec<u8>, info_hash: &InfoHash, counts: &SwarmCounts) {
    put_bytes(out, &info_hash.0);
    put_key_number(out, b"d8:complete", counts.seeders);
    put_key_number(out, b"10:downloaded", counts.downloaded);
    put_key_number(out, b"10:incomplete", counts.leechers);
    out.push(b'e');
}

/// Writes a failure response (BEP 3). If `is_permanent` is set, it tells the client never to retry (BEP 31).
pub fn put_failure(out: &mut Vec<u8>, reason: &str, is_permanent: bool) {
    out.extend_from_slice(b"d14:failure reason");
    put_bytes(out, reason.as_bytes());
    out.extend_from_slice(if is_permanent { b"8:retry in5:nevere".as_slice() } else { b"e" });
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(itoa::Buffer::new().format(bytes.len()).as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, number: u32) {
    out.push(b'i');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.push(b'e');
}

fn put_key_number(out: &mut Vec<u8>, key: &[u8], number: u32) {
    out.extend_from_slice(key);
    put_number(out, number);
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: SwarmCounts = SwarmCounts { seeders: 3, leechers: 12, downloaded: 45 };

    fn announce(v4: &[[u8; 6]], v6: &[[u8; 18]], form: Form) -> String {
        let ids: Vec<PeerId> = (0..v4.len() + v6.len()).map(|n| PeerId([b'a' + n as u8; 20])).collect();
        let mut out = Vec::new();
        put_announce(
            &mut out,
            &AnnounceReply {
                counts: COUNTS,
                interval_secs: 1800,
                min_interval_secs: 900,
                external_ip: IpAddr::from([49, 50, 51, 52]),
                warning: None,
                peers: Peers { v4, v6, v4_ids: &ids[..v4.len()], v6_ids: &ids[v4.len()..] },
                form,
            },
        );
        String::from_utf8(out).unwrap()
    }

    const HEAD: &str = "d8:completei3e10:downloadedi45e11:external ip4:123410:incompletei12e8:intervali1800e\
        12:min intervali900e";

    #[test]
    fn announce_responses_have_every_form() {
        assert_eq!(announce(&[], &[], Form::Compact), format!("{HEAD}5:peers0:e"));
        assert_eq!(
            announce(&[*b"abcdef", *b"ghijkl"], &[], Form::Compact),
            format!("{HEAD}5:peers12:abcdefghijkle")
        );
        assert_eq!(
            announce(&[], &[*b"abcdefghijklmnopqr"], Form::Compact),
            format!("{HEAD}5:peers0:6:peers618:abcdefghijklmnopqre")
        );
        assert_eq!(announce(&[], &[], Form::WithIds), format!("{HEAD}5:peersle") + "e");
        let mut v6 = [0; 18];
        v6[15] = 1;
        v6[17] = 80;
        assert_eq!(
            announce(&[[10, 0, 0, 1, 0x1a, 0xe1]], &[v6], Form::WithIds),
            format!(
                "{HEAD}5:peersld2:ip8:10.0.0.17:peer id20:{}4:porti6881eed2:ip3:::17:peer id20:{}4:porti80eeee",
                "a".repeat(20),
                "b".repeat(20)
            )
        );
        assert_eq!(
            announce(&[[10, 0, 0, 1, 0x1a, 0xe1]], &[v6], Form::WithoutIds),
            format!("{HEAD}5:peersld2:ip8:10.0.0.14:porti6881eed2:ip3:::14:porti80eeee")
        );
    }

    #[test]
    fn scrape_responses_have_sorted_unique_keys() {
        let mut out = Vec::new();
        let (a, b) = (InfoHash([b'a'; 20]), InfoHash([b'b'; 20]));
        put_scrape(&mut out, &mut [(b, SwarmCounts::default()), (a, COUNTS), (b, SwarmCounts::default())]);
        let expected = format!(
            "d5:filesd20:{}d8:completei3e10:downloadedi45e10:incompletei12ee\
             20:{}d8:completei0e10:downloadedi0e10:incompletei0eeee",
            "a".repeat(20),
            "b".repeat(20)
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn permanent_failures_tell_clients_not_to_retry() {
        let mut out = Vec::new();
        put_failure(&mut out, "no", true);
        assert_eq!(out, b"d14:failure reason2:no8:retry in5:nevere");
        out.clear();
        put_failure(&mut out, "later", false);
        assert_eq!(out, b"d14:failure reason5:latere");
    }
}
