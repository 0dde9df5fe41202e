//! Owns the queries to a tracker, like those of the checkers of public lists, and the judgement of its answers. UDP is
//! here, HTTP in `probe_http`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::probe_http;
use super::{Finding, count_of};
use crate::limits::{
    CHECKERS_INTERVAL_RANGE_S, CHECKERS_PEERS_MAX, DOCTOR_ANSWER_DEADLINE_MS, DOCTOR_PEER_PORT,
    DOCTOR_PROBE_DEADLINE_MS, DOCTOR_RETRY_MS,
};
use crate::sys;
use crate::time::{Clock, Timestamp};
use crate::types::{Event, Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerId};
use crate::wire::udp::{Announce, Request, Response, Scrape};

/// A protocol of trackers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Udp,
    Http,
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Http => "http",
        }
    }
}

/// A tracker to query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    /// The `Host` of HTTP requests.
    pub(super) host: String,
    /// The path of announces, including the query of the URL.
    pub(super) path: String,
    /// Whether it is a public URL. Then it is a failure if nothing answers.
    pub(super) public: bool,
}

impl Target {
    fn name(&self) -> String {
        let (protocol, address) = (self.protocol.name(), self.address);
        if self.public {
            format!("{protocol}://{} ({address})", self.host)
        } else {
            format!("{protocol} {address}")
        }
    }
}

/// Why there is no valid answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Nothing listens on the port.
    Refused,
    /// This machine has no route for the address family.
    Unreachable,
    /// Another reason.
    Because(String),
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => Self::Unreachable,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::timeout(),
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Self::Unreachable,
            _ => Self::Because(error.to_string()),
        }
    }
}

impl NoAnswer {
    pub(super) fn timeout() -> Self {
        Self::Because(format!("no answer within {} s", DOCTOR_ANSWER_DEADLINE_MS / 1_000))
    }
}

/// The answer to an announce of a random info-hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnnounceAnswer {
    pub(super) took: Duration,
    pub(super) interval_secs: Option<i64>,
    /// `None`: the key is missing.
    pub(super) peers: Option<usize>,
}

/// All answers of a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) announce: Result<AnnounceAnswer, NoAnswer>,
    /// `None`: the announce path has no scrape path (BEP 48).
    pub(super) scrape: Option<Result<(), String>>,
}

/// The time limit for one tracker.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    clock: Clock,
    until: Timestamp,
}

impl Deadline {
    fn new() -> Self {
        let clock = Clock::start();
        Self { clock, until: clock.now() + Duration::from_millis(DOCTOR_PROBE_DEADLINE_MS) }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the time limit for the next answer.
    pub(super) fn next(&self) -> Timestamp {
        self.until.min(self.now() + Duration::from_millis(DOCTOR_ANSWER_DEADLINE_MS))
    }

    /// Returns the time left until `until`, or an error if it has passed.
    pub(super) fn left(&self, until: Timestamp) -> Result<Duration, NoAnswer> {
        let left = until.since(self.now());
        if left.is_zero() { Err(NoAnswer::timeout()) } else { Ok(left) }
    }
}

/// Queries a tracker. Takes some seconds at most.
pub(super) fn query(target: &Target) -> Answers {
    let hash = match sys::random() {
        Ok(hash) => InfoHash(hash),
        Err(error) => return Answers { announce: Err(error.into()), scrape: None },
    };
    let deadline = Deadline::new();
    match target.protocol {
        Protocol::Udp => query_udp(target, hash, deadline),
        Protocol::Http => probe_http::query(target, hash, deadline),
    }
}

/// Returns the peer id of the doctor.
pub(super) fn peer_id(hash: InfoHash) -> PeerId {
    let mut id = *b"-GY0000-000000000000";
    for (digit, byte) in id[8..].iter_mut().zip(hash.0) {
        *digit = b'a' + byte % 26;
    }
    PeerId(id)
}

fn query_udp(target: &Target, hash: InfoHash, deadline: Deadline) -> Answers {
    let mut client = match UdpClient::new(target.address, deadline) {
        Ok(client) => client,
        Err(error) => return Answers { announce: Err(error.into()), scrape: None },
    };
    let announce = client.announce(hash, Event::Started, 1);
    let announce = match announce {
        Ok(announce) => announce,
        Err(no_answer) => return Answers { announce: Err(no_answer), scrape: None },
    };
    let scrape = client.scrape(hash);
    let _ = client.announce(hash, Event::Stopped, 3); // removes the peer again
    Answers { announce: Ok(announce), scrape: Some(scrape) }
}

struct UdpClient {
    socket: UdpSocket,
    deadline: Deadline,
    connection_id: Option<u64>,
    family: Family,
}

impl UdpClient {
    fn new(address: SocketAddr, deadline: Deadline) -> io::Result<Self> {
        let family = Family::of(address.ip());
        let any: SocketAddr = match family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        Ok(Self { socket, deadline, connection_id: None, family })
    }

