//! Tests of the program `gyre-load` against gyre, its null responder, and a tracker with invalid replies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gyre::Tracker;
use gyre::config::Cores;
use serde_json::Value;

fn gyre_load() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gyre-load"));
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Runs the program with these arguments. Returns its results and its output.
fn load(name: &str, arguments: &str) -> (Value, Output) {
    let json = format!("{}/{name}.json", env!("CARGO_TARGET_TMPDIR"));
    let mut command = gyre_load();
    command.args(arguments.split_whitespace()).args(["--json", &json]);
    let output = command.output().unwrap();
    let text = std::fs::read_to_string(&json).unwrap_or_default();
    let _ = std::fs::remove_file(&json);
    (serde_json::from_str(&text).unwrap_or_default(), output)
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn tracker() -> Tracker {
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Tracker::builder().udp(local).http(local).cores(Cores::Floating(2)).listen().unwrap()
}

/// A running null responder. Dropping it ends the process.
struct Floor {
    child: Child,
    address: SocketAddr,
}

impl Floor {
    fn start(protocol: &str) -> Self {
        Self::start_with(&[protocol])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let mut command = gyre_load();
        command.args(["floor", "--listen", "127.0.0.1:0"]).args(arguments).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
        Self { child, address }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {value}"))
}

const SHORT: &str = "--duration 0.5 --warmup 0.1 --peers 2000 --torrents 50 --timeout 5000";

#[test]
fn udp_replies_of_gyre_are_valid_in_a_closed_loop() {
    let server = tracker();
    let (figures, output) =
        load("closed", &format!("udp --target {} {SHORT} --fill", server.udp_addresses()[0]));
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!((number(&figures, "/wrong"), number(&figures, "/refused")), (0.0, 0.0), "{figures}");
    assert!(
        number(&figures, "/replies") > 500.0 && number(&figures, "/peers_per_announce") > 5.0,
        "{figures}"
    );
    let kinds: Vec<_> = (0..3).map(|kind| figures.pointer(&format!("/kinds/{kind}/kind")).cloned()).collect();
    assert_eq!(kinds, ["connect", "announce", "scrape"].map(|kind| Some(Value::from(kind))));
}

#[test]
fn an_open_loop_keeps_its_schedule() {
    let server = tracker();
    let report = format!("{}/open.html", env!("CARGO_TARGET_TMPDIR"));
    let (figures, output) = load(
        "open",
        &format!(
            "udp --target {} {SHORT} --rate 2000 --pid {} --report {report}",
            server.udp_addresses()[0],
            std::process::id()
        ),
    );
    assert!(output.status.success(), "{}", text_of(&output));
    assert!((990.0..=1_010.0).contains(&number(&figures, "/requests")), "{figures}");
    assert!(number(&figures, "/server/resident_bytes") > 1e6);
    let page = std::fs::read_to_string(&report).unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(page.contains("percentile of the requests") && !page.contains("could not be drawn"));
    assert!(!page.contains("src=") && !page.contains("href="), "the page is self-contained");
}

#[test]
fn http_replies_of_gyre_are_valid() {
    let server = tracker();
    for (name, mode) in [
        ("keep", "--keep-alive --connections 8 --pipeline 3 --fill"),
        ("close", "--close --connections 8"),
        ("rate", "--connections 4 --rate 500"),
        ("close-rate", "--close --connections 16 --rate 300"),
    ] {
        let target = server.http_addresses()[0];
        let (figures, output) = load(name, &format!("http --target {target} {SHORT} {mode}"));
        assert!(output.status.success(), "{mode}: {}", text_of(&output));
        for zero in ["/wrong", "/refused", "/lost", "/broken_connections"] {
            assert_eq!(number(&figures, zero), 0.0, "{mode}: {zero} in {figures}");
        }
        assert!(number(&figures, "/replies") > 100.0, "{mode}: {figures}");
    }
}

#[test]
fn replies_of_the_null_responder_are_valid() {
    for (protocol, more) in
        [("udp", "--fill"), ("http", "--pipeline 8 --fill --sources 100"), ("http", "--close")]
    {
        let floor = Floor::start(protocol);
        let (figures, output) =
            load(&format!("floor{more}"), &format!("{protocol} --target {} {SHORT} {more}", floor.address));
        assert!(output.status.success(), "{protocol} {more}: {}", text_of(&output));
        assert!(number(&figures, "/replies") > 100.0, "{figures}");
    }
}

#[test]
fn floods_without_a_connection_id_get_no_more_bytes_than_they_send() {
    let server = tracker();
    let flood = |kind: &str, target: SocketAddr| {
        let shape = "--duration 0.5 --warmup 0 --rate 5000 --sources 20 --train 8";
        let (figures, output) =
            load(&format!("flood-{kind}"), &format!("flood {kind} --target {target} {shape}"));
        assert!(output.status.success(), "{kind}: {}", text_of(&output));
        assert!(number(&figures, "/flood/sent") > 100.0, "{kind}: {figures}");
        ["sent_bytes", "reply_bytes"].map(|name| number(&figures, &format!("/flood/{name}")))
    };
    let target = server.udp_addresses()[0];
    for kind in ["junk", "bad-magic", "bad-ids"] {
        assert_eq!(flood(kind, target)[1], 0.0, "{kind}");
    }
    let [sent, received] = flood("connects", target);
    assert!(0.0 < received && received <= sent, "{received} bytes for {sent}");
    for kind in ["mad", "hash", "worker", "scrapes"] {
        assert!(flood(kind, target)[1] > 0.0, "{kind}");
    }
    let silent = Floor::start_with(&["udp", "--silent"]);
    assert_eq!(flood("connects", silent.address)[1], 0.0);
}

#[test]
fn many_clients_share_a_socket_beside_a_flood_and_the_timeline_is_printed() {
    let server = tracker();
    let load_of =
        "--sources 300 --pipeline 1 --flood bad-ids --flood-rate 2000 --every 0.1 --vanish 0.1 --step 2";
    let (figures, output) = load(
        "beside",
        &format!("udp --target {} {SHORT} --rate 2000 --quiet {load_of}", server.udp_addresses()[0]),
    );
    assert!(output.status.success(), "{}", text_of(&output));
    assert!((990.0..=1_010.0).contains(&number(&figures, "/requests")), "{figures}");
    assert!(number(&figures, "/replies") > 500.0 && number(&figures, "/flood/sent") > 100.0, "{figures}");
    assert_eq!(number(&figures, "/flood/replies"), 0.0);
    let text = String::from_utf8(output.stdout).unwrap();
    let points: Vec<Vec<u64>> =
        text.lines().map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect()).collect();
    assert!(!points.is_empty() && points.iter().all(|point| point.len() == 6), "{text}");
    assert!(points.iter().any(|point| point[2] > 0 && point[5] >= point[4] && point[4] > 0), "{text}");
}

/// Starts a UDP tracker whose responses to announces are changed by `fault`.
fn faulty_tracker(fault: Fault) -> (SocketAddr, Arc<AtomicBool>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while !stopped.load(Ordering::Acquire) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let request = &buffer[..length];
            let mut response = vec![0, 0, 0, request[11]];
            response.extend_from_slice(&request[12..16]);
            match request[11] {
                0 => response.extend_from_slice(&[7; 8]),
                _ => {
                    response.extend_from_slice(&[0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 1]);
                    response.extend_from_slice(&[10, 0, 0, 1, 1, 1, 10, 0, 0, 2, 1, 1]);
                    response.extend_from_slice(&[127, 0, 0, 1, request[96], request[97]]); // the client
                    fault(&mut response);
                }
            }
            let _ = socket.send_to(&response, from);
        }
    });
    (address, stop)
}

