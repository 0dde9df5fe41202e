//! Owns the tests of the examples: each runs as a program and does what its head says.
//!
//! `cargo test` builds the examples before it runs tests. To run only these tests, run `cargo build --examples` first.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::process::Program;
use crate::support::{
    DEADLINE, HttpClient, UdpClient, announce_path, announcement, error_of, eventually_equal, info_hash,
    scrape_path, unpack,
};
use gyre::types::{Event, Family, InfoHash};
use gyre::wire::udp::Announce;
use serde::Deserialize;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use ureq::Body;
use ureq::http::Response;

/// Any free port.
const ANYWHERE: &str = "127.0.0.1:0";
const PASSWORD: &str = "correct horse battery";

/// The program of an example, which is in a directory beside this program's.
pub(crate) fn example(name: &str) -> Command {
    let this = std::env::current_exe().expect("a program");
    let folder = this.ancestors().nth(2).expect("target/PROFILE/deps/this").join("examples");
    let mut command = Command::new(folder.join(name));
    command.env("NO_COLOR", "1").env_remove("GYRE_PASSWORD");
    command
}

impl Program {
    /// Waits until the example serves. Returns its addresses.
    #[track_caller]
    fn serving(&self) -> (SocketAddr, SocketAddr) {
        let line = self.find_line("ready: udp://").expect("an example that serves");
        let after = |scheme: &str| {
            let address = line.split_once(scheme).and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            address.unwrap_or_else(|| panic!("no {scheme} in {line:?}"))
        };
        (after("udp://"), after("http://"))
    }
}

#[test]
fn a_wrong_command_line_gives_one_clear_error() {
    for name in ["minimal", "operators"] {
        let said = Program::run(example(name).arg("nonsense")).ends_with(2);
        assert!(said.contains("'nonsense'") && said.contains("ADDR:PORT"), "{name}: {said}");
    }
    assert!(Program::run(&mut example("private")).ends_with(2).contains("<MEMBERS>"));
    let taken = std::net::UdpSocket::bind(ANYWHERE).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (command, words) in [
        (example("minimal").arg(&taken), "in use"),
        (example("private").args(["/no/such/file", ANYWHERE]), "/no/such/file: No such file"),
        (example("operators").arg(ANYWHERE), "GYRE_PASSWORD must be set"),
        (example("operators").arg(ANYWHERE).env("GYRE_PASSWORD", "too short"), "12 bytes"),
    ] {
        let said = Program::run(command).ends_with(1);
        assert!(said.lines().count() == 1 && said.contains(words), "{said}");
    }
}

#[test]
fn minimal_logs_each_request() {
    let program = Program::run(example("minimal").arg(ANYWHERE));
    let (udp, http) = program.serving();
    let mut udp = UdpClient::connected(udp);
    udp.announce(Announce { event: Event::Started, ..announcement(info_hash(1), 1) });
    udp.scrape(&[info_hash(1)]);
    let mut http = HttpClient::connect(http);
    assert_eq!(http.get(&announce_path(info_hash(2), 1, "&event=completed")).status, 200);
    assert_eq!(http.get(&scrape_path(&[info_hash(2)])).status, 200);
    let id = "-GT0001-integration!";
    for expected in [
        "127.0.0.1 UDP Connect".to_owned(),
        format!("127.0.0.1 UDP announce of {:?} by {id}: Started, 1 bytes left", info_hash(1)),
        "127.0.0.1 UDP Scrape".to_owned(),
        format!("127.0.0.1 HTTP announce of {:?} by {id}: Completed, 1 bytes left", info_hash(2)),
        "127.0.0.1 HTTP Scrape".to_owned(),
    ] {
        let line = program.find_line("127.0.0.1 ").expect("a line for each request");
        assert!(line.ends_with(&expected), "{line:?} should end with {expected:?}");
    }
}

/// A private tracker with its own file of members.
struct Private {
    program: Program,
    members: PathBuf,
    udp: SocketAddr,
    http: SocketAddr,
}

