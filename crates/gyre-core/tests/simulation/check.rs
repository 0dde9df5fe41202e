//! Owns what the tracker is held to: each request is answered once, as the oracle has it, or counted as what became of
//! it; each worker's counters say just that; and nobody waits of whom nobody knows.

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

/// What is counted of sources that ask for too much.
pub(crate) const LIMITS: [Counter; 4] =
    [Counter::LimitedConnect, Counter::LimitedAnnounce, Counter::LimitedScrape, Counter::LimitedBanned];

/// Counters that are known in advance, one by one.
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

/// What a datagram has to lead to.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// No answer.
    Silence,
    /// The middleware waits with it.
    PendingWaits,
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

/// An announce by UDP that is to be answered.
struct OpenAnnounce {
    request: ClientAnnounce,
    terms: Terms,
    owner: usize,
    to: Endpoint,
    /// In a queue between two workers.
    is_in_mesh: bool,
}

/// All that is known of a process and what it owes.
pub(crate) struct Check {
    pub(crate) log: Log,
    pub(crate) oracle: Oracle,
    pub(crate) owners: Owners,
    pub(crate) policy: Policy,
    window_secs: u32,
    started_unix_us: u64,
    /// Connection ids that were given to addresses, each with its window. The secret makes an id the same each time.
    pub(crate) issued: BTreeMap<(IpAddr, u64), u64>,
    /// By worker.
    pub(crate) rules: Vec<Rules>,
    pub(crate) expected_counters: Vec<Counters>,
    open: BTreeMap<(SocketAddr, u32), VecDeque<OpenAnnounce>>,
    /// By worker: announces that its turn has yet to answer.
    unanswered: Vec<usize>,
    pub(crate) waits: PendingWaits,
    /// By worker: responses by UDP of requests that have waited, which leave with the next turn.
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

    pub(crate) fn bump_of(&mut self, worker: usize, ip: IpAddr, [v4, v6]: [Counter; 2]) {
        self.bump(worker, if ip.is_ipv4() { v4 } else { v6 });
    }

    /// Peers that an announce gets.
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

    /// An id was given to an address.
    pub(crate) fn issue(&mut self, now_us: u64, ip: IpAddr, id: u64) {
        let window = self.window(now_us);
        let before = self.issued.insert((ip, id), window);
        assert!(before.is_none_or(|before| before == window), "an id of two windows");
    }

    /// An id holds in its window and the next.
    fn knows(&self, now_us: u64, ip: IpAddr, id: u64) -> bool {
        let window = self.window(now_us);
        self.issued.get(&(ip, id)).is_some_and(|issued| window == *issued || window == issued + 1)
    }

