//! Owns the checks of the tracker against the model. Each request gets one reply, as the model expects it, or is
//! counted as dropped. The counters of each worker have the expected values, and no request waits without a reason.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use gyre_core::counters::{Counter, Counters};
use gyre_core::engine::{Endpoint, Engine, Policy, UdpAnnounce};
use gyre_core::owner::Owners;
use gyre_core::types::{Announce, InfoHash, PeerAddr};

use crate::bytes::{ClientAnnounce, Datagram, Reply};
use crate::log::Log;
use crate::middleware::{Decision, refusal};
use crate::oracle::{Oracle, RemovedPeers, ReplyValues, Terms};
use crate::rules::Rules;
use crate::waits::PendingWaits;
use crate::watch::{Event, MessageContent};

/// Counters of requests that the limits per source reject.
pub(crate) const LIMITS: [Counter; 4] =
    [Counter::LimitedConnect, Counter::LimitedAnnounce, Counter::LimitedScrape, Counter::LimitedBanned];

/// Counters whose exact values are known.
const KNOWN: [Counter; 29] = [
    LIMITS[0],
    LIMITS[1],
    LIMITS[2],
    LIMITS[3],
    Counter::UdpConnectV4,
    Counter::UdpConnectV6,
    Counter::UdpAnnounceV4,
    Counter::UdpAnnounceV6,
    Counter::UdpScrapeV4,
    Counter::UdpScrapeV6,
    Counter::UdpRepliesV4,
    Counter::UdpRepliesV6,
    Counter::Refused,
    Counter::Silenced,
    Counter::DeniedTorrent,
    Counter::DeniedClient,
    Counter::DeniedSource,
    Counter::BadShort,
    Counter::BadMagic,
    Counter::BadAction,
    Counter::BadSourcePort,
    Counter::BadConnectionId,
    Counter::BadAnnouncePort,
    Counter::BadOptions,
    Counter::DropMeshFull,
    Counter::DropGatherFull,
    Counter::DropWaitFull,
    Counter::DropWaitLate,
    Counter::MeshHops,
];

/// Expected result of a datagram.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// No reply.
    Silence,
    /// The middleware waits before it decides.
    Wait,
    Connect {
        transaction: u32,
    },
    Refusal {
        transaction: u32,
        message: String,
    },
    Announce {
        transaction: u32,
        request: ClientAnnounce,
    },
    Scrape {
        transaction: u32,
        info_hashes: Vec<InfoHash>,
    },
}

/// An announce by UDP without a reply so far.
struct OpenAnnounce {
    request: ClientAnnounce,
    terms: Terms,
    owner: usize,
    to: Endpoint,
    /// Whether it is in the mesh queue between two workers.
    is_in_mesh: bool,
}

/// Expected state of a process.
pub(crate) struct Check {
    pub(crate) log: Log,
    pub(crate) oracle: Oracle,
    pub(crate) owners: Owners,
    pub(crate) policy: Policy,
    window_secs: u32,
    started_unix_us: u64,
    /// Connection ids that were issued to addresses, with their time window. They depend only on the secret, the
    /// address and the window.
    pub(crate) issued: BTreeMap<(IpAddr, u64), u64>,
    /// Access lists, by worker.
    pub(crate) rules: Vec<Rules>,
    pub(crate) expected_counters: Vec<Counters>,
    open: BTreeMap<(SocketAddr, u32), VecDeque<OpenAnnounce>>,
    /// Announces that the turn must still answer, by worker.
    unanswered: Vec<usize>,
    pub(crate) waits: PendingWaits,
    /// Responses by UDP after a wait of the middleware, by worker. They leave with the next turn.
    late_responses: Vec<Vec<(Endpoint, Vec<u8>)>>,
    removed: Vec<RemovedPeers>,
}

