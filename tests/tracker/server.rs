//! Owns the tests of the start and the end of a server.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::support::{
    FAMILIES, HttpClient, Tracker, UdpClient, announce_path, announcement, config, eventually, get,
    info_hash, listen, loopback, scrape_path,
};
use gyre::config::{Config, Cores, Listen};
use gyre::counters::Counter;
use gyre::limits::SHUTDOWN_GRACE_MS;
use gyre::types::Family;

/// Returns the error of a server that can't start.
#[track_caller]
fn refusal(config: &Config) -> String {
    gyre::Tracker::builder().config(config.clone()).listen().err().expect("an error at the start").to_string()
}

fn at(address: SocketAddr) -> Listen {
    Listen::At(vec![address])
}

#[test]
fn addresses_and_cores_can_be_set_one_by_one() {
    let [v4, v6] = FAMILIES.map(|family| SocketAddr::new(loopback(family), 0));
    let builder = gyre::Tracker::builder().udp(v4).http(v4).http(v6).cores(Cores::Floating(2));
    let mut tracker = builder.listen().unwrap();
    let ips = |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::ip).collect::<Vec<_>>();
    assert_eq!(ips(tracker.udp_addresses()), [v4.ip()]);
    assert_eq!(ips(tracker.http_addresses()), [v4.ip(), v6.ip()]);
    assert_eq!(tracker.counters().len(), 2);
    for &address in tracker.http_addresses() {
        assert_eq!(HttpClient::connect(address).get("/health").status, 200);
    }
    tracker.stop();
    assert!(tracker.wait(crate::support::STOP_DEADLINE).unwrap());
}

#[test]
fn a_port_in_use_is_an_error_with_its_option() {
    for ip in FAMILIES.map(loopback) {
        let udp = UdpSocket::bind((ip, 0)).unwrap();
        let tcp = TcpListener::bind((ip, 0)).unwrap();
        let (udp_taken, tcp_taken) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        for (taken, name, config) in [
            (udp_taken, "udp", Config { udp: at(udp_taken), ..config(2) }),
            (tcp_taken, "http", Config { http: at(tcp_taken), ..config(2) }),
        ] {
            let error = refusal(&config);
            for part in [&format!("{name} on {taken}: "), "in use", &format!("--{name}")] {
                assert!(error.contains(part), "{part:?} in {error:?}");
            }
        }
    }
}

/// Otherwise the sockets of both trackers would share the port, and each would get a part of the requests.
#[test]
fn a_port_of_another_tracker_is_not_shared() {
    let first = Tracker::start(&config(2));
    for family in FAMILIES {
        let error = refusal(&Config { udp: at(first.udp(family)), ..config(1) });
        assert!(error.contains("in use") && error.contains(&first.udp(family).to_string()), "{error}");
        let error = refusal(&Config { http: at(first.http(family)), ..config(1) });
        assert!(error.contains("in use") && error.contains(&first.http(family).to_string()), "{error}");
        UdpClient::connected(first.udp(family));
        assert_eq!(HttpClient::connect(first.http(family)).get("/health").status, 200);
    }
}

#[test]
fn an_invalid_configuration_is_an_error_with_the_reason() {
    let none = Listen::At(Vec::new());
    let nothing = refusal(&Config { udp: none.clone(), http: none.clone(), ..config(1) });
    assert!(nothing.contains("nothing to serve"), "{nothing}");
    let core = refusal(&Config { cores: Cores::List(vec![4_095]), ..config(1) });
    let first = gyre::sys::allowed_cores().unwrap()[0].to_string();
    let (refused, allowed) = core.split_once("available cores:").expect("the allowed cores");
    assert!(refused.contains("core 4095 is not available") && allowed.trim().starts_with(&first), "{core}");
    let elsewhere: IpAddr = "192.0.2.1".parse().unwrap(); // for documentation only (RFC 5737)
    for (name, config) in [
        ("udp", Config { udp: at(SocketAddr::new(elsewhere, 0)), ..config(1) }),
        ("udp", Config { udp: at(SocketAddr::new(elsewhere, 6_969)), ..config(1) }),
        ("http", Config { http: at(SocketAddr::new(elsewhere, 0)), ..config(1) }),
    ] {
        let error = refusal(&config);
        assert!(error.contains(&format!("{name} on 192.0.2.1:")), "{error}");
        assert!(error.contains("this machine does not have that address"), "{error}");
    }
}

#[test]
fn udp_alone_is_enough() {
    let tracker = Tracker::start(&Config { http: Listen::At(Vec::new()), ..config(2) });
    for number in 0..20 {
        UdpClient::connected(tracker.udp(Family::V4)).announce(announcement(info_hash(number), 1));
    }
}

