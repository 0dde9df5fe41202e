//! Owns the tests of the admin listener: its statistics, and its changes of lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::process::{ANYWHERE, Program};
use crate::support::web::{Answer, Site, TempDir, curl};
use crate::support::{
    HttpClient, Tracker, announce_path, announcement, config, error_of, eventually, eventually_equal, get,
    info_hash, udp,
};
use gyre::config::{Config, Steering};
use gyre::counters::Counter;
use gyre::types::{Event, Family, InfoHash};
use serde_json::Value;

const TOKEN: &str = "an operator's token";

/// A tracker with two workers and its admin listener.
struct Watched {
    admin: Site,
    tracker: Tracker,
    directory: TempDir,
}

impl Watched {
    /// Starts it with a state directory and a token.
    fn start() -> Self {
        Self::start_in(TempDir::new())
    }

    fn start_in(directory: TempDir) -> Self {
        let config = Config {
            state_dir: Some(directory.path().join("state")),
            snapshot_interval_secs: 0,
            steering: Steering::None,
            ..config(2)
        };
        let token = directory.file("token", TOKEN.replace(' ', "-").replace('\'', "").as_bytes());
        let tracker = Tracker::start(&config);
        let admin = Site::admin(&tracker, &config, Some(token.into()));
        Self { admin, tracker, directory }
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.admin.get(path, &[]);
        assert_eq!((answer.status, answer.field("content-type")), (200, "application/json"), "{path}");
        serde_json::from_str(answer.text()).expect("JSON")
    }

    /// Sends a request with the token.
    fn change(&self, method: &str, path: &str, body: &str) -> Answer {
        let fields = [("authorization", "Bearer an-operators-token")];
        self.admin.ask_with(method, path, &fields, body)
    }

    /// Announces this number of peers in a swarm.
    fn announce(&self, info_hash: InfoHash, peers: u16) {
        let mut client = udp(&self.tracker);
        (1..=peers).for_each(|port| drop(client.announce(announcement(info_hash, port))));
    }
}

fn error(answer: &Answer) -> (u16, String) {
    let body: Value = serde_json::from_str(answer.text()).expect("JSON");
    (answer.status, body["error"].as_str().expect("words").to_owned())
}

/// Returns the values of a metric by their labels.
fn series(text: &str, name: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(name)?;
        (labels.is_empty() || labels.starts_with('{')).then(|| (labels.to_owned(), value.parse().unwrap()))
    });
    lines.collect()
}

