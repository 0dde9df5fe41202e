//! Owns the bench cases for HTTP: parsing heads and queries, writing bencoded responses.

use std::hint::black_box;

use gyre_core::types::{Event, InfoHash, PeerId, SwarmCounts, unpack_v4, unpack_v6};
use gyre_core::wire::bencode::{self, Form};
use gyre_core::wire::http::{FieldBuffer, Persistence, Request, RequestReader, ResponseWriter, Status};
use gyre_core::wire::query::{AnnounceQuery, QueryError, ScrapeQuery};

use super::samples::{self, COUNTS, Crowd, LIBTORRENT_QUERY};
use super::{Amount, Meter};

/// Number of requests that a client sends without waiting for responses.
const PIPELINED: usize = 8;
const INTERVALS: &str = "8:intervali1800e12:min intervali900e";

/// Reads the first head, as a connection's task does. Returns `None` if it is incomplete.
fn read(bytes: &[u8]) -> Result<Option<Request<'_>>, Status> {
    let mut buffer = FieldBuffer::new();
    let progress = RequestReader::default().read(bytes, &mut buffer)?;
    Ok(progress.head.map(|head| head.request))
}

/// Measures reading the head of a request.
pub(crate) fn heads(meter: &mut impl Meter) {
    let (small, long) = (samples::libtorrent_head("/announce", LIBTORRENT_QUERY), samples::browser_head());
    for (name, head, request) in [
        ("http head/libtorrent, 4 fields", &small, samples::announce_request(false)),
        ("http head/browser, 18 fields", &long, samples::announce_request(true)),
    ] {
        meter
            .measure(name, Amount::Bytes(head.len()), Ok(Some(request)), || read(black_box(head.as_bytes())));
        let part = &head[..head.len() - 1];
        meter.measure(&format!("{name}: all but its end"), Amount::Bytes(part.len()), Ok(None), || {
            read(black_box(part.as_bytes()))
        });
    }
    let pipelined = small.repeat(PIPELINED);
    meter.measure("http head/libtorrent, 8 pipelined", Amount::Bytes(pipelined.len()), PIPELINED, || {
        let (mut rest, mut requests, mut reader) =
            (black_box(pipelined.as_bytes()), 0, RequestReader::default());
        loop {
            let mut buffer = FieldBuffer::new();
            let Ok(progress) = reader.read(rest, &mut buffer) else { break requests };
            if black_box(progress.head).is_none() {
                break requests;
            }
            requests += 1;
            rest = &rest[progress.taken..];
        }
    });
    let without_host = small.replace("Host", "Most");
    meter.measure(
        "http head/refused, no host",
        Amount::Bytes(without_host.len()),
        Err(Status::BadRequest),
        || read(black_box(without_host.as_bytes())),
    );
}

/// Measures parsing the queries of announces and scrapes.
pub(crate) fn queries(meter: &mut impl Meter) {
    let escaped = "%a0%a3%a3%75%21%d5%1b%9a%ed%c3%cf%45%0d%2a%a8%ac%d8%50%22%a2";
    let id = "%2d%54%52%34%30%36%30%2d%30%31%32%33%34%35%36%37%38%39%61%62";
    let every_key = format!(
        "info_hash={escaped}&peer_id={id}&port=51413&uploaded=123456789012&downloaded=98765432109&left=0\
         &event=completed&numwant=80&compact=0&no_peer_id=0&ip=192.0.2.1&ipv6=%5b2001%3adb8%3a%3a1%5d%3a51413\
         &key=1a2b3c4d&trackerid=abcdef&corrupt=0&supportcrypto=1&requirecrypto=0"
    );
    let everything = AnnounceQuery {
        info_hash: samples::libtorrent_query().info_hash,
        peer_id: PeerId(*b"-TR4060-0123456789ab"),
        port: 51_413,
        uploaded: 123_456_789_012,
        downloaded: 98_765_432_109,
        left: Some(0),
        event: Event::Completed,
        num_want: Some(80),
        compact: false,
        no_peer_id: false,
    };
    let refused = LIBTORRENT_QUERY.replace("%a2&", "&");
    for (name, query, expected) in [
        ("http query/announce, libtorrent's", LIBTORRENT_QUERY, Ok(samples::libtorrent_query())),
        ("http query/announce, every key, all escaped", &every_key, Ok(everything)),
        ("http query/announce, refused: a hash of 19 bytes", &refused, Err(QueryError::Invalid("info_hash"))),
    ] {
        meter.measure(name, Amount::Bytes(query.len()), expected, || {
            AnnounceQuery::parse(black_box(query.as_bytes()))
        });
    }
    let swarms = samples::scraped();
    for (name, swarms) in [("http query/scrape of 1", &swarms[..1]), ("http query/scrape of 74", &swarms)] {
        let query = samples::scrape_query(swarms);
        let expected = ScrapeQuery { info_hashes: swarms.iter().copied().collect() };
        meter.measure(name, Amount::Bytes(query.len()), Ok(expected), || {
            ScrapeQuery::parse(black_box(query.as_bytes()))
        });
    }
}

