//! Owns the fuzzing of bencode. Only canonical bencode may be parsed, and a strict client must be able to read our
//! responses.

#![no_main]

use std::net::IpAddr;

use arbitrary::{Arbitrary, Unstructured};
use gyre_core::types::{InfoHash, PeerId, SwarmCounts};
use gyre_core::wire::answer::{AnnounceResponse, Value, parse_scrape};
use gyre_core::wire::bencode::{AnnounceReply, Form, Peers, put_announce, put_failure, put_scrape};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Reply {
    counts: [u32; 3],
    intervals: [u32; 2],
    external_ip: IpAddr,
    warning: Option<String>,
    v4: Vec<[u8; 6]>,
    v6: Vec<[u8; 18]>,
    ids: Vec<[u8; 20]>,
    form: u8,
    scrape: Vec<(u8, [u32; 3])>,
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Value::parse(bytes) {
        let mut written = Vec::new();
        put(&mut written, &value);
        assert_eq!(written, bytes, "only the canonical form is parsed");
    }
    let _ = AnnounceResponse::parse(bytes);
    let _ = parse_scrape(bytes, InfoHash([b'a'; 20]));
    if let Ok(reply) = Reply::arbitrary(&mut Unstructured::new(bytes)) {
        announce(&reply);
        scrape(&reply);
    }
});

fn put(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Number(number) => out.extend_from_slice(format!("i{number}e").as_bytes()),
        Value::Bytes(bytes) => {
            out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
            out.extend_from_slice(bytes);
        }
        Value::List(values) => {
            out.push(b'l');
            values.iter().for_each(|value| put(out, value));
            out.push(b'e');
        }
        Value::Dictionary(entries) => {
            out.push(b'd');
            for (key, value) in entries {
                put(out, &Value::Bytes(key));
                put(out, value);
            }
            out.push(b'e');
        }
    }
}

fn counts([seeders, leechers, downloaded]: [u32; 3]) -> SwarmCounts {
    SwarmCounts { seeders, leechers, downloaded }
}

fn announce(reply: &Reply) {
    let ids: Vec<PeerId> = reply.ids.iter().map(|id| PeerId(*id)).collect();
    let written = AnnounceReply {
        counts: counts(reply.counts),
        interval_secs: reply.intervals[0],
        min_interval_secs: reply.intervals[1],
        external_ip: reply.external_ip,
        warning: reply.warning.as_deref(),
        peers: Peers { v4: &reply.v4, v6: &reply.v6, v4_ids: &ids, v6_ids: &ids },
        form: [Form::Compact, Form::WithoutIds, Form::WithIds][usize::from(reply.form % 3)],
    };
    let mut out = Vec::new();
    put_announce(&mut out, &written);
    let (peers, peers6) = match written.form {
        Form::Compact => (reply.v4.len(), Some(reply.v6.len()).filter(|peers| *peers > 0)),
        _ => (reply.v4.len() + reply.v6.len(), None),
    };
    let interval_secs = Some(reply.intervals[0].into());
    let expected = AnnounceResponse::Accepted { interval_secs, peers: Some(peers), peers6 };
    assert_eq!(AnnounceResponse::parse(&out), Ok(expected));
    let value = Value::parse(&out).expect("it has been parsed before");
    let text = reply.warning.as_deref().map(str::as_bytes);
    assert_eq!(value.get("warning message").map(|value| value.as_bytes()), text.map(Some));
    let reason = reply.warning.as_deref().unwrap_or_default();
    for is_permanent in [false, true] {
        out.clear();
        put_failure(&mut out, reason, is_permanent);
        assert_eq!(AnnounceResponse::parse(&out), Ok(AnnounceResponse::Refused(reason.to_owned())));
    }
}

fn scrape(reply: &Reply) {
    let mut swarms: Vec<_> =
        reply.scrape.iter().map(|(name, of)| (InfoHash([*name; 20]), counts(*of))).collect();
    let known = swarms.clone();
    let mut out = Vec::new();
    put_scrape(&mut out, &mut swarms);
    for (info_hash, _) in &known {
        let found = parse_scrape(&out, *info_hash).expect("a valid response").expect("the swarm is in it");
        assert!(known.contains(&(*info_hash, found)));
    }
}