#[test]
fn prometheus_gets_the_metrics_of_each_worker() {
    let watched = Watched::start();
    for number in 0..8 {
        watched.announce(info_hash(number), 3);
    }
    let mut client = udp(&watched.tracker);
    let mut seeder = announcement(info_hash(0), 1);
    (seeder.left, seeder.event) = (0, Event::Completed);
    client.announce(seeder);
    HttpClient::connect(watched.tracker.http(Family::V6)).get(&announce_path(info_hash(0), 9, ""));
    watched.tracker.save(crate::support::DEADLINE).unwrap();
    let text = || watched.admin.get("/metrics", &[]).text().to_owned();
    let sum = |name: &str, with: &str| -> f64 {
        let series = series(&text(), name);
        series.iter().filter(|(labels, _)| labels.contains(with)).map(|(_, value)| value).sum()
    };
    let udp_announces = r#"protocol="udp",action="announce",family="v4""#;
    eventually_equal("announces", &25., || sum("gyre_requests_total", udp_announces));
    let http_announces = r#"protocol="http",action="announce",family="v6""#;
    eventually_equal("an announce by HTTP", &1., || sum("gyre_requests_total", http_announces));
    eventually_equal("swarms", &8., || sum("gyre_swarms", ""));
    assert_eq!((sum("gyre_peers", "seeder"), sum("gyre_peers", "leecher")), (1., 24.));
    assert_eq!((sum("gyre_ipv6_peers", ""), sum("gyre_completed_total", "")), (1., 1.));
    assert_eq!(sum("gyre_swarms", r#"worker="0""#) + sum("gyre_swarms", r#"worker="1""#), 8.);
    assert!(sum("gyre_table_bytes", "") > 0. && sum("gyre_resident_bytes", "") > sum("gyre_table_bytes", ""));
    assert!(sum("gyre_snapshot_time_seconds", "") > 1.7e9 && sum("gyre_snapshot_bytes", "") > 100.);
    eventually("CPU time", || sum("gyre_cpu_seconds_total", "") > 0.);

    let answer = watched.admin.get("/metrics", &[]);
    assert!(answer.field("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"));
    // Each line belongs to a described metric, and each bucket includes those below it.
    let described: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let known = ["", "_total", "_info", "_bucket", "_sum", "_count"];
        let is_known =
            known.iter().any(|end| name.strip_suffix(end).is_some_and(|name| described.contains(name)));
        assert!(is_known, "{line}");
    }
    for worker in ["0", "1"] {
        let of = |name: &str| -> Vec<f64> {
            let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
            let own = lines.filter(|line| line.contains(&format!("worker=\"{worker}\"")));
            own.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
        };
        for (name, bounds) in [("gyre_turn_seconds", 20), ("gyre_turn_datagrams", 8)] {
            let buckets = of(&format!("{name}_bucket"));
            assert!(buckets.is_sorted() && buckets.len() == bounds + 1, "{name}: {buckets:?}");
            assert_eq!(of(&format!("{name}_count")), buckets[bounds..]);
            assert!(buckets[bounds] > 0. && of(&format!("{name}_sum"))[0] > 0., "{name}");
        }
    }
}

#[test]
fn statistics_are_served_once_or_each_second() {
    let watched = Watched::start();
    watched.announce(info_hash(1), 5);
    eventually_equal("announces", &5, || {
        watched.json("/api/stats")["total"]["udp"]["announces"]["v4"].as_u64().unwrap()
    });
    let stats = watched.json("/api/stats");
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(stats["workers"].as_array().unwrap().len(), 2);
    let announces = |worker: usize| stats["workers"][worker]["udp"]["announces"]["v4"].as_u64().unwrap();
    assert_eq!(announces(0) + announces(1), 5);
    let read: gyre::admin::stats::Stats =
        serde_json::from_value(stats.clone()).expect("what it was written from");
    assert_eq!(serde_json::to_value(&read).unwrap(), stats);

    let mut client = watched.admin.connect();
    client.send(get("/api/events"));
    let head = client.receive_head();
    assert_eq!((head.status, head.field("Content-Type")), (200, Some("text/event-stream")));
    let mut seen = Vec::new();
    let mut text = String::new();
    while seen.len() < 2 {
        text += str::from_utf8(&client.receive_bytes(1)).unwrap_or("?");
        if let Some(line) = text.strip_suffix('\n') {
            if let Some(data) = line.strip_prefix("data: ") {
                seen.push(serde_json::from_str::<Value>(data).expect("JSON")["unix_ms"].as_u64().unwrap());
            }
            text.clear();
        }
    }
    assert!(seen[1] > seen[0], "{seen:?}");
}

#[test]
fn the_largest_swarms_come_first() {
    let watched = Watched::start();
    for number in 0..30 {
        watched.announce(info_hash(number), 1 + number as u16);
    }
    watched.tracker.await_count(&[Counter::Leechers], 465);
    let swarms = watched.json("/api/swarms?by=leechers&limit=10");
    let swarms = swarms.as_array().unwrap();
    let expected: Vec<_> = (20..30).rev().map(|number| format!("{:?}", info_hash(number))).collect();
    assert_eq!(swarms.iter().map(|swarm| swarm["info_hash"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    assert_eq!(swarms[0]["leechers"], 30);
    assert_eq!(watched.json("/api/swarms").as_array().unwrap().len(), 20);
    assert_eq!(watched.json("/api/swarms?limit=1000").as_array().unwrap().len(), 30);
    for wrong in ["/api/swarms?by=size", "/api/swarms?limit=-1", "/api/full-scrape?format=xml"] {
        assert_eq!(error(&watched.admin.get(wrong, &[])).0, 400, "{wrong}");
    }
}

#[test]
fn one_swarm_is_shown_with_its_peers() {
    let watched = Watched::start();
    watched.announce(info_hash(1), 5); // more than fit into a record
    watched.announce(info_hash(2), 2);
    for (number, peers) in [(1, 5), (2, 2)] {
        let swarm = watched.json(&format!("/api/swarms/{:?}", info_hash(number)));
        assert_eq!((&swarm["leechers"], &swarm["seeders"]), (&peers.into(), &0.into()));
        let ports: BTreeSet<_> =
            swarm["peers"].as_array().unwrap().iter().map(|peer| peer["address"].to_string()).collect();
        let expected = (1..=peers).map(|port| format!("\"127.0.0.1:{port}\""));
        assert_eq!(ports, expected.collect());
    }
    let few = watched.json(&format!("/api/swarms/{:?}?peers=3", info_hash(1)));
    assert_eq!(few["peers"].as_array().unwrap().len(), 3);
    assert_eq!(error(&watched.admin.get(&format!("/api/swarms/{:?}", info_hash(3)), &[])).0, 404);
    assert_eq!(error(&watched.admin.get("/api/swarms/nonsense", &[])).0, 400);
}

#[test]
fn a_full_scrape_has_all_swarms() {
    let watched = Watched::start();
    const SWARMS: u64 = 5_000; // several slices of each worker
    let mut client = udp(&watched.tracker);
    for number in 0..SWARMS {
        client.announce(announcement(info_hash(number), 1));
    }
    let expected: BTreeSet<_> = (0..SWARMS).map(|number| format!("{:?}", info_hash(number))).collect();
    let lines = watched.admin.get("/api/full-scrape?format=ndjson", &[]);
    let hashes = lines.text().lines().map(|line| {
        let swarm: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(swarm["leechers"], 1);
        swarm["info_hash"].as_str().unwrap().to_owned()
    });
    assert_eq!(hashes.collect::<Vec<_>>().len(), SWARMS as usize);
    assert_eq!(
        lines
            .text()
            .lines()
            .map(|line| line[line.find("info_hash").unwrap() + 12..][..40].to_owned())
            .collect::<BTreeSet<_>>(),
        expected
    );

    let bencoded = watched.admin.get("/api/full-scrape", &[]).body;
    let one = b"d8:completei0e10:downloadedi0e10:incompletei1ee".len() + 3 + 20;
    assert_eq!(bencoded.len(), "d5:filesdee".len() + SWARMS as usize * one);
    assert!(bencoded.starts_with(b"d5:filesd20:") && bencoded.ends_with(b"i1eeee"));
    let found: BTreeSet<_> = bencoded[9..bencoded.len() - 2]
        .chunks(one)
        .map(|swarm| format!("{:?}", InfoHash(swarm[3..23].try_into().unwrap())))
        .collect();
    assert_eq!(found, expected);
    #[cfg(feature = "compression")]
    for encoding in ["gzip", "zstd"] {
        let accept = format!("accept-encoding: {encoding}");
        let packed = curl(&["-H", &accept, &watched.admin.url("/api/full-scrape?format=ndjson")]);
        assert!(packed.out.len() < lines.body.len() / 2, "{encoding}: {}", packed.out.len());
    }
}

#[test]
fn clients_have_their_share_of_the_announces() {
    let watched = Watched::start();
    let mut client = udp(&watched.tracker);
    let mut other = announcement(info_hash(1), 1);
    let id = gyre::types::PeerId(*b"-TR4060-0123456789ab");
    other.peer_id = id;
    let mut round = 0;
    eventually("both clients", || {
        round += 1; // the clients take turns, since only one of two that announce at once is sampled
        client.announce(if round % 2 == 0 { other } else { announcement(info_hash(1), 2) });
        let clients = watched.json("/api/clients");
        let clients = clients.as_array().unwrap();
        let total: f64 = clients.iter().map(|client| client["share"].as_f64().unwrap()).sum();
        clients.iter().any(|client| client["id"] == "-TR4060-")
            && clients.len() == 2
            && (total - 1.).abs() < 1e-9
    });
}

#[test]
fn the_doctor_runs_over_http() {
    let watched = Watched::start();
    let found = watched.json("/api/doctor");
    let checks: Vec<_> =
        found["findings"].as_array().unwrap().iter().map(|one| one["check"].as_str().unwrap()).collect();
    assert!(checks.contains(&"io-uring") && checks.contains(&"options"), "{checks:?}");
}

#[test]
fn the_admin_listener_is_not_a_tracker() {
    let watched = Watched::start();
    let answer = watched.admin.get(&announce_path(info_hash(1), 1, ""), &[]);
    assert!(answer.text().contains("not a tracker"), "{:?}", answer.told());
    assert_eq!(watched.tracker.count(&[Counter::HttpAnnounceV4]), 0);
    assert_eq!(error(&watched.admin.get("/nothing", &[])).0, 404);
}

/// Returns the error message of a denied UDP announce, or `None` if it was not denied.
fn denied(tracker: &Tracker, info_hash: InfoHash) -> Option<String> {
    let mut client = udp(tracker);
    let request = client.announce_request(announcement(info_hash, 1));
    let reply = client.exchange(&request);
    (reply[..4] == [0, 0, 0, 3]).then(|| error_of(&reply))
}

#[test]
fn lists_can_be_changed_with_the_token_and_are_kept() {
    let watched = Watched::start();
    let path = "/api/lists/deny-hashes";
    let hash = |number| format!("{:?}", info_hash(number));
    let is_denied = |watched: &Watched, number| denied(&watched.tracker, info_hash(number)).is_some();
    assert_eq!(error(&watched.admin.get(path, &[])).0, 404);
    assert_eq!(
        watched.change("PUT", path, &format!("{} # one\n{}", hash(1), hash(2))).text(),
        r#"{"entries":2,"name":"deny-hashes"}"#
    );
    eventually("a list in force", || {
        is_denied(&watched, 1) && is_denied(&watched, 2) && !is_denied(&watched, 3)
    });
    assert_eq!(watched.change("POST", path, &format!("{}\n{} 2020-01-01\n", hash(3), hash(4))).status, 200);
    eventually("an entry added", || is_denied(&watched, 3) && !is_denied(&watched, 4));
    let text = watched.admin.get(path, &[]);
    assert_eq!(text.text(), format!("{} # one\n{}\n{}\n{} 2020-01-01\n", hash(1), hash(2), hash(3), hash(4)));
    // An entry can be removed in any notation.
    assert_eq!(watched.change("DELETE", &format!("{path}/{}", hash(1).to_uppercase()), "").status, 200);
    eventually("an entry gone", || !is_denied(&watched, 1) && is_denied(&watched, 2));
    assert_eq!(error(&watched.change("DELETE", &format!("{path}/{}", hash(1)), "")).0, 404);
    let lists = watched.json("/api/lists");
    let own = &lists.as_array().unwrap()[0];
    assert_eq!(
        (&own["name"], &own["entries"], &own["own"]),
        (&"deny-hashes".into(), &3.into(), &true.into())
    );

    // The list survives a restart.
    let Watched { admin, tracker, directory } = watched;
    drop((admin, tracker));
    let watched = Watched::start_in(directory);
    assert!(is_denied(&watched, 2) && !is_denied(&watched, 1));
    assert_eq!(watched.change("DELETE", path, "").text(), r#"{"entries":null,"name":"deny-hashes"}"#);
    eventually("no list any more", || !is_denied(&watched, 2));
    assert_eq!(error(&watched.change("DELETE", path, "")).0, 404);
    assert_eq!(fs::read_dir(watched.directory.path().join("state/lists")).unwrap().count(), 0);
}

#[test]
fn lists_of_networks_and_clients_can_be_changed_too() {
    let watched = Watched::start();
    for (name, entry, in_path) in [
        ("deny-sources", "203.0.113.0/24", "203.0.113.0/24"),
        ("allow-clients", "-TR", "-TR"),
        ("deny-clients", "%00x", "%2500x"),
        ("allow-sources", "::/0", "::/0"),
        ("allow-hashes", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "0000000000000000000000000000000000000000"),
    ] {
        let path = format!("/api/lists/{name}");
        assert_eq!(watched.change("POST", &path, entry).status, 200, "{name}");
        assert_eq!(watched.admin.get(&path, &[]).text(), entry);
        assert_eq!(watched.change("DELETE", &format!("{path}/{in_path}"), "").status, 200, "{name}");
        // An empty allow list allows nothing, until it is deleted.
        assert_eq!(watched.admin.get(&path, &[]).told(), (200, ""));
        assert_eq!(watched.change("DELETE", &path, "").status, 200);
    }
}

#[test]
fn without_a_token_or_a_valid_list_nothing_is_changed() {
    let watched = Watched::start();
    let path = "/api/lists/deny-hashes";
    let entry = format!("{:?}\n", info_hash(1));
    for fields in [
        &[][..],
        &[("authorization", "Bearer an-operators-tokem")],
        &[("authorization", "Bearer")],
        &[("authorization", "Basic an-operators-token")],
    ] {
        for (method, path) in
            [("PUT", path), ("POST", path), ("DELETE", path), ("DELETE", "/api/lists/deny-hashes/x")]
        {
            let answer = watched.admin.ask_with(method, path, fields, entry.as_str());
            assert_eq!(
                (error(&answer).0, answer.field("www-authenticate")),
                (401, "Bearer"),
                "{method} {fields:?}"
            );
        }
    }
    let wrong = watched.change("PUT", path, &format!("{entry}\n  nonsense\n"));
    assert_eq!(error(&wrong), (400, "3:3: not an info-hash: use 40 hexadecimal or 32 base 32 digits".into()));
    assert_eq!(watched.change("POST", path, &entry).status, 200);
    assert_eq!(error(&watched.change("POST", path, "nonsense")).0, 400);
    assert_eq!(error(&watched.change("PUT", path, "nonsense")).0, 400);
    assert_eq!(error(&watched.change("PUT", "/api/lists/deny-nothing", "")).0, 404);
    assert_eq!(watched.admin.get(path, &[]).text(), entry, "the list is unchanged");
    let kept = fs::read_dir(watched.directory.path().join("state/lists")).unwrap();
    let kept: Vec<_> = kept.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(kept, ["deny-hashes"], "refused uploads leave no files");
}

#[test]
fn without_a_state_directory_there_are_no_own_lists() {
    let directory = TempDir::new();
    let config = config(1);
    let tracker = Tracker::start(&config);
    let put = |admin: &Site| {
        let fields = [("authorization", "Bearer 0123456789abcdef")];
        error(&admin.ask_with("PUT", "/api/lists/deny-hashes", &fields, ""))
    };
    let (status, words) = put(&Site::admin(&tracker, &config, None));
    assert!(status == 403 && words.contains("--admin-token-file"), "{words}");
    let token = directory.file("token", b"0123456789abcdef\n");
    let (status, words) = put(&Site::admin(&tracker, &config, Some(token.into())));
    assert!(status == 403 && words.contains("--state-dir"), "{words}");
}

#[test]
fn the_openapi_description_matches_the_routes() {
    let watched = Watched::start();
    let described = watched.json("/api/openapi.json");
    let paths = described["paths"].as_object().unwrap();
    let mut asked = 0;
    for (path, methods) in paths {
        let hash = format!("{:?}", info_hash(1));
        let there =
            path.replace("{info_hash}", &hash).replace("{name}", "deny-hashes").replace("{entry}", "x");
        for method in ["get", "put", "post", "delete", "patch"] {
            if there == "/api/events" || (there == "/api/doctor" && method == "get") {
                continue; // the one is endless; the other is slow and has its own test
            }
            let answer = watched.admin.ask_with(&method.to_uppercase(), &there, &[], "");
            let is_described = methods.get(method).is_some();
            assert_eq!(answer.status != 405, is_described, "{method} {path}");
            let codes = methods[method]["responses"].as_object();
            let code = answer.status.to_string();
            assert!(!is_described || codes.unwrap().contains_key(&code), "{method} {path}: {code}");
            asked += 1;
        }
    }
    assert!(asked > 30, "{asked}");
}

#[test]
fn the_program_serves_the_admin_listener() {
    let directory = TempDir::new();
    let state = directory.path().join("state");
    let program = Program::serve(&format!("{ANYWHERE} --admin 127.0.0.1:0 --state-dir {}", state.display()));
    let line = program.find_line("gyre: ready: ").unwrap();
    let address = line.split(' ').skip_while(|word| *word != "admin").nth(1).unwrap();
    let stats = curl(&[&format!("http://{address}/api/stats")]);
    assert!(stats.text().contains(r#""workers":["#), "{stats:?}");
    // A token file was created, is readable by its owner only, and works.
    let token = fs::read_to_string(state.join("admin-token")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(state.join("admin-token")).unwrap().permissions(),
    );
    assert_eq!((token.trim().len(), mode & 0o777), (40, 0o600));
    let field = format!("authorization: Bearer {}", token.trim());
    let url = format!("http://{address}/api/lists/deny-clients");
    assert_eq!(
        curl(&["-X", "PUT", "-H", &field, "--data-binary", "-XX", &url]).text(),
        r#"{"entries":1,"name":"deny-clients"}"#
    );
    // A second tracker at the same address is an error.
    let other = Program::serve(&format!("{ANYWHERE} --admin {address}"));
    let words = other.ends_with(1);
    assert!(words.contains("the admin listener: ") && words.contains("--no-admin"), "{words}");
    let short = directory.file("short", b"short");
    let other = Program::serve(&format!("{ANYWHERE} --admin 127.0.0.1:0 --admin-token-file {short}"));
    let words = other.ends_with(1);
    assert!(words.contains(&short) && words.contains("16 to 256"), "{words}");
}

#[test]
fn the_documents_name_existing_metrics() {
    let watched = Watched::start();
    watched.tracker.save(crate::support::DEADLINE).unwrap();
    assert_eq!(watched.change("PUT", "/api/lists/deny-clients", "-XX").status, 200);
    let answer = watched.admin.get("/metrics", &[]);
    let series: BTreeSet<_> =
        answer.text().lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let described: BTreeSet<_> =
        answer.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for document in ["operating.md", "alerts.yml", "grafana.json"] {
        let text = fs::read_to_string(format!("{}/docs/{document}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let is_name = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        let names = text
            .match_indices("gyre_")
            .map(|(at, _)| text[at..].split(|letter| !is_name(letter)).next().unwrap());
        let names: BTreeSet<_> = names.collect();
        assert!(names.len() > 10, "{document}: {names:?}");
        for name in &names {
            let is_histogram = document == "operating.md" && described.contains(name);
            assert!(series.contains(name) || is_histogram, "{name} in {document}");
        }
        // Each metric is documented.
        if document == "operating.md" {
            let bare = |name: &str| name.trim_end_matches("_total").trim_end_matches("_info").to_owned();
            let explained: BTreeSet<_> = names.iter().map(|name| bare(name)).collect();
            let missing: Vec<_> = described.iter().filter(|name| !explained.contains(**name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }
}