impl Check {
    pub(crate) fn new(
        owners: Owners,
        policy: Policy,
        window_secs: u32,
        started_unix_us: u64,
        log: Log,
    ) -> Self {
        let workers = owners.workers();
        Self {
            log,
            oracle: Oracle::new(workers, policy.peer_timeout_secs, policy.table_bytes != usize::MAX),
            owners,
            policy,
            window_secs,
            started_unix_us,
            issued: BTreeMap::new(),
            rules: vec![Rules::default(); workers],
            expected_counters: vec![Counters::default(); workers],
            open: BTreeMap::new(),
            unanswered: vec![0; workers],
            waits: PendingWaits::new(workers),
            late_responses: vec![Vec::new(); workers],
            removed: vec![RemovedPeers::default(); workers],
        }
    }

    pub(crate) fn owner(&self, info_hash: &InfoHash) -> usize {
        self.owners.of(info_hash).index()
    }

    pub(crate) fn bump(&mut self, worker: usize, counter: Counter) {
        self.expected_counters[worker].bump(counter);
    }

    pub(crate) fn bump_by_family(&mut self, worker: usize, ip: IpAddr, [v4, v6]: [Counter; 2]) {
        self.bump(worker, if ip.is_ipv4() { v4 } else { v6 });
    }

    /// Returns how many peers an announce gets.
    pub(crate) fn terms(&self, request: &ClientAnnounce, by_udp: bool) -> Terms {
        let most = match (by_udp, request.peer.is_ipv4()) {
            (true, true) => 242,
            (true, false) => 79,
            (false, _) => usize::MAX,
        };
        let wanted = usize::from(request.num_want.unwrap_or(50)).min(self.policy.max_peers.into());
        Terms { num_want: wanted.min(most), both_families: !by_udp }
    }

    fn window(&self, now_us: u64) -> u64 {
        (self.started_unix_us + now_us) / 1_000_000 / u64::from(self.window_secs)
    }

    /// Notes that a connection id was issued to an address.
    pub(crate) fn issue(&mut self, now_us: u64, ip: IpAddr, id: u64) {
        let window = self.window(now_us);
        let before = self.issued.insert((ip, id), window);
        assert!(before.is_none_or(|before| before == window), "a connection id is issued in two windows");
    }

    /// Returns whether a connection id is valid. It is in its own window and the next one.
    fn is_valid_id(&self, now_us: u64, ip: IpAddr, id: u64) -> bool {
        let window = self.window(now_us);
        self.issued.get(&(ip, id)).is_some_and(|issued| window == *issued || window == issued + 1)
    }

    /// Returns the expected result of a datagram and counts it, given the decision of the middleware and the limit that
    /// the source exceeds.
    pub(crate) fn expect(
        &mut self,
        worker: usize,
        now_us: u64,
        from: &Endpoint,
        bytes: &[u8],
        decision: Option<Decision>,
        limited: Option<Counter>,
    ) -> Expected {
        let ip = from.source.ip();
        if from.source.port() == 0 {
            return self.expect_silence(worker, Counter::BadSourcePort);
        }
        let permitted = self.rules[worker].permits_source(ip);
        let (expected, transaction) = match Datagram::read(bytes, ip) {
            Datagram::Short => return self.expect_silence(worker, Counter::BadShort),
            Datagram::NoMagic => return self.expect_silence(worker, Counter::BadMagic),
            Datagram::NoAction => return self.expect_silence(worker, Counter::BadAction),
            Datagram::Connect { transaction } => {
                self.bump_by_family(worker, ip, [Counter::UdpConnectV4, Counter::UdpConnectV6]);
                if !permitted {
                    return self.expect_silence(worker, Counter::DeniedSource);
                }
                if limited == Some(Counter::LimitedConnect) {
                    return self.expect_silence(worker, Counter::LimitedConnect);
                }
                (Expected::Connect { transaction }, transaction)
            }
            Datagram::Announce { id, transaction, request, options_are_good } => {
                self.bump_by_family(worker, ip, [Counter::UdpAnnounceV4, Counter::UdpAnnounceV6]);
                let limited = limited.filter(|limited| *limited != Counter::LimitedScrape);
                if let Some(counter) = self.rejection(worker, now_us, ip, id, limited) {
                    return self.expect_silence(worker, counter);
                }
                if let Some(expected) = self.expect_refusal(worker, now_us, transaction, &request) {
                    return expected;
                }
                if !options_are_good {
                    self.bump(worker, Counter::BadOptions);
                }
                (Expected::Announce { transaction, request }, transaction)
            }
            Datagram::Scrape { id, transaction, info_hashes } => {
                self.bump_by_family(worker, ip, [Counter::UdpScrapeV4, Counter::UdpScrapeV6]);
                let limited = limited.filter(|limited| *limited != Counter::LimitedAnnounce);
                if let Some(counter) = self.rejection(worker, now_us, ip, id, limited) {
                    return self.expect_silence(worker, counter);
                }
                (Expected::Scrape { transaction, info_hashes }, transaction)
            }
        };
        match decision {
            None | Some(Decision::Pass) => expected,
            Some(Decision::Stop) => self.expect_silence(worker, Counter::Silenced),
            Some(Decision::Refuse) => {
                self.bump(worker, Counter::Refused);
                let message = refusal(matches!(expected, Expected::Connect { .. }));
                Expected::Refusal { transaction, message: message.to_owned() }
            }
            Some(Decision::Wait(_)) => Expected::Wait,
        }
    }

