//! Owns the tests of `gyre top`: a frame of a running tracker, and its errors.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::support::process::{ANYWHERE, GYRE, Program};
use crate::support::{HttpClient, UdpClient, announce_path, announcement, info_hash};

fn top(arguments: &[&str]) -> Output {
    Command::new(GYRE).arg("top").args(arguments).output().expect("a program that ends")
}

/// Returns the error message of a command that ends with this exit status.
#[track_caller]
fn error_of(arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = top(arguments);
    let said = String::from_utf8(stderr).expect("a text");
    assert_eq!((status.code(), stdout.as_slice()), (Some(code), b"".as_slice()), "{said}");
    said
}

#[test]
fn one_frame_shows_a_tracker() {
    let program = Program::serve(&format!("{ANYWHERE} --admin 127.0.0.1:0"));
    let line = program.find_line("ready").expect("a program that serves");
    let after = |word| line.split(' ').skip_while(|found| *found != word).nth(1).expect("an address");
    let (udp, http, admin) = (after("udp"), after("http"), after("admin"));
    let mut client = UdpClient::connected(udp.parse().unwrap());
    (1..=3).for_each(|port| drop(client.announce(announcement(info_hash(1), port))));
    client.send(b"this is no request"); // short
    let mut browser = HttpClient::connect(http.parse().unwrap());
    assert_eq!(browser.get(&announce_path(info_hash(2), 1, "")).status, 200);

    // Without a terminal, one frame is written even without --once.
    for arguments in [&[admin, "--once"][..], &[&format!("http://{admin}/"), "--interval", "1"]] {
        let Output { status, stdout, stderr } = top(arguments);
        assert_eq!((status.code(), stderr.as_slice()), (Some(0), b"".as_slice()));
        let frame = String::from_utf8(stdout).expect("a text");
        let heading = format!("gyre {}  http://{admin}  up ", env!("CARGO_PKG_VERSION"));
        assert!(frame.starts_with(&heading), "{frame}");
        // Workers publish four times a second, and the frame is a second later.
        let hash = format!("{:?}", info_hash(1));
        for words in
            ["swarms 2 ", "leechers 4 ", "bad ", "largest swarms by peers", &hash, "-GT0001-", " 100.0 %"]
        {
            assert!(frame.contains(words), "{words:?} in {frame}");
        }
        assert!(!frame.contains('\u{1b}') && !frame.contains("q quit"), "{frame}");
    }
}

#[test]
fn without_a_listener_there_is_an_error() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for arguments in [&[closed.as_str(), "--once"][..], &[&closed]] {
        let said = error_of(arguments, 1);
        assert!(said.starts_with(&format!("gyre: error: http://{closed} does not answer: ")), "{said}");
        assert!(said.contains("refused") && said.contains("--admin"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn another_server_is_an_error() {
    let program = Program::serve(ANYWHERE);
    let (_, http) = program.ready();
    let said = error_of(&[&http.to_string(), "--once"], 1);
    assert!(said.contains("not answer like an admin listener") && said.contains("404"), "{said}");
}

#[test]
fn invalid_arguments_are_named() {
    for (arguments, words) in [
        (&["6970"][..], "6970"),
        (&["https://127.0.0.1:6970"], "TLS"),
        (&["--interval", "0"], "--interval"),
        (&["--interval", "3601"], "1..=3600"),
        (&["--udp", "127.0.0.1:0"], "--udp"),
    ] {
        let said = error_of(arguments, 2);
        assert!(said.contains(words), "{words} in {said}");
    }
}
