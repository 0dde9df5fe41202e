//! Owns asking a tracker as the checkers of public lists do, and the judgement on what it answers. UDP is here, HTTP
//! beside it.

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

/// What is spoken with a tracker.
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

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    /// What an HTTP request names as the host.
    pub(super) host: String,
    /// The path that announces go to, with a query if the URL has one.
    pub(super) path: String,
    /// Everybody is told that it is there.
    pub(super) public: bool,
}

impl Target {
    fn name(&self) -> String {
        let (protocol, address) = (self.protocol.name(), self.address);
        if self.public {
            format!("{} by {protocol} at {address}", self.host)
        } else {
            format!("{protocol} {address}")
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing listens there.
    Refused,
    /// This machine can't reach the other's family at all.
    Unreachable,
    /// There is none, or none that is understood.
    Because(String),
}

impl From<io::Error> for Silence {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => Self::Unreachable,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::late(),
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Self::Unreachable,
            _ => Self::Because(error.to_string()),
        }
    }
}

impl Silence {
    pub(super) fn late() -> Self {
        Self::Because(format!("nothing came within {} s", DOCTOR_ANSWER_DEADLINE_MS / 1_000))
    }
}

/// What a tracker says to an announce for an info-hash that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) took: Duration,
    pub(super) interval_secs: Option<i64>,
    /// `None`: there is no such key.
    pub(super) peers: Option<usize>,
}

/// All that came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) announce: Result<Told, Silence>,
    /// `None`: there is no way to ask for it.
    pub(super) scrape: Option<Result<(), String>>,
}

/// The time that is left for one target.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    clock: Clock,
    until: Timestamp,
}

impl Patience {
    fn new() -> Self {
        let clock = Clock::start();
        Self { clock, until: clock.now() + Duration::from_millis(DOCTOR_PROBE_DEADLINE_MS) }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The moment by which the next answer must be there.
    pub(super) fn next(&self) -> Timestamp {
        self.until.min(self.now() + Duration::from_millis(DOCTOR_ANSWER_DEADLINE_MS))
    }

    /// What is left to a moment; an error if nothing is.
    pub(super) fn left(&self, until: Timestamp) -> Result<Duration, Silence> {
        let left = until.since(self.now());
        if left.is_zero() { Err(Silence::late()) } else { Ok(left) }
    }
}

/// Asks a tracker, for some seconds at most.
pub(super) fn ask(target: &Target) -> Asked {
    let hash = match sys::random() {
        Ok(hash) => InfoHash(hash),
        Err(error) => return Asked { announce: Err(error.into()), scrape: None },
    };
    let patience = Patience::new();
    match target.protocol {
        Protocol::Udp => ask_udp(target, hash, patience),
        Protocol::Http => probe_http::ask(target, hash, patience),
    }
}

/// What the doctor calls itself.
pub(super) fn peer_id(hash: InfoHash) -> PeerId {
    let mut id = *b"-GY0000-000000000000";
    for (digit, byte) in id[8..].iter_mut().zip(hash.0) {
        *digit = b'a' + byte % 26;
    }
    PeerId(id)
}

fn ask_udp(target: &Target, hash: InfoHash, patience: Patience) -> Asked {
    let mut client = match UdpClient::new(target.address, patience) {
        Ok(client) => client,
        Err(error) => return Asked { announce: Err(error.into()), scrape: None },
    };
    let announce = client.announce(hash, Event::Started, 1);
    let announce = match announce {
        Ok(announce) => announce,
        Err(silence) => return Asked { announce: Err(silence), scrape: None },
    };
    let scrape = client.scrape(hash);
    let _ = client.announce(hash, Event::Stopped, 3); // leaves nothing behind
    Asked { announce: Ok(announce), scrape: Some(scrape) }
}

struct UdpClient {
    socket: UdpSocket,
    patience: Patience,
    connection_id: Option<u64>,
    family: Family,
}

impl UdpClient {
    fn new(address: SocketAddr, patience: Patience) -> io::Result<Self> {
        let family = Family::of(address.ip());
        let any: SocketAddr = match family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        Ok(Self { socket, patience, connection_id: None, family })
    }

    /// Sends a request until its answer comes, and reads that.
    fn exchange<T>(
        &self,
        transaction_id: u32,
        request: &Request<'_>,
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, Silence> {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        let until = self.patience.next();
        let mut buffer = [0; 4_096];
        loop {
            self.patience.left(until)?;
            self.socket.send(&datagram)?;
            let again = until.min(self.patience.now() + Duration::from_millis(DOCTOR_RETRY_MS));
            while let Ok(left) = self.patience.left(again) {
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
                    return Err(Silence::Because(format!(
                        "a datagram of {length} bytes came that is no response"
                    )));
                };
                if response.transaction_id() != transaction_id {
                    continue;
                }
                if let Response::Error { message, .. } = response {
                    return Err(Silence::Because(format!(
                        "it refuses: {}",
                        String::from_utf8_lossy(message)
                    )));
                }
                return read(&response)
                    .ok_or_else(|| Silence::Because("a response of another kind came".into()));
            }
        }
    }