    /// Sends a request again until the response arrives, and reads it with `read`.
    fn exchange<T>(
        &self,
        transaction_id: u32,
        request: &Request<'_>,
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, NoAnswer> {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        let until = self.deadline.next();
        let mut buffer = [0; 4_096];
        loop {
            self.deadline.left(until)?;
            self.socket.send(&datagram)?;
            let again = until.min(self.deadline.now() + Duration::from_millis(DOCTOR_RETRY_MS));
            while let Ok(left) = self.deadline.left(again) {
                self.socket.set_read_timeout(Some(left))?;
                let length = match self.socket.recv(&mut buffer) {
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) =>
                    {
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    received => received?,
                };
                let Ok(response) = Response::parse(&buffer[..length]) else {
                    return Err(NoAnswer::Because(format!("received an invalid response of {length} bytes")));
                };
                if response.transaction_id() != transaction_id {
                    continue;
                }
                if let Response::Error { message, .. } = response {
                    return Err(NoAnswer::Because(format!(
                        "the tracker refuses: {}",
                        String::from_utf8_lossy(message)
                    )));
                }
                return read(&response)
                    .ok_or_else(|| NoAnswer::Because("received a response to another action".into()));
            }
        }
    }

    fn connect(&mut self) -> Result<u64, NoAnswer> {
        if let Some(id) = self.connection_id {
            return Ok(id);
        }
        let transaction_id = 0;
        let id =
            self.exchange(transaction_id, &Request::Connect { transaction_id }, |response| match response {
                Response::Connect { connection_id, .. } => Some(*connection_id),
                _ => None,
            })?;
        self.connection_id = Some(id);
        Ok(id)
    }

    fn announce(
        &mut self,
        info_hash: InfoHash,
        event: Event,
        transaction_id: u32,
    ) -> Result<AnnounceAnswer, NoAnswer> {
        let started = self.deadline.now();
        let request = Request::Announce(Announce {
            connection_id: self.connect()?,
            transaction_id,
            info_hash,
            peer_id: peer_id(info_hash),
            downloaded: 0,
            left: 1,
            uploaded: 0,
            event,
            key: 0,
            num_want: -1,
            port: DOCTOR_PEER_PORT,
            options: &[],
        });
        let bytes_each = match self.family {
            Family::V4 => PEER_V4_BYTES,
            Family::V6 => PEER_V6_BYTES,
        };
        let (interval, peers) = self.exchange(transaction_id, &request, |response| match response {
            Response::Announce { interval_secs, peers, .. } => Some((i64::from(*interval_secs), peers.len())),
            _ => None,
        })?;
        if peers % bytes_each != 0 {
            return Err(NoAnswer::Because(format!(
                "the peers have {peers} bytes, which is not a multiple of {bytes_each}"
            )));
        }
        let took = self.deadline.now().since(started);
        Ok(AnnounceAnswer { took, interval_secs: Some(interval), peers: Some(peers / bytes_each) })
    }

    fn scrape(&mut self, info_hash: InfoHash) -> Result<(), String> {
        let transaction_id = 2;
        let why = |no_answer| match no_answer {
            NoAnswer::Because(why) => why,
            NoAnswer::Refused | NoAnswer::Unreachable => "the port was closed meanwhile".to_owned(),
        };
        let hashes = [info_hash.0];
        let connection_id = self.connect().map_err(why)?;
        let request = Request::Scrape(Scrape { connection_id, transaction_id, info_hashes: &hashes });
        let entries = self.exchange(transaction_id, &request, |response| match response {
            Response::Scrape { entries, .. } => Some(entries.len()),
            _ => None,
        });
        match entries.map_err(why)? {
            1 => Ok(()),
            entries => Err(format!("{entries} entries for one info-hash")),
        }
    }
}

/// Judges the answers of a tracker.
pub(super) fn judge(target: &Target, answers: &Answers) -> Vec<Finding> {
    const CHECK: &str = "answer";
    let name = target.name();
    let answer = match &answers.announce {
        Ok(answer) => answer,
        Err(no_answer) => return vec![judge_no_answer(target, no_answer)],
    };
    let mut findings =
        vec![Finding::ok(CHECK, format!("{name} answers an announce in {} ms", answer.took.as_millis()))];
    findings.push(judge_interval(&name, answer.interval_secs));
    if target.protocol == Protocol::Http {
        findings.push(match answer.peers {
            Some(_) => Finding::ok("peers-key", format!("the response of {name} has the key `peers`")),
            None => Finding::fail("peers-key", format!("the response of {name} has no key `peers`"))
                .costs("clients and checkers consider the response invalid")
                .fix("gyre always sends `peers`: check the proxy in front of it"),
        });
    }
    let peers = answer.peers.unwrap_or(0);
    let given = format!("{name} returns {} for a random info-hash", count_of(peers, "peer"));
    findings.push(if peers <= CHECKERS_PEERS_MAX {
        Finding::ok("random-hash", given)
    } else {
        Finding::fail("random-hash", given)
            .costs("lists of public trackers assume that it invents peers, and remove it")
            .fix("find out which program answers there: gyre only returns peers that have announced")
    });
    findings.push(match &answers.scrape {
        Some(Ok(())) => Finding::ok("scrape", format!("{name} answers a scrape")),
        Some(Err(why)) => Finding::warn("scrape", format!("{name} does not answer a scrape: {why}"))
            .costs("clients don't see how many seeders a swarm has")
            .fix("let scrapes pass the proxy in front of gyre"),
        None => Finding::ok("scrape", format!("not checked: the path of {name} does not end in `announce`")),
    });
    findings
}

fn judge_no_answer(target: &Target, no_answer: &NoAnswer) -> Finding {
    const CHECK: &str = "answer";
    let (name, port) = (target.name(), target.address.port());
    let why = match no_answer {
        NoAnswer::Refused if !target.public => {
            return Finding::ok(CHECK, format!("not checked: nothing listens on {name}"));
        }
        NoAnswer::Unreachable => {
            let what = format!("can't check {name}: this machine has no route for its address family");
            return Finding::warn(CHECK, what)
                .costs("problems of clients with this address family go unnoticed")
                .fix("configure an address of this family, or run `gyre doctor` on another machine");
        }
        NoAnswer::Refused => "nothing listens on the port",
        NoAnswer::Because(why) => why,
    };
    let (transport, letter) = if target.protocol == Protocol::Udp { ("udp", 'u') } else { ("tcp", 't') };
    let fix = if target.public {
        format!(
            "check that gyre is running and listens for this address family, that the firewalls of this \
             machine (`nft add rule inet filter input {transport} dport {port} accept`) and of the \
             provider allow it, and that the name resolves to this machine"
        )
    } else {
        format!(
            "`ss -lnp{letter} 'sport = :{port}'` shows the program that listens, `journalctl -u gyre` the \
             log of gyre"
        )
    };
    Finding::fail(CHECK, format!("no answer from {name}: {why}"))
        .costs("clients get no answer, and lists of public trackers remove it")
        .fix(fix)
}

fn judge_interval(name: &str, interval: Option<i64>) -> Finding {
    const CHECK: &str = "interval";
    let taken = CHECKERS_INTERVAL_RANGE_S;
    let what = match interval {
        Some(interval) if u32::try_from(interval).is_ok_and(|interval| taken.contains(&interval)) => {
            return Finding::ok(CHECK, format!("{name} asks for an announce every {interval} s"));
        }
        Some(interval) => {
            format!(
                "{name} asks for an announce every {interval} s, which is out of range: {} to {}",
                taken.start(),
                taken.end()
            )
        }
        None => format!("the response of {name} has no interval"),
    };
    Finding::warn(CHECK, what).costs("lists of public trackers remove it").fix("--announce-interval 1800")
}

#[cfg(test)]
mod tests;