#[test]
fn scheduled_requests_without_room_are_reported_as_unsent() {
    let server = tracker();
    let target = server.http_addresses()[0];
    let (figures, output) =
        load("beyond", &format!("http --target {target} {SHORT} --connections 1 --rate 1000000 --warmup 0"));
    assert!(output.status.success(), "{}", text_of(&output));
    let (requests, unsent) = (number(&figures, "/requests"), number(&figures, "/unsent"));
    assert!((requests + unsent - 5e5).abs() < 10.0, "{requests} and {unsent} of 500,000");
}

/// Changes a valid response into an invalid one.
type Fault = fn(&mut Vec<u8>);

#[test]
fn invalid_replies_are_counted_by_cause() {
    let faults: [(&str, Fault); 8] = [
        ("client's own address among the peers", |_| {}),
        ("wrong length", |response| response.truncate(31)),
        ("malformed", |response| response.truncate(7)),
        ("wrong kind", |response| {
            response[3] = 0;
        }),
        ("unsolicited", |response| response[4] ^= 0x80),
        ("duplicate peer", |response| {
            response.truncate(26);
            response.extend_from_within(20..26);
        }),
        ("too many peers", |response| {
            response.truncate(20);
            (0..31).for_each(|peer| response.extend_from_slice(&[10, 0, 0, peer, 1, 1]));
        }),
        ("field missing or out of range", |response| response[8..12].fill(0)),
    ];
    for (cause, fault) in faults {
        let (target, stop) = faulty_tracker(fault);
        let mix =
            "--mix connect:1,announce:20 --timeout 100 --sources 1 --duration 0.3 --warmup 0 --peers 500";
        let (figures, output) = load("fault", &format!("udp --target {target} {mix}"));
        stop.store(true, Ordering::Release);
        assert_eq!(output.status.code(), Some(1), "{cause}: {}", text_of(&output));
        let causes = figures["wrong_by_cause"].as_array().unwrap();
        assert!(causes.iter().any(|entry| entry["cause"] == cause), "{cause}: {figures}");
        assert_eq!(causes.len(), 1, "{cause}: {figures}");
    }
}