#[test]
fn http_alone_is_enough() {
    let tracker = Tracker::start(&Config { udp: Listen::At(Vec::new()), ..config(2) });
    for number in 0..20 {
        let mut client = HttpClient::connect(tracker.http(Family::V4));
        assert_eq!(client.get(&announce_path(info_hash(number), 1, "")).status, 200);
    }
}

#[test]
fn an_idle_server_stops_at_once_and_may_be_stopped_again() {
    for workers in 1..=4 {
        let mut tracker = Tracker::start(&config(workers));
        tracker.stop();
        tracker.stop();
        let grace = Duration::from_millis(SHUTDOWN_GRACE_MS);
        assert!(tracker.wait_for(grace), "it waited for the end of the grace period without a client");
        assert!(tracker.wait(), "waiting again returns the same");
    }
}

#[test]
fn a_stopping_server_finishes_requests_in_flight() {
    for workers in [1, 3] {
        let mut tracker = Tracker::start(&config(workers));
        let address = tracker.http(Family::V4);
        let connect = || HttpClient::connect(address);
        let mut idle: Vec<_> = (0..20).map(|_| connect()).collect();
        idle[..10].iter_mut().for_each(|client| assert_eq!(client.get("/health").status, 200));
        // The tracker has answered one request of each and has the first half of another.
        let requests = (0..20).map(|number| get(&announce_path(info_hash(number), 1, "")));
        let mut in_flight: Vec<_> = requests.map(|request| (connect(), request)).collect();
        for (client, request) in &mut in_flight {
            assert_eq!(client.request(get("/health") + &request[..30]).status, 200);
        }
        tracker.await_count(&[Counter::Connections], 40);
        tracker.stop();
        // Idle connections are closed at once, not at the end of the grace period.
        idle.iter_mut().for_each(|client| assert_eq!(client.rest(), b"", "an idle connection is closed"));
        eventually("new connections are refused", || TcpStream::connect(address).is_err());
        in_flight.iter().for_each(|(client, request)| client.send(&request[30..]));
        for (client, _) in &mut in_flight {
            let response = client.receive();
            assert_eq!((response.status, response.field("Connection")), (200, Some("close")));
            assert_eq!(client.rest(), b"");
        }
        assert!(tracker.wait());
        assert_eq!(tracker.count(&[Counter::Connections]), 0);
        assert_eq!(tracker.count(&[Counter::HttpAnnounceV4]), 20, "every request is counted");
    }
}

/// Sends requests by UDP and HTTP until the tracker has ended.
fn load(tracker: &Tracker, family: Family, number: u64) -> impl FnOnce() + Send + use<> {
    let mut udp = UdpClient::connected(tracker.udp(family));
    let mut http = HttpClient::connect(tracker.http(family));
    move || {
        let announce = announce_path(info_hash(number), 1, "");
        let path = if number < 4 { announce } else { scrape_path(&[info_hash(1), info_hash(2)]) };
        while let Some(response) = http.try_request(get(&path)) {
            assert_eq!(response.status, 200);
            let announce = udp.announce_request(announcement(info_hash(number), 1));
            let _ = udp.try_send(&announce); // the tracker may have ended
        }
    }
}

#[test]
fn a_server_under_load_stops() {
    for workers in [1, 3] {
        let mut tracker = Tracker::start(&config(workers));
        let loads: Vec<_> =
            (0..6).map(|number| load(&tracker, FAMILIES[number as usize % 2], number)).collect();
        let loads: Vec<_> = loads.into_iter().map(thread::spawn).collect();
        let requests = [Counter::HttpAnnounceV4, Counter::HttpAnnounceV6, Counter::UdpAnnounceV4];
        eventually("the load has started", || requests.iter().all(|counter| tracker.count(&[*counter]) > 50));
        tracker.stop();
        assert!(tracker.wait());
        loads.into_iter().for_each(|load| load.join().expect("every response was complete"));
    }
}

/// The kernel frees a ring some time after it is closed. The sockets must not wait for that.
#[test]
fn ports_are_free_as_soon_as_the_server_has_ended() {
    let ip: IpAddr = "127.0.0.77".parse().unwrap(); // no other test takes ports of this address
    for _ in 0..10 {
        let mut tracker = Tracker::start(&Config { udp: listen(&[ip]), http: listen(&[ip]), ..config(2) });
        let (udp, http) = (tracker.udp(Family::V4), tracker.http(Family::V4));
        UdpClient::connected(udp).announce(announcement(info_hash(1), 1));
        let mut client = HttpClient::connect(http);
        assert_eq!(client.get("/health").status, 200);
        tracker.stop();
        assert!(tracker.wait());
        drop(UdpSocket::bind(udp).expect("a free port"));
        drop(TcpListener::bind(http).expect("a free port"));
        let again = Tracker::start(&Config { udp: at(udp), http: at(http), ..config(2) });
        UdpClient::connected(again.udp(Family::V4));
        assert_eq!(HttpClient::connect(http).get("/health").status, 200);
    }
}
