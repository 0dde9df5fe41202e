//! Owns the tests of lists on a running tracker: denied requests, removed swarms, and changes of lists and other
//! options at run time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::web::TempDir;
use crate::support::{
    HttpClient, Tracker, UdpClient, announce_path, announcement, config, error_of, eventually,
    eventually_equal, get, info_hash, udp,
};
use gyre::config::{Config, Listen, Lists, Steering};
use gyre::counters::Counter;
use gyre::types::{Family, InfoHash};

fn write(directory: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    directory.file(name, text.as_ref()).into()
}

fn with_lists(lists: Lists) -> Config {
    Config { lists, steering: Steering::None, ..config(2) }
}

fn announce_http(tracker: &Tracker, info_hash: InfoHash) -> String {
    HttpClient::connect(tracker.http(Family::V4)).get(&announce_path(info_hash, 1, "")).text()
}

/// Announces by UDP. Returns the error message, or `None` if the announce is not denied.
fn denied(client: &mut UdpClient, info_hash: InfoHash) -> Option<String> {
    let request = client.announce_request(announcement(info_hash, 1));
    let reply = client.exchange(&request);
    (reply[..4] == [0, 0, 0, 3]).then(|| error_of(&reply))
}

fn lines(hashes: impl IntoIterator<Item = InfoHash>) -> String {
    hashes.into_iter().map(|hash| format!("{hash:?} # a torrent\n")).collect()
}

#[test]
fn denied_torrents_are_refused_and_removed() {
    let directory = TempDir::new();
    let list = write(&directory, "deny", "");
    let lists =
        Lists { deny_hashes: vec![list.clone()], torrent_reason: "not here".into(), ..Lists::default() };
    let tracker = Tracker::start(&with_lists(lists));
    let mut client = udp(&tracker);
    for number in 0..8 {
        assert_eq!(denied(&mut client, info_hash(number)), None);
    }
    tracker.await_count(&[Counter::Swarms], 8);
    write(&directory, "deny", lines((0..6).map(info_hash)));
    eventually_equal("the list is read again", &Some("not here".to_owned()), || {
        denied(&mut client, info_hash(0))
    });
    // Their swarms are removed and their memory is freed.
    tracker.await_count(&[Counter::Swarms], 2);
    tracker.await_count(&[Counter::Leechers], 2);
    assert_eq!(tracker.count(&[Counter::DeniedPeers]), 6);
    for number in 0..8 {
        assert_eq!(denied(&mut client, info_hash(number)).is_some(), number < 6, "{number}");
        assert_eq!(
            announce_http(&tracker, info_hash(number)).contains("14:failure reason8:not here"),
            number < 6
        );
    }
    assert!(client.scrape(&[info_hash(0)])[0] == gyre::types::SwarmCounts::default());
    eventually("the denials are counted", || tracker.count(&[Counter::DeniedTorrent]) >= 12);
}

#[test]
fn torrents_that_no_list_allows_are_refused() {
    let directory = TempDir::new();
    let first = write(&directory, "first", lines([info_hash(1), info_hash(2)]));
    let second = write(&directory, "second", "");
    let deny = write(&directory, "deny", lines([info_hash(2)]));
    let lists = Lists { allow_hashes: vec![first, second], deny_hashes: vec![deny], ..Lists::default() };
    let tracker = Tracker::start(&with_lists(lists));
    let mut client = udp(&tracker);
    let reason = Some("torrent is not registered with this tracker".to_owned());
    assert_eq!(denied(&mut client, info_hash(1)), None);
    assert_eq!(denied(&mut client, info_hash(2)), reason, "denied and allowed");
    assert_eq!(denied(&mut client, info_hash(3)), reason);
    write(&directory, "second", lines([info_hash(3)]));
    eventually_equal("the list is read again", &None, || denied(&mut client, info_hash(3)));
    assert_eq!(denied(&mut client, info_hash(1)), None, "the other list still applies");
}

#[test]
fn an_invalid_list_is_an_error_with_its_position_and_the_last_valid_one_stays() {
    let directory = TempDir::new();
    let list = write(&directory, "allow", "nonsense\n");
    let lists = |list: &Path| Lists { allow_hashes: vec![list.to_owned()], ..Lists::default() };
    let error = gyre::Tracker::builder().config(with_lists(lists(&list))).listen().err().unwrap().to_string();
    assert!(error.starts_with(&format!("{}:1:1: not an info-hash", list.display())), "{error}");
    let missing = directory.path().join("missing");
    let error =
        gyre::Tracker::builder().config(with_lists(lists(&missing))).listen().err().unwrap().to_string();
    assert!(error.contains(missing.to_str().unwrap()) && error.contains("No such file"), "{error}");

    let list = write(&directory, "allow", lines([info_hash(1)]));
    let second = write(&directory, "deny", "");
    let tracker = Tracker::start(&with_lists(Lists { deny_hashes: vec![second], ..lists(&list) }));
    let mut client = udp(&tracker);
    write(&directory, "allow", lines([info_hash(2)]) + "nonsense");
    write(&directory, "deny", lines([info_hash(9)])); // once this list is read, the other one is too
    fs::remove_file(directory.path().join("allow")).unwrap();
    write(&directory, "deny", lines([info_hash(1)]));
    eventually("the other list is read again", || denied(&mut client, info_hash(1)).is_some());
    write(&directory, "deny", "");
    eventually_equal("the last valid list applies", &None, || denied(&mut client, info_hash(1)));
    assert!(denied(&mut client, info_hash(2)).is_some());
}