    /// Returns why a request with a connection id gets no reply. `limited` is what the tracker itself counted.
    fn rejection(
        &self,
        worker: usize,
        now_us: u64,
        ip: IpAddr,
        id: u64,
        limited: Option<Counter>,
    ) -> Option<Counter> {
        let is_banned = limited == Some(Counter::LimitedBanned);
        match (self.rules[worker].permits_source(ip), self.is_valid_id(now_us, ip, id)) {
            _ if is_banned => limited,
            (false, _) => Some(Counter::DeniedSource),
            (true, false) => Some(Counter::BadConnectionId),
            (true, true) => limited,
        }
    }

    fn expect_silence(&mut self, worker: usize, counter: Counter) -> Expected {
        self.bump(worker, counter);
        self.log.add("datagrams without a reply", 1);
        Expected::Silence
    }

    /// Returns the expected result of an announce that is invalid or that the lists deny.
    fn expect_refusal(
        &mut self,
        worker: usize,
        now_us: u64,
        transaction: u32,
        request: &ClientAnnounce,
    ) -> Option<Expected> {
        if request.peer.port() == 0 {
            self.bump(worker, Counter::BadAnnouncePort);
            self.bump(worker, Counter::Refused);
            return Some(Expected::Refusal { transaction, message: "invalid parameter: port".into() });
        }
        let message = self.denial_message(worker, now_us, request)?;
        if message.is_empty() {
            return Some(Expected::Silence);
        }
        self.bump(worker, Counter::Refused);
        Some(Expected::Refusal { transaction, message })
    }

    /// Returns the message for an announce that the lists deny, and counts it. An empty message means no reply.
    pub(crate) fn denial_message(
        &mut self,
        worker: usize,
        now_us: u64,
        request: &ClientAnnounce,
    ) -> Option<String> {
        let rules = &self.rules[worker];
        let (counter, message) = if !rules.permits_torrent(now_us, &request.info_hash) {
            (Counter::DeniedTorrent, rules.reason.clone())
        } else if !rules.permits_client(&request.peer_id) {
            (Counter::DeniedClient, "this client is not allowed".to_owned())
        } else {
            return None;
        };
        self.bump(worker, counter);
        self.log.add("denied announces", 1);
        Some(message)
    }