    fn connect(&mut self) -> Result<u64, Silence> {
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

    fn announce(&mut self, info_hash: InfoHash, event: Event, transaction_id: u32) -> Result<Told, Silence> {
        let started = self.patience.now();
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
            return Err(Silence::Because(format!(
                "its {peers} bytes of peers are no multiple of {bytes_each}"
            )));
        }
        let took = self.patience.now().since(started);
        Ok(Told { took, interval_secs: Some(interval), peers: Some(peers / bytes_each) })
    }

    fn scrape(&mut self, info_hash: InfoHash) -> Result<(), String> {
        let transaction_id = 2;
        let why = |silence| match silence {
            Silence::Because(why) => why,
            Silence::Refused | Silence::Unreachable => "the port has closed meanwhile".to_owned(),
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

/// Judges what came of asking.
pub(super) fn judge(target: &Target, asked: &Asked) -> Vec<Finding> {
    const CHECK: &str = "answer";
    let name = target.name();
    let told = match &asked.announce {
        Ok(told) => told,
        Err(silence) => return vec![judge_silence(target, silence)],
    };
    let mut findings =
        vec![Finding::ok(CHECK, format!("{name} answers an announce in {} ms", told.took.as_millis()))];
    findings.push(judge_interval(&name, told.interval_secs));
    if target.protocol == Protocol::Http {
        findings.push(match told.peers {
            Some(_) => Finding::ok("peers-key", format!("{name} has the key `peers` in its answer")),
            None => Finding::fail("peers-key", format!("{name} has no key `peers` in its answer"))
                .costs("clients and checkers take the answer for broken")
                .fix("send `peers` even when it is empty, as gyre does: ask what stands between"),
        });
    }
    let peers = told.peers.unwrap_or(0);
    let given = format!("{name} gives {} for a random info-hash", count_of(peers, "peer"));
    findings.push(if peers <= CHECKERS_PEERS_MAX {
        Finding::ok("random-hash", given)
    } else {
        Finding::fail("random-hash", given)
            .costs("lists of public trackers take it for one that makes peers up, and drop it")
            .fix("find what answers there: gyre gives only peers that have announced themselves")
    });
    findings.push(match &asked.scrape {
        Some(Ok(())) => Finding::ok("scrape", format!("{name} answers a scrape")),
        Some(Err(why)) => Finding::warn("scrape", format!("{name} doesn't answer a scrape: {why}"))
            .costs("clients don't see how many seeders a swarm has")
            .fix("let scrapes through what stands before gyre"),
        None => Finding::ok("scrape", format!("not asked: the path of {name} doesn't end in `announce`")),
    });
    findings
}

fn judge_silence(target: &Target, silence: &Silence) -> Finding {
    const CHECK: &str = "answer";
    let (name, port) = (target.name(), target.address.port());
    let why = match silence {
        Silence::Refused if !target.public => {
            return Finding::ok(CHECK, format!("not asked: nothing listens at {name}"));
        }
        Silence::Unreachable => {
            let what = format!("unknown: {name} can't be reached from here (no route for its family)");
            return Finding::warn(CHECK, what)
                .costs("whether clients of that family are served was not seen")
                .fix("give this machine an address of that family, or run `gyre doctor` elsewhere");
        }
        Silence::Refused => "nothing listens there",
        Silence::Because(why) => why,
    };
    let (transport, letter) = if target.protocol == Protocol::Udp { ("udp", 'u') } else { ("tcp", 't') };
    let fix = if target.public {
        format!(
            "see that gyre runs and listens for this family, that the firewall lets it through (`nft add rule inet \
             filter input {transport} dport {port} accept`, and the provider's), and that the name leads here"
        )
    } else {
        format!("`ss -lnp{letter} 'sport = :{port}'` shows who listens; `journalctl -u gyre` what it says")
    };
    Finding::fail(CHECK, format!("{name} gives no answer: {why}"))
        .costs("clients that try it get nothing, and lists of public trackers drop it")
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
                "{name} asks for an announce every {interval} s, which is not in {} to {}",
                taken.start(),
                taken.end()
            )
        }
        None => format!("{name} doesn't say when to announce again"),
    };
    Finding::warn(CHECK, what).costs("lists of public trackers drop it").fix("--announce-interval 1800")
}

#[cfg(test)]
mod tests;
