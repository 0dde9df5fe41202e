//! Owns the fuzzing of query strings, those of announces and scrapes and those of forms: a second, plain reading finds
//! the same.

#![no_main]

use std::collections::BTreeMap;

use gyre_core::limits::{MAX_SCRAPE_HASHES, UDP_V4_PEERS};
use gyre_core::types::Event;
use gyre_core::wire::query::{AnnounceQuery, QueryError, ScrapeQuery, parameter};
use gyre_web::query::Query;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode;

fuzz_target!(|bytes: &[u8]| {
    let pairs: Vec<(&[u8], &[u8])> = bytes.split(|byte| *byte == b'&').map(split).collect();
    check_announce(bytes, &pairs);
    check_scrape(bytes, &pairs);
    let Ok(text) = str::from_utf8(bytes) else { return };
    for name in ["info_hash", "passkey", ""] {
        let found = pairs.iter().find(|(known, _)| *known == name.as_bytes());
        assert_eq!(parameter(text, name).map(str::as_bytes), found.map(|(_, value)| *value));
    }
    check_form(text);
});

fn split(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, b""),
    }
}

fn decoded(pairs: &[(&[u8], &[u8])], name: &str) -> Vec<Vec<u8>> {
    let named = pairs.iter().filter(|(known, _)| *known == name.as_bytes());
    named.map(|(_, value)| percent_decode(value).collect()).collect()
}

fn last<'a>(pairs: &[(&'a [u8], &'a [u8])], name: &str) -> Option<&'a str> {
    let (_, value) = pairs.iter().rev().find(|(known, _)| *known == name.as_bytes())?;
    str::from_utf8(value).ok()
}

fn check_announce(bytes: &[u8], pairs: &[(&[u8], &[u8])]) {
    let query = match AnnounceQuery::parse(bytes) {
        Ok(query) => query,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(decoded(pairs, "info_hash"), [query.info_hash.0]);
    assert_eq!(decoded(pairs, "peer_id"), [query.peer_id.0]);
    let number = |name| last(pairs, name).map(|text| text.parse::<u64>().expect("a number"));
    assert_eq!(number("port"), Some(query.port.into()));
    assert_ne!(query.port, 0);
    assert_eq!(number("left"), query.left);
    assert_eq!(number("uploaded").unwrap_or(0), query.uploaded);
    assert_eq!(number("downloaded").unwrap_or(0), query.downloaded);
    assert!(query.num_want.is_none_or(|peers| usize::from(peers) <= UDP_V4_PEERS));
    assert_eq!(query.compact, last(pairs, "compact") != Some("0"));
    // Written again it is read alike.
    let mut written = Vec::new();
    for (name, bytes) in [("info_hash", query.info_hash.0), ("&peer_id", query.peer_id.0)] {
        written.extend_from_slice(name.as_bytes());
        written.push(b'=');
        bytes.iter().for_each(|byte| written.extend_from_slice(format!("%{byte:02x}").as_bytes()));
    }
    let event = match query.event {
        Event::None => "",
        Event::Started => "started",
        Event::Stopped => "stopped",
        Event::Completed => "completed",
    };
    let optional =
        |name: &str, value: Option<u64>| value.map(|value| format!("&{name}={value}")).unwrap_or_default();
    let rest = format!(
        "&port={}&uploaded={}&downloaded={}&event={event}&compact={}&no_peer_id={}{}{}",
        query.port,
        query.uploaded,
        query.downloaded,
        u8::from(query.compact),
        u8::from(query.no_peer_id),
        optional("left", query.left),
        optional("numwant", query.num_want.map(u64::from)),
    );
    written.extend_from_slice(rest.as_bytes());
    assert_eq!(AnnounceQuery::parse(&written), Ok(query));
}

fn check_scrape(bytes: &[u8], pairs: &[(&[u8], &[u8])]) {
    let expected = decoded(pairs, "info_hash");
    match ScrapeQuery::parse(bytes) {
        Ok(query) => {
            let hashes: Vec<Vec<u8>> = query.info_hashes.iter().map(|hash| hash.0.to_vec()).collect();
            assert_eq!(hashes, expected);
        }
        Err(QueryError::FullScrape) => assert!(expected.is_empty()),
        Err(QueryError::TooManyHashes) => assert!(expected.len() > MAX_SCRAPE_HASHES),
        Err(error) => assert_eq!(error, QueryError::Invalid("info_hash")),
    }
}

fn check_form(text: &str) {
    let Ok(query) = Query::parse(text) else { return };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let read: Vec<(String, String)> =
        query.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(read, pairs);
    let all: BTreeMap<String, Vec<String>> = query.deserialize().expect("lists of strings");
    for (name, values) in &all {
        assert_eq!(&query.get_all(name).collect::<Vec<_>>(), values);
    }
    let written = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
    let again = Query::parse(&written).expect("what is written well");
    assert!(again.iter().eq(query.iter()));
}