#[test]
fn broken_connections_and_malformed_responses_fail_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            thread::spawn(move || {
                let (Ok(mut stream), mut buffer) = (stream, [0; 1_024]) else { return };
                while matches!(stream.read(&mut buffer), Ok(1..)) && !number.is_multiple_of(3) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde");
                }
            });
        }
    });
    let (figures, output) =
        load("broken", &format!("http --target {target} --connections 6 {SHORT} --warmup 0"));
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    assert_eq!(figures["wrong_by_cause"][0]["cause"], "field missing or out of range");
    assert!(number(&figures, "/broken_connections") > 0.0 && number(&figures, "/lost") > 0.0, "{figures}");
}

#[test]
fn a_target_that_does_not_answer_is_named() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = silent.local_addr().unwrap();
    let (_, output) = load("silent", &format!("udp --target {target} --timeout 20"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output).contains("does not answer connect requests"), "{}", text_of(&output));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_, output) = load("closed-port", &format!("http --target {closed} --timeout 100 --connections 3"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output).contains("accepted only 0 of 3 connections"), "{}", text_of(&output));
}

#[test]
fn an_invalid_command_line_exits_with_2() {
    for arguments in [
        "",
        "udp",
        "udp --target nowhere",
        "udp --target 127.0.0.1:1 --rate 0",
        "udp --target 127.0.0.1:1 --cores 999",
        "udp --target 127.0.0.1:1 --pid 4294967295",
        "udp --target [::1]:1 --sources 65",
        "floor http --listen 127.0.0.1:0 --silent",
        "http --target 127.0.0.1:1 --mix connect:1",
    ] {
        let output = gyre_load().args(arguments.split_whitespace()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", text_of(&output));
    }
}