impl Private {
    /// Starts it with the members Alice and Bob, whose passkeys are `a1` and `b2`.
    #[track_caller]
    fn start(test: &str) -> Self {
        let members = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("members-{test}"));
        fs::write(&members, "a1 Alice\nb2 Bob\n").unwrap();
        let program = Program::run(example("private").arg(&members).arg(ANYWHERE));
        let (udp, http) = program.serving();
        Self { program, members, udp, http }
    }

    /// Announces by UDP.
    #[track_caller]
    fn udp(&self, passkey: &str, announce: Announce<'_>) -> Vec<u8> {
        let path = format!("/{passkey}/announce");
        let options = [&[2, path.len() as u8], path.as_bytes()].concat(); // BEP 41: URLData
        let mut client = UdpClient::connected(self.udp);
        let request = client.announce_request(Announce { options: &options, ..announce });
        client.exchange(&request)
    }

    /// Announces by HTTP.
    #[track_caller]
    fn http(&self, passkey: &str, info_hash: InfoHash, port: u16, more: &str) -> String {
        let path = format!("/{passkey}{}", announce_path(info_hash, port, more));
        let response = HttpClient::connect(self.http).get(&path);
        assert_eq!(response.status, 200);
        response.text()
    }

    fn users(&self) -> Value {
        serde_json::from_slice(&HttpClient::connect(self.http).get("/users").body).expect("JSON")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.members); // a test may have removed it
    }
}

const UNKNOWN: &str = "d14:failure reason15:unknown passkey8:retry in5:nevere";

#[test]
fn private_refuses_requests_without_the_passkey_of_a_member() {
    let tracker = Private::start("refused");
    assert_eq!(tracker.http("c3", info_hash(1), 1, ""), UNKNOWN);
    assert_eq!(error_of(&tracker.udp("c3", announcement(info_hash(1), 1))), "unknown passkey");
    let mut http = HttpClient::connect(tracker.http);
    assert_eq!(http.get(&announce_path(info_hash(1), 1, "")).text(), UNKNOWN);
    assert_eq!(http.get(&scrape_path(&[info_hash(1)])).text(), UNKNOWN);
    let mut udp = UdpClient::connected(tracker.udp);
    for request in [udp.announce_request(announcement(info_hash(1), 1)), udp.scrape_request(&[info_hash(1)])]
    {
        assert_eq!(error_of(&udp.exchange(&request)), "unknown passkey");
    }
    assert_eq!(tracker.users(), json!({}));
}

#[derive(Deserialize)]
struct Peers {
    peers: ByteBuf,
}

#[test]
fn private_gives_members_their_peers() {
    let tracker = Private::start("peers");
    tracker.udp("a1", announcement(info_hash(1), 1));
    let answer = tracker.http("b2", info_hash(1), 2, "");
    let answer: Peers = serde_bencode::from_str(&answer).expect("peers");
    assert_eq!(unpack(Family::V4, &answer.peers)[0].port(), 1);
    let client = UdpClient::new(tracker.udp);
    // The first request asks the store, the second one finds the result in the worker.
    for _ in 0..2 {
        let reply = tracker.udp("a1", announcement(info_hash(1), 1));
        assert_eq!(client.read_announced(&reply).ports(), [2]);
    }
    let scrape = format!("/a1{}", scrape_path(&[info_hash(1)]));
    assert!(HttpClient::connect(tracker.http).get(&scrape).text().contains("10:incompletei2e"));
}

#[test]
fn private_reads_its_file_again() {
    let tracker = Private::start("anew");
    assert_eq!(tracker.http("c3", info_hash(1), 1, ""), UNKNOWN);
    OpenOptions::new().append(true).open(&tracker.members).unwrap().write_all(b"c3 Carol\n").unwrap();
    assert!(tracker.http("c3", info_hash(1), 1, "").contains("10:incompletei1e"));
    assert_eq!(tracker.users(), json!({ "Carol": { "uploaded": 0, "downloaded": 0 } }));
    fs::remove_file(&tracker.members).unwrap();
    assert_eq!(tracker.http("d4", info_hash(1), 2, ""), "d14:failure reason14:internal errore");
    let line = tracker.program.find_line("a request failed").expect("a line of the log");
    assert!(line.contains("No such file"), "{line}");
}