/// Measures writing the bodies of responses, and one complete response.
pub(crate) fn answers(meter: &mut impl Meter) {
    let crowd = Crowd::of(50);
    for (name, v4, v6, form) in [
        ("http answer/announce, compact, no peers", 0, 0, Form::Compact),
        ("http answer/announce, compact, 30 peers", 30, 0, Form::Compact),
        ("http answer/announce, compact, 50 peers", 50, 0, Form::Compact),
        ("http answer/announce, compact, 30 peers of IPv6", 0, 30, Form::Compact),
        ("http answer/announce, compact, 30 peers of each family", 30, 30, Form::Compact),
        ("http answer/announce, listed, 30 peers", 30, 0, Form::WithoutIds),
        ("http answer/announce, listed with ids, 30 peers", 30, 0, Form::WithIds),
        ("http answer/announce, listed with ids, 30 peers of IPv6", 0, 30, Form::WithIds),
    ] {
        let expected = announce_body(&crowd, v4, v6, form);
        let reply = crowd.reply(v4, v6, form);
        meter.written(name, &expected, |out| bencode::put_announce(out, black_box(&reply)));
    }
    let body = announce_body(&crowd, 50, 0, Form::Compact);
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length:{:6}\r\n\r\n", body.len());
    let reply = crowd.reply(50, 0, Form::Compact);
    let whole = [head.as_bytes(), &body].concat();
    meter.written("http answer/announce, compact, 50 peers, with its head", &whole, |out| {
        let response = ResponseWriter::start(out, Status::Ok, Persistence::KeepAlive, false);
        bencode::put_announce(out, black_box(&reply));
        response.finish(out);
    });
    let swarms = samples::scraped().map(|info_hash| (info_hash, COUNTS));
    let mut sorted = swarms; // sorted in place, so restored before each run
    for (name, number) in [("http answer/scrape of 1", 1), ("http answer/scrape of 74", swarms.len())] {
        let (asked, sorted) = (&swarms[..number], &mut sorted[..number]);
        meter.written(name, &scrape_body(asked), |out| {
            sorted.copy_from_slice(black_box(asked));
            bencode::put_scrape(out, sorted);
        });
    }
    let expected = b"d14:failure reason23:invalid parameter: port8:retry in5:nevere";
    meter.written("http answer/failure", expected, |out| {
        bencode::put_failure(out, "invalid parameter: port", true);
    });
}

/// Returns the expected announce response, built in the simplest way.
fn announce_body(crowd: &Crowd, v4: usize, v6: usize, form: Form) -> Vec<u8> {
    let SwarmCounts { seeders, leechers, downloaded } = COUNTS;
    let mut body = format!("d8:completei{seeders}e10:downloadedi{downloaded}e11:external ip4:").into_bytes();
    body.extend_from_slice(&[198, 51, 100, 7]);
    body.extend_from_slice(format!("10:incompletei{leechers}e{INTERVALS}5:peers").as_bytes());
    if form == Form::Compact {
        body.extend_from_slice(format!("{}:", v4 * 6).as_bytes());
        body.extend_from_slice(&crowd.v4[..v4].concat());
        if v6 > 0 {
            body.extend_from_slice(format!("6:peers6{}:", v6 * 18).as_bytes());
            body.extend_from_slice(&crowd.v6[..v6].concat());
        }
    } else {
        body.push(b'l');
        let addresses = crowd.v4[..v4]
            .iter()
            .map(unpack_v4)
            .zip(&crowd.ids)
            .chain(crowd.v6[..v6].iter().map(unpack_v6).zip(&crowd.ids));
        for (address, id) in addresses {
            let ip = address.ip().to_string();
            body.extend_from_slice(format!("d2:ip{}:{ip}", ip.len()).as_bytes());
            if form == Form::WithIds {
                body.extend_from_slice(&[b"7:peer id20:", &id.0[..]].concat());
            }
            body.extend_from_slice(format!("4:porti{}ee", address.port()).as_bytes());
        }
        body.push(b'e');
    }
    body.push(b'e');
    body
}

/// Returns the expected scrape response, built in the simplest way.
fn scrape_body(swarms: &[(InfoHash, SwarmCounts)]) -> Vec<u8> {
    let mut sorted = swarms.to_vec();
    sorted.sort_by_key(|(info_hash, _)| *info_hash);
    let mut body = b"d5:filesd".to_vec();
    for (info_hash, SwarmCounts { seeders, leechers, downloaded }) in sorted {
        body.extend_from_slice(b"20:");
        body.extend_from_slice(&info_hash.0);
        let counts = format!("d8:completei{seeders}e10:downloadedi{downloaded}e10:incompletei{leechers}ee");
        body.extend_from_slice(counts.as_bytes());
    }
    body.extend_from_slice(b"ee");
    body
}
