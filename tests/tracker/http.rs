//! Owns the HTTP tests of a running tracker: announces, scrapes, and connections with split, pipelined and aborted
//! requests.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{
    FAMILIES, HttpClient, HttpResponse, Tracker, UdpClient, announce_path, announcement, config, eventually,
    get, info_hash, listen, loopback, scrape_path, unpack,
};
use gyre::config::{Config, Steering};
use gyre::counters::Counter;
use gyre::limits::{HOUSEKEEPING_INTERVAL_MS, HTTP_WRITE_BATCH_BYTES, TCP_RECEIVE_BYTES};
use gyre::time::{Clock, Timestamp};
use gyre::types::{Event, Family, InfoHash};
use gyre::wire::udp::Announce;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_bencode::value::Value;
use serde_bytes::ByteBuf;
use socket2::SockRef;

/// The response to an announce. `peers` is a string or a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Announced<P> {
    complete: u32,
    downloaded: u32,
    #[serde(rename = "external ip")]
    external_ip: ByteBuf,
    incomplete: u32,
    interval: u32,
    #[serde(rename = "min interval")]
    min_interval: u32,
    peers: P,
    #[serde(default)]
    peers6: ByteBuf,
}

type Compact = Announced<ByteBuf>;
type Listed = Announced<Vec<Peer>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    ip: IpAddr,
    #[serde(rename = "peer id")]
    id: Option<ByteBuf>,
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scraped {
    files: HashMap<ByteBuf, Swarm>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Swarm {
    complete: u32,
    downloaded: u32,
    incomplete: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    #[serde(rename = "failure reason")]
    reason: String,
    #[serde(rename = "retry in")]
    retry_in: String,
}

impl Compact {
    fn ports(&self) -> Vec<u16> {
        let v4 = unpack(Family::V4, &self.peers);
        v4.iter().chain(&unpack(Family::V6, &self.peers6)).map(SocketAddr::port).collect()
    }
}

impl Scraped {
    fn of(&self, info_hash: InfoHash) -> (u32, u32, u32) {
        let swarm = &self.files[&ByteBuf::from(info_hash.0)];
        (swarm.complete, swarm.downloaded, swarm.incomplete)
    }
}

/// Parses a bencoded body, which must be in canonical form: keys sorted, each once.
#[track_caller]
fn parse<T: DeserializeOwned>(response: &HttpResponse) -> T {
    assert_eq!(response.status, 200, "{}", response.head);
    let value: Value = serde_bencode::from_bytes(&response.body).expect("a bencoded body");
    let canonical = serde_bencode::to_bytes(&value).expect("a bencoded body");
    assert_eq!(canonical.escape_ascii().to_string(), response.body.escape_ascii().to_string());
    serde_bencode::from_bytes(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

/// Runs a test with 1 and with 3 workers, and both families.
fn in_every_mode(test: impl Fn(&Tracker, Family)) {
    for workers in [1, 3] {
        eprintln!("{workers} workers"); // shown if the test fails
        let tracker = Tracker::start(&config(workers));
        FAMILIES.into_iter().for_each(|family| test(&tracker, family));
    }
}

#[test]
fn a_response_to_an_announce_has_all_fields() {
    in_every_mode(|tracker, family| {
        let mut client = HttpClient::connect(tracker.http(family));
        let hash = info_hash(family as u64);
        let first = client.get(&announce_path(hash, 1, "&event=started"));
        assert_eq!(first.field("Content-Type"), Some("text/plain"));
        assert!(
            String::from_utf8_lossy(&first.body).contains("5:peers0:"),
            "the field is present even if it is empty: {}",
            first.text()
        );
        let first: Compact = parse(&first);
        assert_eq!((first.complete, first.downloaded, first.incomplete), (0, 0, 1));
        assert_eq!(first.min_interval, Config::default().min_interval_secs);
        let interval = Config::default().announce_interval_secs;
        assert!((interval..=interval + interval / 16).contains(&first.interval), "{first:?}");
        match loopback(family) {
            IpAddr::V4(ip) => assert_eq!(first.external_ip.as_slice(), ip.octets()),
            IpAddr::V6(ip) => assert_eq!(first.external_ip.as_slice(), ip.octets()),
        }
        // Port 2 completes, port 3 stops. Unknown parameters are ignored.
        client.get(&announce_path(hash, 3, "&key=1&supportcrypto=1&ip=8.8.8.8"));
        client.get(&announce_path(hash, 2, "&compact=1"));
        let done: Compact = parse(&client.get(&announce_path(hash, 2, "&compact=1&left=0&event=completed")));
        assert_eq!((done.complete, done.downloaded, done.incomplete, done.ports()), (1, 1, 2, vec![1, 3]));
        let stopped: Compact = parse(&client.get(&announce_path(hash, 3, "&event=stopped")));
        assert_eq!((stopped.complete, stopped.incomplete, stopped.ports()), (1, 1, vec![]));
        let last: Compact = parse(&client.get(&announce_path(hash, 1, "&numwant=7")));
        let addresses = unpack(family, if family == Family::V4 { &last.peers } else { &last.peers6 });
        assert_eq!(addresses, [SocketAddr::new(loopback(family), 2)]);
    });
}

#[test]
fn peers_are_listed_in_the_requested_form() {
    in_every_mode(|tracker, family| {
        let hash = info_hash(10 + family as u64);
        let enter_all = || {
            for (port, family) in (1..).zip([Family::V4, Family::V4, Family::V6]) {
                HttpClient::connect(tracker.http(family)).get(&announce_path(hash, port, ""));
            }
        };
        enter_all();
        let mut client = HttpClient::connect(tracker.http(family));
        // Peer ids are kept after the first request for them.
        let first: Listed = parse(&client.get(&announce_path(hash, 9, "&compact=0")));
        assert!(first.peers.len() == 3 && first.peers.iter().all(|peer| peer.id.is_none()), "{first:?}");
        enter_all();
        for more in ["", "&compact=1", "&no_peer_id=1"] {
            let compact: Compact = parse(&client.get(&announce_path(hash, 9, more)));
            assert_eq!(
                (compact.peers.len(), compact.peers6.len(), compact.ports()),
                (2 * 6, 18, vec![1, 2, 3])
            );
        }
        for (more, with_ids) in [("&compact=0", true), ("&compact=0&no_peer_id=1", false)] {
            let mut listed: Listed = parse(&client.get(&announce_path(hash, 9, more)));
            listed.peers.sort_by_key(|peer| peer.port);
            let addresses: Vec<_> =
                listed.peers.iter().map(|peer| SocketAddr::new(peer.ip, peer.port)).collect();
            let [v4, v6] = FAMILIES.map(loopback);
            assert_eq!(addresses, [SocketAddr::new(v4, 1), SocketAddr::new(v4, 2), SocketAddr::new(v6, 3)]);
            let id = with_ids.then(|| ByteBuf::from(b"-GT0001-integration!"));
            assert!(listed.peers.iter().all(|peer| peer.id == id), "{listed:?}");
        }
        for (num_want, expected) in [("0", 0), ("1", 1), ("-1", 3), ("99999999999999999999", 3)] {
            let compact: Compact =
                parse(&client.get(&announce_path(hash, 9, &format!("&numwant={num_want}"))));
            assert_eq!(compact.ports().len(), expected, "{num_want} wanted");
        }
    });
}

#[test]
fn a_scrape_counts_the_requested_swarms() {
    in_every_mode(|tracker, family| {
        let mut client = HttpClient::connect(tracker.http(family));
        let hashes: Vec<_> = (0..74).map(|number| info_hash(1_000 * family as u64 + number)).collect();
        for (hash, leechers) in hashes.iter().zip([1, 2, 3]) {
            (1..=leechers).for_each(|port| drop(client.get(&announce_path(*hash, port, ""))));
        }
        client.get(&announce_path(hashes[2], 1, "&left=0&event=completed"));
        let scraped: Scraped = parse(&client.get(&scrape_path(&hashes)));
        assert_eq!(scraped.files.len(), 74);
        let counts: Vec<_> = hashes.iter().take(4).map(|hash| scraped.of(*hash)).collect();
        assert_eq!(counts, [(0, 0, 1), (0, 0, 2), (1, 1, 2), (0, 0, 0)]);
        let scraped: Scraped = parse(&client.get(&scrape_path(&[hashes[1]; 3])));
        assert_eq!((scraped.files.len(), scraped.of(hashes[1])), (1, (0, 0, 2)));
        let full: Failure = parse(&client.get("/scrape"));
        assert!(full.reason.contains("full scrape") && full.retry_in == "never", "{full:?}");
        let too_many = [hashes, vec![info_hash(9_999)]].concat();
        assert!(parse::<Failure>(&client.get(&scrape_path(&too_many))).reason.contains("info_hash"));
    });
}

#[test]
fn the_error_of_a_bad_query_names_the_parameter() {
    let tracker = Tracker::start(&config(2));
    let mut client = HttpClient::connect(tracker.http(Family::V4));
    let good = announce_path(info_hash(1), 1, "");
    let without = |name: &str| good.replace(&format!("{name}="), "other=");
    let mut bad = vec![
        ("info_hash", without("info_hash")),
        ("peer_id", without("peer_id")),
        ("port", without("port")),
        ("info_hash", "/announce".to_owned()),
        ("info_hash", good.replace("info_hash=", "info_hash=x")),
        ("info_hash", "/scrape?info_hash=short".to_owned()),
    ];
    let more =
        ["port=0", "port=65536", "left=-1", "uploaded=x", "downloaded=", "event=begun", "numwant=many"];
    bad.extend(more.map(|more| (more.split_once('=').unwrap().0, format!("{good}&{more}"))));
    bad.push(("info_hash", format!("{good}&info_hash=%00")));
    for (parameter, path) in &bad {
        let failure: Failure = parse(&client.get(path));
        assert!(failure.reason.contains(parameter), "{path}: {failure:?}");
        assert_eq!(failure.retry_in, "never");
    }
    tracker.await_count(&[Counter::BadQuery], bad.len() as u64);
    tracker.await_count(&[Counter::Swarms], 0);
}

#[test]
fn paths_and_methods_are_routed() {
    let tracker = Tracker::start(&config(2));
    let mut client = HttpClient::connect(tracker.http(Family::V4));
    let health = client.get("/health");
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    for prefix in ["", "/0a-B_9", "http://tracker", "http://tracker:6969/k"] {
        parse::<Compact>(&client.get(&format!("{prefix}{}", announce_path(info_hash(1), 1, ""))));
        let scraped: Scraped = parse(&client.get(&format!("{prefix}{}", scrape_path(&[info_hash(1)]))));
        assert_eq!(scraped.of(info_hash(1)), (0, 0, 1));
    }
    for nothing in ["/", "/announce/", "/a/b/announce", "/k/health", "/k%20/announce", "/favicon.ico"] {
        assert_eq!(client.get(nothing).status, 404, "{nothing}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = client.request(get("/announce").replace("GET", method));
        assert_eq!((refused.status, refused.field("Allow")), (405, Some("GET, HEAD")), "{method}");
        assert_eq!(client.request(get("/nothing").replace("GET", method)).status, 404, "{method}");
    }
}

#[test]
fn head_gets_the_response_of_get_without_the_body() {
    let config = Config { announce_interval_secs: 15, min_interval_secs: 0, ..config(2) }; // no random spread
    let tracker = Tracker::start(&config);
    let mut client = HttpClient::connect(tracker.http(Family::V4));
    client.get(&announce_path(info_hash(1), 1, ""));
    for path in
        ["/health", "/nothing", "/scrape", &announce_path(info_hash(1), 2, ""), &scrape_path(&[info_hash(1)])]
    {
        let full = client.get(path);
        client.send(get(path).replace("GET", "HEAD"));
        assert_eq!(client.receive_head().head, full.head, "{path}");
        assert!(full.content_length() > 0);
        assert_eq!(client.get("/health").status, 200, "the next response follows");
    }
}

#[test]
fn a_connection_stays_open_unless_one_side_wants_to_close_it() {
    let tracker = Tracker::start(&config(1));
    let connect = || HttpClient::connect(tracker.http(Family::V4));
    let mut client = connect();
    for _ in 0..3 {
        assert_eq!(client.get("/health").field("Connection"), None);
    }
    for request in [
        "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: t\r\nConnection: x, Close\r\n\r\nGET /health HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /health HTTP/1.0\r\n\r\n",
        "GET /nothing HTTP/1.0\r\n\r\n",
    ] {
        let mut client = connect();
        assert_eq!(client.request(request).field("Connection"), Some("close"), "{request}");
        assert_eq!(client.rest(), b"", "{request}");
    }
    let mut old = connect();
    for _ in 0..3 {
        let response = old.request("GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        assert_eq!((response.status, response.field("Connection")), (200, Some("keep-alive")));
    }
}

#[test]
fn an_invalid_request_gets_its_status_and_the_connection_ends() {
    let tracker = Tracker::start(&config(1));
    let fields = |count: usize| (0..count).map(|at| format!("X-{at}: y\r\n")).collect::<String>();
    let with = |fields: &str| format!("GET /health HTTP/1.1\r\nHost: t\r\n{fields}\r\n").into_bytes();
    let endless = |bytes: usize| [b"GET /".as_slice(), &vec![b'a'; bytes]].concat();
    let bad = [
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()), // TLS; no further bytes are needed
        (400, vec![0]),
        (400, b"GET\r\n\r\n".to_vec()),
        (400, b"GET /health HTTP/1.1\r\n\r\n".to_vec()),
        (400, b"GET health HTTP/1.1\r\nHost: t\r\n\r\n".to_vec()),
        (400, b"GET /health HTTP/2.0\r\nHost: t\r\n\r\n".to_vec()),
        (400, with("Host: u\r\n")),
        (400, with("Content-Length: x\r\n")),
        (400, with("Content-Length: 1\r\nContent-Length: 2\r\n")),
        (413, with("Content-Length: 16385\r\n")),
        (431, with(&fields(64))),
        (431, endless(9_000)),
        (431, endless(50_000)), // more than the tracker reads before it responds
        (501, with("Transfer-Encoding: chunked\r\n")),
    ];
    for (status, request) in &bad {
        let mut client = HttpClient::connect(tracker.http(Family::V4));
        let response = client.request(request);
        let shown = request[..request.len().min(80)].escape_ascii();
        assert_eq!((response.status, response.field("Connection")), (*status, Some("close")), "{shown}");
        assert_eq!(client.rest(), b"", "{shown}");
    }
    tracker.await_count(&[Counter::BadHttp], bad.len() as u64);
    let mut client = HttpClient::connect(tracker.http(Family::V4));
    assert_eq!(client.request(with(&fields(63))).status, 200);
    let awaited = client.request(with("Content-Length: 5\r\nExpect: 100-continue\r\n"));
    assert_eq!(
        (awaited.status, awaited.field("Connection")),
        (200, Some("close")),
        "a response instead of a 100"
    );
    assert_eq!(client.rest(), b"");
}

#[test]
fn udp_and_http_see_the_same_swarms() {
    for steering in [Steering::InfoHash, Steering::Cpu, Steering::None] {
        for workers in [1, 3] {
            let tracker = Tracker::start(&Config { steering, ..config(workers) });
            for family in FAMILIES {
                let mut udp = UdpClient::connected(tracker.udp(family));
                let mut http = HttpClient::connect(tracker.http(family));
                for hash in (0..20).map(|number| info_hash(100 * family as u64 + number)) {
                    udp.announce(Announce { left: 0, event: Event::Completed, ..announcement(hash, 1) });
                    let by_http: Compact = parse(&http.get(&announce_path(hash, 2, "")));
                    assert_eq!((by_http.complete, by_http.incomplete, by_http.ports()), (1, 1, vec![1]));
                    assert_eq!(udp.announce(announcement(hash, 3)).ports(), [1, 2]);
                    let scraped: Scraped = parse(&http.get(&scrape_path(&[hash])));
                    let [by_udp] = udp.scrape(&[hash])[..] else { panic!("one swarm was asked for") };
                    assert_eq!((by_udp.seeders, by_udp.downloaded, by_udp.leechers), scraped.of(hash));
                }
            }
        }
    }
}

/// Starts a tracker with one worker whose responses to the requests of [`pipeline`] are always the same.
fn predictable_tracker() -> Tracker {
    let config = Config { announce_interval_secs: 15, min_interval_secs: 0, ..config(1) }; // no random spread
    let tracker = Tracker::start(&config);
    let mut client = HttpClient::connect(tracker.http(Family::V4));
    (1..=2).for_each(|port| drop(client.get(&announce_path(info_hash(1), port, ""))));
    tracker
}

/// Returns requests of all kinds, and the number of their responses.
fn pipeline() -> (Vec<u8>, usize) {
    let (announce, scrape) = (announce_path(info_hash(1), 1, ""), scrape_path(&[info_hash(1)]));
    let requests = [
        get(&announce),
        get(&scrape).replace("GET", "HEAD"),
        format!("\r\n\r\n{}", get("/health")), // empty lines before a request are skipped
        get("/nothing"),
        "GET /health HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nGET / XY\n".to_owned(),
        get(&scrape).replace("\r\n", "\n"),
        "POST /announce HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n\r\n\r".to_owned(),
        "GET /health HTTP/1.0\nConnection: keep-alive\n\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    (requests.concat().into_bytes(), requests.len())
}

#[test]
fn a_pipeline_gets_the_same_responses_however_it_is_split() {
    let tracker = predictable_tracker();
    let address = tracker.http(Family::V4);
    let (requests, responses) = pipeline();
    // The only worker answers this connection after it has read what the other one sent before.
    let mut barrier = HttpClient::connect(address);
    let mut answer = |parts: &[&[u8]]| {
        let mut client = HttpClient::connect(address);
        for part in parts {
            client.send(part);
            barrier.get("/health");
        }
        client.rest()
    };
    let whole = answer(&[&requests]);
    let text = String::from_utf8_lossy(&whole);
    assert_eq!(text.matches("HTTP/1.1 ").count(), responses, "{text}");
    for (status, times) in [("200 OK\r", 7), ("404 Not Found\r", 1), ("405 Method Not Allowed\r", 1)] {
        assert_eq!(text.matches(status).count(), times, "{status} in {text}");
    }
    for cut in 1..requests.len() {
        let (first, second) = requests.split_at(cut);
        let shown = first.escape_ascii();
        assert!(answer(&[first, second]) == whole, "split after {cut} bytes: {shown}");
    }
    let bytes: Vec<_> = requests.chunks(1).collect();
    assert!(answer(&bytes) == whole, "byte by byte");
    for size in [2, 3, 7, 64] {
        let parts: Vec<_> = requests.chunks(size).collect();
        assert!(answer(&parts) == whole, "{size} bytes at a time");
    }
}

#[test]
fn the_responses_of_a_long_pipeline_are_in_order() {
    for workers in [1, 3] {
        let tracker = Tracker::start(&config(workers));
        let mut client = HttpClient::connect(tracker.http(Family::V4));
        let numbers = 0..2_000_u64;
        let requests = numbers.clone().map(|number| match number % 4 {
            0 => get("/nothing"),
            1 => get("/health"),
            _ => get(&scrape_path(&[info_hash(number)])),
        });
        client.send(requests.collect::<String>());
        for number in numbers {
            let response = client.receive();
            match number % 4 {
                0 => assert_eq!(response.status, 404, "response {number}"),
                1 => assert_eq!(response.text(), "ok\n", "response {number}"),
                _ => assert_eq!(parse::<Scraped>(&response).of(info_hash(number)), (0, 0, 0)),
            }
        }
    }
}

#[test]
fn connections_of_aborted_clients_are_freed() {
    in_every_mode(|tracker, family| {
        let connect = || HttpClient::connect(tracker.http(family));
        let reset =
            |client: &HttpClient| SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).unwrap();
        let announces = get(&announce_path(info_hash(1), 1, "")).repeat(100);
        for number in 0..40 {
            let client = connect();
            match number % 4 {
                0 => {}                                              // right after the connect
                1 => client.send("GET /health HTTP/1.1\r\nHost: t"), // within a request
                2 => client.send(&announces),                        // before the responses
                _ => client.send(format!("{announces}GET /")),       // both
            }
            if number % 8 < 4 {
                reset(&client);
            }
        }
        let mut half_read = connect();
        half_read.send(&announces);
        half_read.receive();
        drop(half_read);
        tracker.await_count(&[Counter::Connections], 0);
        let mut client = connect();
        assert_eq!(client.get("/health").status, 200);
        tracker.await_count(&[Counter::Connections], 1);
    });
}

#[test]
fn responses_after_a_full_batch_are_sent() {
    let tracker = Tracker::start(&Config { max_peers: 200, ..config(1) });
    let mut client = HttpClient::connect(tracker.http(Family::V4));
    (1..=200).for_each(|port| drop(client.get(&announce_path(info_hash(1), port, "&numwant=0&compact=0"))));
    let long = get(&announce_path(info_hash(1), 1, "&compact=0&numwant=200"));
    let requests = TCP_RECEIVE_BYTES / long.len(); // they arrive in one read
    assert!(requests >= 3);
    client.send(long.repeat(requests));
    for _ in 0..requests {
        let response = client.receive();
        assert!(response.content_length() > HTTP_WRITE_BATCH_BYTES / 2);
        assert_eq!(parse::<Listed>(&response).peers.len(), 199);
    }
}

#[test]
fn a_slow_reader_gets_all_responses() {
    let tracker = Tracker::start(&config(1));
    let mut client = HttpClient::connect(tracker.http(Family::V4));
    (1..=50).for_each(|port| drop(client.get(&announce_path(info_hash(1), port, ""))));
    // 12 MB: more than the socket buffers hold, so the tracker must wait for the reader.
    SockRef::from(client.stream()).set_recv_buffer_size(262_144).unwrap();
    let requests = get(&announce_path(info_hash(1), 1, "&compact=0")).repeat(4_000);
    thread::scope(|scope| {
        let mut writer = client.stream().try_clone().unwrap();
        scope.spawn(move || writer.write_all(requests.as_bytes()).unwrap());
        eventually("the first responses", || tracker.count(&[Counter::HttpRepliesV4]) > 100);
        for _ in 0..4_000 {
            let response = client.receive();
            assert_eq!((response.status, response.text().matches("4:port").count()), (200, 49));
        }
    });
}

#[test]
fn wildcards_serve_http_at_every_address() {
    let wildcards = listen(&["0.0.0.0", "::"].map(|ip| ip.parse().unwrap()));
    let tracker = Tracker::start(&Config { http: wildcards, ..config(2) });
    for ip in ["127.0.0.1", "127.0.0.2", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        let mut client = HttpClient::connect(SocketAddr::new(ip, tracker.http(Family::of(ip)).port()));
        assert_eq!(parse::<Compact>(&client.get(&announce_path(info_hash(1), 1, ""))).external_ip.len(), {
            if ip.is_ipv4() { 4 } else { 16 }
        });
    }
}

/// Sends announces without a pause, up to 16 in flight, until `end` is set.
fn keep_busy(mut client: UdpClient, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        for port in 1..=16 {
            let request = client.announce_request(announcement(info_hash(port.into()), port));
            client.send(&request);
        }
        (1..=16).for_each(|_| drop(client.receive()));
    }
}

/// Ends the load when it is dropped, also if the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The runtime's ring submits only when its thread is about to sleep, which these workers never do.
#[test]
fn http_is_answered_while_udp_keeps_the_workers_busy() {
    for workers in [1, 2] {
        let tracker = Tracker::start(&Config { busy_poll: Duration::from_secs(1), ..config(workers) });
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let _end = End(&ended);
            for _ in 0..2 {
                let client = UdpClient::connected(tracker.udp(Family::V4));
                scope.spawn(|| keep_busy(client, &ended));
            }
            let hashes = [info_hash(1), info_hash(2), info_hash(3)];
            let clock = Clock::start();
            // Long enough for several housekeeping ticks of the worker.
            while clock.now().since(Timestamp::default())
                < Duration::from_millis(4 * HOUSEKEEPING_INTERVAL_MS)
            {
                let mut client = HttpClient::connect(tracker.http(Family::V6));
                for hash in hashes {
                    parse::<Compact>(&client.get(&announce_path(hash, 1, "")));
                    parse::<Scraped>(&client.get(&scrape_path(&hashes)));
                }
                assert_eq!(client.request("GET /health HTTP/1.0\r\n\r\n").status, 200);
                assert_eq!(client.rest(), b"");
            }
        });
    }
}