    /// Checks the result of a datagram: the immediate reply and the messages to other workers.
    pub(crate) fn check_datagram(
        &mut self,
        worker: usize,
        now_us: u64,
        from: &Endpoint,
        expected: Expected,
        reply: Option<&[u8]>,
        events: Vec<Event>,
    ) {
        let owner = match &expected {
            Expected::Announce { request, .. } => Some(self.owner(&request.info_hash)),
            _ => None,
        };
        let is_foreign = owner.is_some_and(|owner| owner != worker);
        if !is_foreign && !matches!(expected, Expected::Scrape { .. }) {
            assert!(events.is_empty(), "unexpected messages: {events:?}");
        }
        match (expected, reply) {
            (Expected::Silence | Expected::Wait, None) => {}
            (Expected::Connect { transaction }, Some(reply)) => {
                assert!(
                    matches!(Reply::read(reply, from.source), (number, Reply::Connect { .. }) if number == transaction)
                );
                if let (_, Reply::Connect { id }) = Reply::read(reply, from.source) {
                    self.issue(now_us, from.source.ip(), id);
                }
                self.count_reply(worker, from, "UDP connect replies");
            }
            (Expected::Refusal { transaction, message }, Some(reply)) => {
                assert_eq!(Reply::read(reply, from.source), (transaction, Reply::Error { message }));
                self.count_reply(worker, from, "UDP error replies");
            }
            (Expected::Announce { transaction, request }, None) => {
                self.open_announce(worker, from, transaction, request, &events);
            }
            (Expected::Announce { transaction, request }, Some(reply)) => {
                assert!(!is_foreign, "an immediate reply from the wrong worker");
                self.open_announce(worker, from, transaction, request, &events);
                self.check_announce_reply(worker, now_us, from, reply);
            }
            (Expected::Scrape { transaction, info_hashes }, reply) => {
                self.check_scrape(worker, now_us, from, transaction, &info_hashes, reply, events);
            }
            (expected, reply) => panic!("expected {expected:?}, got {reply:?}"),
        }
    }

    /// Counts a reply by UDP.
    pub(crate) fn count_reply(&mut self, worker: usize, to: &Endpoint, kind: &'static str) {
        self.log.add(kind, 1);
        self.bump_by_family(worker, to.source.ip(), [Counter::UdpRepliesV4, Counter::UdpRepliesV6]);
    }

    /// Adds a response by UDP after a wait of the middleware. It leaves with the next turn.
    pub(crate) fn add_late_response(&mut self, worker: usize, to: &Endpoint, response: &[u8]) {
        self.late_responses[worker].push((*to, response.to_vec()));
    }

    /// Removes a reply from the expected late responses. Returns whether it was one.
    fn take_late_response(&mut self, worker: usize, to: &Endpoint, bytes: &[u8]) -> bool {
        let waited = &mut self.late_responses[worker];
        let at = waited.iter().position(|(client, response)| client == to && response == bytes);
        at.map(|at| waited.remove(at)).is_some()
    }

    /// Adds an announce by UDP that its owner must answer.
    fn open_announce(
        &mut self,
        worker: usize,
        from: &Endpoint,
        transaction: u32,
        request: ClientAnnounce,
        events: &[Event],
    ) {
        let owner = self.owner(&request.info_hash);
        let terms = self.terms(&request, true);
        let is_in_mesh = owner != worker;
        let open = OpenAnnounce { request, terms, owner, to: *from, is_in_mesh };
        if !is_in_mesh {
            self.unanswered[owner] += 1;
            self.open.entry((from.source, transaction)).or_default().push_back(open);
            return;
        }
        let [Event::Posted { to, content: MessageContent::UdpAnnounce(message), was_taken }] = events else {
            panic!("expected one message to the owner, got {events:?}")
        };
        assert_eq!(*to, owner, "the message goes to the wrong worker");
        self.check_udp_message(message, from, transaction, &open);
        if self.count_post(worker, *was_taken) {
            self.open.entry((from.source, transaction)).or_default().push_back(open);
        }
    }

    /// Counts a message that the mesh has taken or refused. Returns `was_taken`.
    pub(crate) fn count_post(&mut self, worker: usize, was_taken: bool) -> bool {
        self.bump(worker, if was_taken { Counter::MeshHops } else { Counter::DropMeshFull });
        was_taken
    }