#[test]
fn private_counts_what_members_transfer() {
    let tracker = Private::start("counts");
    let bob = |uploaded, event| {
        tracker.udp("b2", Announce { uploaded, downloaded: 3, event, ..announcement(info_hash(1), 1) });
    };
    tracker.http("a1", info_hash(1), 1, "&uploaded=100&downloaded=0"); // counting starts here
    tracker.http("a1", info_hash(1), 1, "&uploaded=150&downloaded=20");
    tracker.http("a1", info_hash(1), 1, "&uploaded=157&downloaded=20");
    tracker.http("a1", info_hash(2), 1, "&uploaded=9&downloaded=0");
    tracker.http("a1", info_hash(2), 1, "&uploaded=0&downloaded=0"); // starts again
    tracker.http("a1", info_hash(2), 1, "&uploaded=1000&downloaded=0");
    bob(0, Event::Started);
    bob(5, Event::Stopped);
    bob(1_000_000, Event::Started);
    tracker.http("c3", info_hash(1), 1, "&uploaded=7");
    let expected = json!({
        "Alice": { "uploaded": 1_057, "downloaded": 20 },
        "Bob": { "uploaded": 5, "downloaded": 0 },
    });
    assert_eq!(tracker.users(), expected);
}

/// The operators' site, and a browser that uses it.
struct Operators {
    #[allow(dead_code, reason = "it ends with this")]
    program: Program,
    udp: SocketAddr,
    http: SocketAddr,
    browser: ureq::Agent,
}

impl Operators {
    fn start() -> Self {
        let program = Program::run(example("operators").arg(ANYWHERE).env("GYRE_PASSWORD", PASSWORD));
        let (udp, http) = program.serving();
        Self { program, udp, http, browser: browser() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Response<Body> {
        self.browser.get(self.url(path)).call().expect("a response")
    }

    #[track_caller]
    fn post(&self, path: &str, name: &str, value: &str) -> Response<Body> {
        self.browser.post(self.url(path)).send_form([(name, value)]).expect("a response")
    }

    #[track_caller]
    fn log_in(&self) -> Response<Body> {
        let response = self.post("/login", "password", PASSWORD);
        assert_eq!((response.status().as_u16(), field(&response, "location")), (303, "/"));
        response
    }

    /// The status of `/api/stats`.
    #[track_caller]
    fn stats_status(&self) -> u16 {
        self.get("/api/stats").status().as_u16()
    }
}

/// A client with its own cookies.
fn browser() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_per_read(Some(DEADLINE));
    config.build().into()
}

#[track_caller]
fn field<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    let value = response.headers().get(name).unwrap_or_else(|| panic!("{name} in {:?}", response.headers()));
    value.to_str().expect("a text")
}

#[track_caller]
fn text(response: Response<Body>) -> String {
    response.into_body().read_to_string().expect("a text")
}