    /// What a datagram has to lead to, the middleware being of this mind, and the source over this limit.
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
                self.bump_of(worker, ip, [Counter::UdpConnectV4, Counter::UdpConnectV6]);
                if !permitted {
                    return self.expect_silence(worker, Counter::DeniedSource);
                }
                if limited == Some(Counter::LimitedConnect) {
                    return self.expect_silence(worker, Counter::LimitedConnect);
                }
                (Expected::Connect { transaction }, transaction)
            }
            Datagram::Announce { id, transaction, request, options_are_good } => {
                self.bump_of(worker, ip, [Counter::UdpAnnounceV4, Counter::UdpAnnounceV6]);
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
                self.bump_of(worker, ip, [Counter::UdpScrapeV4, Counter::UdpScrapeV6]);
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
            Some(Decision::Wait(_)) => Expected::PendingWaits,
        }
    }

    /// Why a request that needs a connection id is not answered, if it isn't. Whom the limits stop the tracker says.
    fn rejection(
        &self,
        worker: usize,
        now_us: u64,
        ip: IpAddr,
        id: u64,
        limited: Option<Counter>,
    ) -> Option<Counter> {
        let is_banned = limited == Some(Counter::LimitedBanned);
        match (self.rules[worker].permits_source(ip), self.knows(now_us, ip, id)) {
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

    /// What an announce is told that is not to be entered.
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

    /// What an announce is told that the lists deny; counts it.
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

    /// Holds what a datagram has led to: its answer there and then, and what was said to other workers.
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
            assert!(events.is_empty(), "nobody else is to know: {events:?}");
        }
        match (expected, reply) {
            (Expected::Silence | Expected::PendingWaits, None) => {}
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
                assert!(!is_foreign, "another worker's swarm");
                self.open_announce(worker, from, transaction, request, &events);
                self.check_announce_reply(worker, now_us, from, reply);
            }
            (Expected::Scrape { transaction, info_hashes }, reply) => {
                self.check_scrape(worker, now_us, from, transaction, &info_hashes, reply, events);
            }
            (expected, reply) => panic!("{expected:?} has led to {reply:?}"),
        }
    }

    /// A reply by UDP has left.
    pub(crate) fn count_reply(&mut self, worker: usize, to: &Endpoint, kind: &'static str) {
        self.log.add(kind, 1);
        self.bump_of(worker, to.source.ip(), [Counter::UdpRepliesV4, Counter::UdpRepliesV6]);
    }

    /// A request by UDP has waited; its response leaves with the next turn.
    pub(crate) fn add_late_response(&mut self, worker: usize, to: &Endpoint, response: &[u8]) {
        self.late_responses[worker].push((*to, response.to_vec()));
    }

    /// Whether a reply is the response to a request that has waited.
    fn take_late_response(&mut self, worker: usize, to: &Endpoint, bytes: &[u8]) -> bool {
        let waited = &mut self.late_responses[worker];
        let at = waited.iter().position(|(client, response)| client == to && response == bytes);
        at.map(|at| waited.remove(at)).is_some()
    }

    /// An announce by UDP is to be answered by its owner.
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
            panic!("an announce goes to its owner, once: {events:?}")
        };
        assert_eq!(*to, owner, "the wrong worker");
        self.check_udp_message(message, from, transaction, &open);
        if self.count_post(worker, *was_taken) {
            self.open.entry((from.source, transaction)).or_default().push_back(open);
        }
    }

    /// Counts what the mesh took, or did not.
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
        assert_eq!((message.to, message.transaction_id), (*from, transaction), "somebody else's announce");
        self.check_interval(message.interval_secs);
        check_announce_fields(&message.announce, &open.request, open.terms);
    }

    pub(crate) fn check_interval(&self, secs: u32) {
        let interval = self.policy.announce_interval_secs;
        assert!((interval..=interval + interval / 16).contains(&secs), "an interval of {secs} s");
    }

    /// Holds what has happened in a part of a worker's turn.
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
                Event::Took { from, content: MessageContent::UdpAnnounce(message) } => {
                    let key = (message.to.source, message.transaction_id);
                    let open = self.open.get_mut(&key).and_then(|open| {
                        open.iter_mut().find(|open| open.is_in_mesh && open.to == message.to)
                    });
                    let open =
                        open.unwrap_or_else(|| panic!("{from} has sent what nobody asked: {message:?}"));
                    assert_eq!(open.owner, worker, "it came to the wrong worker");
                    open.is_in_mesh = false;
                    self.unanswered[worker] += 1;
                    self.log.add("forwarded announces", 1);
                }
                Event::Took { from, content } => self.check_taken(worker, from, content),
                Event::Posted { to, content, was_taken } => {
                    self.check_answer_message(worker, now_us, to, content, was_taken)
                }
            }
        }
    }

    /// An announce by UDP was answered.
    fn check_announce_reply(&mut self, worker: usize, now_us: u64, to: &Endpoint, bytes: &[u8]) {
        let (transaction, reply) = Reply::read(bytes, to.source);
        let Reply::Announce { interval_secs, seeders, leechers, peers } = reply else {
            panic!("nobody asked for {reply:?}")
        };
        let key = (to.source, transaction);
        let waiting = self.open.get_mut(&key).filter(|open| !open.is_empty());
        let waiting = waiting.unwrap_or_else(|| panic!("nobody at {} asked for {transaction:#x}", to.source));
        let at = waiting.iter().position(|open| !open.is_in_mesh && open.owner == worker && open.to == *to);
        let at = at.unwrap_or_else(|| panic!("worker {worker} answers what it was not asked"));
        let open = waiting.remove(at).expect("it was found");
        if waiting.is_empty() {
            self.open.remove(&key);
        }
        assert_eq!(open.to, *to, "the way back");
        self.unanswered[worker] -= 1;
        self.check_interval(interval_secs);
        let values = ReplyValues { seeders, leechers, downloaded: None, peers: &peers, ids: &[] };
        self.check_answer(worker, now_us, &open.request, open.terms, &values);
        self.count_reply(worker, to, "UDP announce replies");
    }

    /// The owner of a swarm has taken an announce.
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

    /// After a turn: all is answered that had to be, counted as it was, and in the table that is in the oracle's.
    pub(crate) fn check_turn(&mut self, worker: usize, now_us: u64, engine: &Engine, swept: bool) {
        assert_eq!(self.unanswered[worker], 0, "announces that this turn has not answered");
        assert!(self.late_responses[worker].is_empty(), "responses that this turn has not sent");
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

    /// Holds the counters and whether anybody waits.
    pub(crate) fn check_counters(&self, worker: usize, engine: &Engine) {
        for counter in KNOWN {
            let (counted, expected) =
                (engine.counters.get(counter), self.expected_counters[worker].get(counter));
            assert_eq!(counted, expected, "{counter:?} of worker {worker}");
        }
        assert_eq!(
            engine.is_waiting(),
            self.waits.is_waiting(worker),
            "whether worker {worker} waits for others"
        );
    }

    /// Holds what a worker has published of how things stand.
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
        assert!(overdue / 1_000 <= lag, "a peer has outlived its time by {overdue} us, the lag is {lag} ms");
    }

    /// Nothing is left that somebody waits for.
    pub(crate) fn check_nothing_pending(&self) {
        assert!(self.open.is_empty(), "announces without an answer: {:?}", self.open.keys());
        self.waits.check_nothing_pending();
    }
}

/// Holds what a worker tells another of an announce to what the client has said.
pub(crate) fn check_announce_fields(announce: &Announce, request: &ClientAnnounce, terms: Terms) {
    let values = (announce.info_hash, announce.peer_id.0, announce.peer, announce.event, announce.seeder);
    let peer = PeerAddr::new(request.peer.ip(), request.peer.port());
    assert_eq!(values, (request.info_hash, request.peer_id, peer, request.event, request.seeder));
    assert_eq!(usize::from(announce.num_want), terms.num_want, "peers wanted");
}