    fn check_udp_message(
        &self,
        message: &UdpAnnounce,
        from: &Endpoint,
        transaction: u32,
        open: &OpenAnnounce,
    ) {
        assert_eq!(
            (message.to, message.transaction_id),
            (*from, transaction),
            "client and transaction of the message"
        );
        self.check_interval(message.interval_secs);
        check_announce_fields(&message.announce, &open.request, open.terms);
    }

    pub(crate) fn check_interval(&self, secs: u32) {
        let interval = self.policy.announce_interval_secs;
        assert!((interval..=interval + interval / 16).contains(&secs), "interval of {secs} s");
    }

    /// Checks the events of a part of a turn.
    pub(crate) fn check_events(&mut self, worker: usize, now_us: u64, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Reply { to, bytes } if self.take_late_response(worker, &to, &bytes) => {
                    self.count_reply(worker, &to, "UDP replies after a wait");
                }
                Event::Reply { to, bytes } => match Reply::read(&bytes, to.source) {
                    (transaction, Reply::Scrape { counts }) => {
                        self.waits.check_gathered_scrape(worker, &to, transaction, &counts);
                        self.count_reply(worker, &to, "gathered scrape replies");
                    }
                    _ => self.check_announce_reply(worker, now_us, &to, &bytes),
                },
                Event::Received { from, content: MessageContent::UdpAnnounce(message) } => {
                    let key = (message.to.source, message.transaction_id);
                    let open = self.open.get_mut(&key).and_then(|open| {
                        open.iter_mut().find(|open| open.is_in_mesh && open.to == message.to)
                    });
                    let open =
                        open.unwrap_or_else(|| panic!("worker {from} sent an unknown announce: {message:?}"));
                    assert_eq!(open.owner, worker, "the message came to the wrong worker");
                    open.is_in_mesh = false;
                    self.unanswered[worker] += 1;
                    self.log.add("forwarded announces", 1);
                }
                Event::Received { from, content } => self.check_received(worker, from, content),
                Event::Posted { to, content, was_taken } => {
                    self.check_answer_message(worker, now_us, to, content, was_taken);
                }
            }
        }
    }

    /// Checks the reply to an announce by UDP.
    fn check_announce_reply(&mut self, worker: usize, now_us: u64, to: &Endpoint, bytes: &[u8]) {
        let (transaction, reply) = Reply::read(bytes, to.source);
        let Reply::Announce { interval_secs, seeders, leechers, peers } = reply else {
            panic!("unexpected reply: {reply:?}")
        };
        let key = (to.source, transaction);
        let waiting = self.open.get_mut(&key).filter(|open| !open.is_empty());
        let waiting = waiting
            .unwrap_or_else(|| panic!("no announce of {} has the transaction {transaction:#x}", to.source));
        let at = waiting.iter().position(|open| !open.is_in_mesh && open.owner == worker && open.to == *to);
        let at = at.unwrap_or_else(|| panic!("worker {worker} answers an announce that it does not have"));
        let open = waiting.remove(at).expect("the position was found");
        if waiting.is_empty() {
            self.open.remove(&key);
        }
        assert_eq!(open.to, *to, "address of the reply");
        self.unanswered[worker] -= 1;
        self.check_interval(interval_secs);
        let values = ReplyValues { seeders, leechers, downloaded: None, peers: &peers, ids: &[] };
        self.check_answer(worker, now_us, &open.request, open.terms, &values);
        self.count_reply(worker, to, "UDP announce replies");
    }

    /// Checks the answer of the owner of a swarm to an announce.
    pub(crate) fn check_answer(
        &mut self,
        worker: usize,
        now_us: u64,
        request: &ClientAnnounce,
        terms: Terms,
        values: &ReplyValues<'_>,
    ) {
        let was_refused = self.oracle.announce(worker, now_us, request, terms, values);
        self.log.add("announces refused by a full table", u64::from(was_refused));
        self.log.add("peers returned", values.peers.len() as u64);
    }

    /// Checks a worker after a turn: all announces are answered, the counters are right and the table is as expected.
    pub(crate) fn check_turn(&mut self, worker: usize, now_us: u64, engine: &Engine, swept: bool) {
        assert_eq!(self.unanswered[worker], 0, "announces without an answer after the turn");
        assert!(self.late_responses[worker].is_empty(), "responses that the turn has not sent");
        self.check_counters(worker, engine);
        let counted = |counter| engine.counters.get(counter);
        let all = RemovedPeers {
            expired: counted(Counter::ExpiredPeers),
            evicted: counted(Counter::EvictedPeers),
            denied: counted(Counter::DeniedPeers),
        };
        let before = std::mem::replace(&mut self.removed[worker], all);
        let removed = RemovedPeers {
            expired: all.expired - before.expired,
            evicted: all.evicted - before.evicted,
            denied: all.denied - before.denied,
        };
        if swept {
            self.oracle.advance(worker, now_us);
        }
        if self.oracle.needs_comparison(worker, now_us, removed, &self.rules[worker]) {
            self.oracle.compare(worker, now_us, engine, removed, &self.rules[worker]);
        }
        for (kind, count) in [
            ("expired peers", removed.expired),
            ("evicted peers", removed.evicted),
            ("denied peers removed", removed.denied),
        ] {
            self.log.add(kind, count);
        }
    }

    /// Checks the counters, and whether the worker waits for others.
    pub(crate) fn check_counters(&self, worker: usize, engine: &Engine) {
        for counter in KNOWN {
            let (counted, expected) =
                (engine.counters.get(counter), self.expected_counters[worker].get(counter));
            assert_eq!(counted, expected, "{counter:?} of worker {worker}");
        }
        assert_eq!(
            engine.is_waiting(),
            self.waits.is_waiting(worker),
            "worker {worker} waits for other workers"
        );
    }

    /// Checks the gauges that a worker has published.
    pub(crate) fn check_gauges(&self, worker: usize, now_us: u64, engine: &Engine) {
        let table = &self.oracle.tables[worker];
        let (mut swarms, mut seeders, mut leechers, mut v6) = (0, 0, 0, 0);
        for swarm in table.swarms.values() {
            let counts = swarm.counts();
            swarms += u64::from(!swarm.peers.is_empty());
            seeders += u64::from(counts.seeders);
            leechers += u64::from(counts.leechers);
            v6 += swarm.peers.keys().filter(|peer| peer.is_ipv6()).count() as u64;
        }
        for (counter, value) in [
            (Counter::Swarms, swarms),
            (Counter::Seeders, seeders),
            (Counter::Leechers, leechers),
            (Counter::V6Peers, v6),
            (Counter::Completed, table.completed),
            (Counter::DropTableFull, table.refused),
        ] {
            assert_eq!(engine.counters.get(counter), value, "{counter:?} of worker {worker}");
        }
        let (overdue, lag) =
            (self.oracle.longest_overdue_us(worker, now_us), engine.counters.get(Counter::SweepLagMs));
        assert!(overdue / 1_000 <= lag, "a peer is overdue by {overdue} us, the lag is {lag} ms");
    }

    /// Checks that no request waits.
    pub(crate) fn check_nothing_pending(&self) {
        assert!(self.open.is_empty(), "announces without a reply: {:?}", self.open.keys());
        self.waits.check_nothing_pending();
    }
}

/// Checks the announce in a message between workers against the one that the client sent.
pub(crate) fn check_announce_fields(announce: &Announce, request: &ClientAnnounce, terms: Terms) {
    let received = (announce.info_hash, announce.peer_id.0, announce.peer, announce.event, announce.seeder);
    let peer = PeerAddr::new(request.peer.ip(), request.peer.port());
    assert_eq!(received, (request.info_hash, request.peer_id, peer, request.event, request.seeder));
    assert_eq!(usize::from(announce.num_want), terms.num_want, "num_want");
}