#[test]
fn operators_accepts_a_login_with_the_password() {
    let site = Operators::start();
    let response = site.get("/");
    assert_eq!((response.status().as_u16(), field(&response, "location")), (303, "/login"));
    assert!(text(site.get("/login")).contains("<form method=\"post\" action=\"/login\">"));
    let response = site.post("/login", "password", "correct horse battery staple");
    assert_eq!(response.status(), 403);
    assert!(text(response).contains("Wrong password."));
    assert_eq!(site.post("/login", "name", "admin").status(), 400);
    assert_eq!(site.get("/").status(), 303);
    assert_eq!(site.stats_status(), 401);
    assert_eq!(text(site.get("/api/stats")), r#"{"error":"log in first"}"#);
    assert_eq!(site.get("/live").status(), 401);

    let response = site.log_in();
    let cookie = field(&response, "set-cookie");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
    let response = site.get("/");
    assert_eq!(response.status(), 200);
    assert_eq!(field(&response, "cache-control"), "no-store");
    assert!(field(&response, "content-security-policy").starts_with("default-src 'self';"));
    assert!(text(response).contains("<td data-figure=\"swarms\">0</td>"));
}

#[test]
fn operators_gives_each_login_its_own_session() {
    let site = Operators::start();
    let cookie = |response: Response<Body>| {
        let value = field(&response, "set-cookie").split(';').next();
        value.expect("a cookie").to_owned()
    };
    let (before, after) = (cookie(site.log_in()), cookie(site.log_in()));
    assert_ne!(before, after);
    for (cookie, status) in [(before, 401), (after, 200)] {
        let request = browser().get(site.url("/api/stats")).header("cookie", &cookie);
        assert_eq!(request.call().expect("a response").status(), status, "{cookie}");
    }
}

#[test]
fn operators_counts_tries() {
    let site = Operators::start();
    for _ in 0..5 {
        assert_eq!(site.post("/login", "password", "password").status(), 403);
    }
    let response = site.post("/login", "password", PASSWORD);
    assert_eq!((response.status().as_u16(), field(&response, "retry-after")), (429, "900"));
    assert!(text(response).contains("Too many tries"));
    assert_eq!(site.stats_status(), 401);
}

#[test]
fn operators_logs_out_only_with_the_form_of_the_page() {
    let site = Operators::start();
    assert_eq!(site.post("/logout", "token", "").status(), 401);
    site.log_in();
    for token in ["", "0123456789abcdef0123456789abcdef"] {
        assert_eq!(site.post("/logout", "token", token).status(), 403);
        assert_eq!(site.stats_status(), 200);
    }
    let page = text(site.get("/"));
    let (_, rest) = page.split_once("name=\"token\" value=\"").expect("a token");
    let response = site.post("/logout", "token", &rest[..32]);
    assert_eq!((response.status().as_u16(), field(&response, "location")), (303, "/login"));
    assert_eq!(site.stats_status(), 401);
}

#[test]
fn operators_shows_the_statistics_of_the_tracker() {
    let site = Operators::start();
    site.log_in();
    UdpClient::connected(site.udp).announce(announcement(info_hash(1), 1));
    let mut http = HttpClient::connect(site.http);
    assert_eq!(http.get(&announce_path(info_hash(2), 1, "&left=0")).status, 200);
    assert_eq!(http.get(&announce_path(info_hash(1), 2, "")).status, 200);
    let stats = || -> Value {
        let mut figures: Value = serde_json::from_str(&text(site.get("/api/stats"))).expect("JSON");
        figures.as_object_mut().expect("an object").remove("connections");
        figures
    };
    let expected =
        json!({ "swarms": 2, "seeders": 1, "leechers": 2, "announces_udp": 1, "announces_http": 2 });
    eventually_equal("the figures", &expected, stats);
    assert!(text(site.get("/")).contains("<td data-figure=\"leechers\">2</td>"));

    let response = site.get("/live");
    assert_eq!(field(&response, "content-type"), "text/event-stream");
    let mut lines = BufReader::new(response.into_body().into_reader()).lines();
    for _ in 0..2 {
        let mut line = || lines.next().expect("a line").expect("a text");
        assert_eq!(line(), "event: figures");
        let data = line();
        let figures: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(figures["leechers"], 2);
        assert_eq!(line(), "");
    }
}

#[test]
fn operators_serves_files_and_error_pages() {
    let site = Operators::start();
    let page = text(site.get("/login"));
    assert!(page.contains("href=\"/static/style.css\"") && !page.contains("<style"), "{page}");
    for (path, media_type) in [("/static/style.css", "text/css"), ("/static/live.js", "text/javascript")] {
        let response = site.get(path);
        assert_eq!(
            (response.status().as_u16(), field(&response, "content-type")),
            (200, &*format!("{media_type}; charset=utf-8"))
        );
    }
    for path in ["/nowhere", "/static/nowhere", "/static/../login.html", "/static/%2e%2e/login.html"] {
        let response = site.get(path);
        assert_eq!(
            (response.status().as_u16(), field(&response, "content-type")),
            (404, "text/html; charset=utf-8")
        );
        assert!(text(response).contains("<h1>404</h1>"), "{path}");
    }
    let response = site.get("/api/nowhere");
    assert_eq!(response.status(), 404);
    assert_eq!(text(response), r#"{"error":"there is nothing at this path"}"#);
}