#[test]
fn lists_of_clients_and_networks_are_applied() {
    let directory = TempDir::new();
    let clients = write(&directory, "clients", "-XL\n-GT0001-integration!");
    let tracker = Tracker::start(&with_lists(Lists { deny_clients: vec![clients], ..Lists::default() }));
    let mut client = udp(&tracker);
    assert_eq!(denied(&mut client, info_hash(1)), Some("this client is not allowed".to_owned()));
    assert!(announce_http(&tracker, info_hash(1)).contains("26:this client is not allowed"));
    tracker.await_count(&[Counter::DeniedClient], 2);
    let mut other = announcement(info_hash(1), 1);
    other.peer_id.0[0] = b'=';
    assert_eq!(client.announce(other).leechers, 1);

    let sources = write(&directory, "sources", "127.0.0.2\n::1\n");
    let tracker = Tracker::start(&with_lists(Lists { deny_sources: vec![sources], ..Lists::default() }));
    let mut silent = UdpClient::at([127, 0, 0, 2].into(), tracker.udp(Family::V4));
    let request = silent.connect_request();
    silent.send(&request);
    tracker.await_count(&[Counter::DeniedSource], 1);
    assert_eq!(denied(&mut udp(&tracker), info_hash(1)), None);
    assert!(!silent.has_mail());
    let mut client = HttpClient::connect(tracker.http(Family::V6));
    let response = client.get(&announce_path(info_hash(1), 1, ""));
    assert!(response.text().contains("27:this address is not allowed"), "{}", response.text());
    assert!(
        client
            .get(&crate::support::scrape_path(&[info_hash(1)]))
            .text()
            .contains("this address is not allowed")
    );
    assert!(!announce_http(&tracker, info_hash(1)).contains("failure"));
}

#[test]
fn with_an_empty_reason_udp_requests_get_no_answer() {
    let directory = TempDir::new();
    let list = write(&directory, "deny", lines([info_hash(1)]));
    let lists = Lists { deny_hashes: vec![list], torrent_reason: String::new(), ..Lists::default() };
    let tracker = Tracker::start(&with_lists(lists));
    let mut client = udp(&tracker);
    let request = client.announce_request(announcement(info_hash(1), 1));
    client.send(&request);
    tracker.await_count(&[Counter::DeniedTorrent], 1);
    assert_eq!(denied(&mut client, info_hash(2)), None);
    assert!(!client.has_mail());
    assert!(announce_http(&tracker, info_hash(1)).contains("torrent is not registered"));
}

#[test]
fn a_reload_applies_what_can_change_and_names_the_rest() {
    let directory = TempDir::new();
    let list = write(&directory, "deny", lines([info_hash(1)]));
    let start = with_lists(Lists::default());
    let mut tracker = Tracker::start(&start);
    let mut client = udp(&tracker);
    (1..9).for_each(|port| drop(client.announce(announcement(info_hash(1), port))));
    assert_eq!(client.announce(announcement(info_hash(1), 9)).peers.len(), 8);

    let mut other = Config {
        max_peers: 3,
        announce_interval_secs: 100,
        min_interval_secs: 50,
        http_connections: Some(2),
        ..start.clone()
    };
    assert_eq!(tracker.reload(&other).unwrap(), Vec::<&str>::new());
    eventually_equal("the new maximum of peers applies", &3, || {
        client.announce(announcement(info_hash(1), 9)).peers.len()
    });
    assert!((100..=106).contains(&client.announce(announcement(info_hash(1), 9)).interval_secs));
    eventually_equal("the new limit of connections applies", &2, || {
        let mut open: Vec<_> = (0..4).map(|_| HttpClient::connect(tracker.http(Family::V4))).collect();
        open.iter_mut().filter_map(|client| client.try_request(get("/health"))).count()
    });

    // Options that need a restart are named. An invalid configuration changes nothing.
    other.lists.deny_hashes = vec![list];
    let wait = Duration::from_micros(1);
    let more = Config { udp: Listen::Default, busy_poll: wait, gather: wait, ..other.clone() };
    assert_eq!(tracker.reload(&more).unwrap(), ["udp", "busy-poll", "gather"]);
    eventually("the new list applies", || denied(&mut client, info_hash(1)).is_some());
    let missing = Lists { deny_sources: vec![directory.path().join("missing")], ..Lists::default() };
    assert!(tracker.reload(&Config { max_peers: 50, lists: missing, ..other.clone() }).is_err());
    // The table keeps the timeout of the start. A longer announce interval would let every peer expire.
    let long = Config { announce_interval_secs: 86_400, peer_timeout_secs: 200_000, ..other };
    assert!(tracker.reload(&long).unwrap_err().to_string().contains("--peer-timeout"));
    assert!(denied(&mut client, info_hash(1)).is_some());
}
