//! Owns the fuzzing of UDP datagrams from clients and trackers. A message that is parsed and written again must be the
//! same.

#![no_main]

use gyre_core::limits::{MAX_SCRAPE_HASHES, MAX_URL_DATA_BYTES, UDP_REPLY_MAX_BYTES};
use gyre_core::wire::udp::{
    Options, Request, Response, put_announce_head, put_connect, put_error, put_scrape, scrape_counts,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    if let Ok(request) = Request::parse(datagram) {
        check_request(datagram, request);
    }
    if let Ok(response) = Response::parse(datagram) {
        check_response(datagram, response);
    }
    check_options(datagram);
});

fn check_request(datagram: &[u8], request: Request<'_>) {
    let mut written = Vec::new();
    request.encode(&mut written);
    assert_eq!(Request::parse(&written), Ok(request));
    // Ignored bytes are not written: those after a connect or a complete hash, the address, unknown events.
    match request {
        Request::Connect { .. } => assert_eq!(written, datagram[..16]),
        Request::Scrape(scrape) => {
            assert!((1..=MAX_SCRAPE_HASHES).contains(&scrape.info_hashes.len()));
            assert!(datagram.starts_with(&written));
        }
        Request::Announce(announce) => {
            assert_eq!(written.len(), datagram.len());
            assert_eq!(written[..80], datagram[..80]);
            assert_eq!(written[88..], datagram[88..]);
            assert_eq!(announce.num_want().is_none(), announce.num_want < 0);
            check_options(announce.options);
        }
    }
}

/// The three ways to read options must agree.
fn check_options(bytes: &[u8]) {
    let options = Options::parse(bytes);
    assert_eq!(options.malformed, Options::are_malformed(bytes));
    match Options::only_url_data(bytes) {
        Some(data) if data.len() <= MAX_URL_DATA_BYTES => {
            assert_eq!((options.url_data.as_slice(), options.malformed), (data, false));
        }
        _ => {}
    }
}

fn check_response(datagram: &[u8], response: Response<'_>) {
    let mut out = [0; UDP_REPLY_MAX_BYTES];
    let length = match response {
        Response::Connect { transaction_id, connection_id } => {
            put_connect(&mut out, transaction_id, connection_id)
        }
        Response::Announce { transaction_id, interval_secs, leechers, seeders, .. } => {
            let counts = gyre_core::types::SwarmCounts { seeders, leechers, downloaded: 0 };
            put_announce_head(&mut out, transaction_id, interval_secs, counts);
            20
        }
        Response::Scrape { transaction_id, entries } => {
            let counts: Vec<_> = entries.iter().take(MAX_SCRAPE_HASHES).map(scrape_counts).collect();
            put_scrape(&mut out, transaction_id, &counts)
        }
        Response::Error { transaction_id, message } => {
            put_error(&mut out, transaction_id, &String::from_utf8_lossy(message))
        }
    };
    assert_eq!(
        Response::parse(&out[..length]).map(|again| again.transaction_id()),
        Ok(response.transaction_id())
    );
    // Invalid UTF-8 in a message was replaced.
    if !matches!(response, Response::Error { message, .. } if str::from_utf8(message).is_err()) {
        assert!(datagram.starts_with(&out[..length]));
    }
}
