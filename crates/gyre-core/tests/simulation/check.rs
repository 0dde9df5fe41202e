//! Owns the checks of the tracker: each request is answered once, with what the oracle expects, or is counted as
//! dropped or denied. The counters of each worker agree with that, and no request waits that is not known.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use gyre_core::counters::{Counter, Counters};
use gyre_core::engine::{Endpoint, Engine, Policy, UdpAnnounce};
use gyre_core::owner::Owners;
use gyre_core::types::{Announce, InfoHash, PeerAddr};

use crate::bytes::{ClientAnnounce, Datagram, Reply};
use crate::log::Log;
use crate::oracle::{Answered, Gone, Oracle, Terms};
use crate::rules::Rules;
use crate::verdict::{Verdict, refusal};
use crate::waits::Waits;
use crate::watch::{Content, Event};

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
    Waits,
    Connect {
        transaction: u32,
    },
    Refusal {
        transaction: u32,
        message: String,
    },
    Announce {
        transaction: u32,
        wish: ClientAnnounce,
    },
    Scrape {
        transaction: u32,
        info_hashes: Vec<InfoHash>,
    },
}

/// An announce by UDP without an answer yet.
struct Open {
    wish: ClientAnnounce,
    terms: Terms,
    owner: usize,
    to: Endpoint,
    /// In a queue between two workers.
    travels: bool,
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
    pub(crate) expected: Vec<Counters>,
    open: BTreeMap<(SocketAddr, u32), VecDeque<Open>>,
    /// By worker: announces that its turn has yet to answer.
    unanswered: Vec<usize>,
    pub(crate) waits: Waits,
    /// By worker: responses by UDP of requests that have waited, which leave with the next turn.
    waited: Vec<Vec<(Endpoint, Vec<u8>)>>,
    gone: Vec<Gone>,
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
            expected: vec![Counters::default(); workers],
            open: BTreeMap::new(),
            unanswered: vec![0; workers],
            waits: Waits::new(workers),
            waited: vec![Vec::new(); workers],
            gone: vec![Gone::default(); workers],
        }
    }

    pub(crate) fn owner(&self, info_hash: &InfoHash) -> usize {
        self.owners.of(info_hash).index()
    }

    pub(crate) fn bump(&mut self, worker: usize, counter: Counter) {
        self.expected[worker].bump(counter);
    }

    pub(crate) fn bump_of(&mut self, worker: usize, ip: IpAddr, [v4, v6]: [Counter; 2]) {
        self.bump(worker, if ip.is_ipv4() { v4 } else { v6 });
    }

    /// Peers that an announce gets.
    pub(crate) fn terms(&self, wish: &ClientAnnounce, by_udp: bool) -> Terms {
        let most = match (by_udp, wish.peer.is_ipv4()) {
            (true, true) => 242,
            (true, false) => 79,
            (false, _) => usize::MAX,
        };
        let wanted = usize::from(wish.num_want.unwrap_or(50)).min(self.policy.max_peers.into());
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

    /// What a datagram has to lead to, the middleware being of this next_verdict, and the source over this limit.
    pub(crate) fn judge(
        &mut self,
        worker: usize,
        now_us: u64,
        from: &Endpoint,
        bytes: &[u8],
        verdict: Option<Verdict>,
        limited: Option<Counter>,
    ) -> Expected {
        let ip = from.source.ip();
        if from.source.port() == 0 {
            return self.silence(worker, Counter::BadSourcePort);
        }
        let permitted = self.rules[worker].permits_source(ip);
        let (fate, transaction) = match Datagram::read(bytes, ip) {
            Datagram::Short => return self.silence(worker, Counter::BadShort),
            Datagram::NoMagic => return self.silence(worker, Counter::BadMagic),
            Datagram::NoAction => return self.silence(worker, Counter::BadAction),
            Datagram::Connect { transaction } => {
                self.bump_of(worker, ip, [Counter::UdpConnectV4, Counter::UdpConnectV6]);
                if !permitted {
                    return self.silence(worker, Counter::DeniedSource);
                }
                if limited == Some(Counter::LimitedConnect) {
                    return self.silence(worker, Counter::LimitedConnect);
                }
                (Expected::Connect { transaction }, transaction)
            }
            Datagram::Announce { id, transaction, wish, options_are_good } => {
                self.bump_of(worker, ip, [Counter::UdpAnnounceV4, Counter::UdpAnnounceV6]);
                let limited = limited.filter(|limited| *limited != Counter::LimitedScrape);
                if let Some(counter) = self.shuts_out(worker, now_us, ip, id, limited) {
                    return self.silence(worker, counter);
                }
                if let Some(fate) = self.deny(worker, now_us, transaction, &wish) {
                    return fate;
                }
                if !options_are_good {
                    self.bump(worker, Counter::BadOptions);
                }
                (Expected::Announce { transaction, wish }, transaction)
            }
            Datagram::Scrape { id, transaction, info_hashes } => {
                self.bump_of(worker, ip, [Counter::UdpScrapeV4, Counter::UdpScrapeV6]);
                let limited = limited.filter(|limited| *limited != Counter::LimitedAnnounce);
                if let Some(counter) = self.shuts_out(worker, now_us, ip, id, limited) {
                    return self.silence(worker, counter);
                }
                (Expected::Scrape { transaction, info_hashes }, transaction)
            }
        };
        match verdict {
            None | Some(Verdict::Pass) => fate,
            Some(Verdict::Stop) => self.silence(worker, Counter::Silenced),
            Some(Verdict::Refuse) => {
                self.bump(worker, Counter::Refused);
                let message = refusal(matches!(fate, Expected::Connect { .. }));
                Expected::Refusal { transaction, message: message.to_owned() }
            }
            Some(Verdict::Wait(_)) => Expected::Waits,
        }
    }

    /// Returns the counter of a request with a connection id that is not answered. For rate limits the tracker's own
    /// counter is believed.
    fn shuts_out(
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

    fn silence(&mut self, worker: usize, counter: Counter) -> Expected {
        self.bump(worker, counter);
        self.log.add("rejected", 1);
        Expected::Silence
    }

    /// What an announce is told that is not to be entered.
    fn deny(
        &mut self,
        worker: usize,
        now_us: u64,
        transaction: u32,
        wish: &ClientAnnounce,
    ) -> Option<Expected> {
        if wish.peer.port() == 0 {
            self.bump(worker, Counter::BadAnnouncePort);
            self.bump(worker, Counter::Refused);
            return Some(Expected::Refusal { transaction, message: "invalid parameter: port".into() });
        }
        let message = self.denial(worker, now_us, wish)?;
        if message.is_empty() {
            return Some(Expected::Silence);
        }
        self.bump(worker, Counter::Refused);
        Some(Expected::Refusal { transaction, message })
    }

    /// What an announce is told that the lists deny; counts it.
    pub(crate) fn denial(&mut self, worker: usize, now_us: u64, wish: &ClientAnnounce) -> Option<String> {
        let rules = &self.rules[worker];
        let (counter, message) = if !rules.permits_torrent(now_us, &wish.info_hash) {
            (Counter::DeniedTorrent, rules.reason.clone())
        } else if !rules.permits_client(&wish.peer_id) {
            (Counter::DeniedClient, "this client is not allowed".to_owned())
        } else {
            return None;
        };
        self.bump(worker, counter);
        self.log.add("denied", 1);
        Some(message)
    }

    /// Holds what a datagram has led to: its answer there and then, and what was said to other workers.
    pub(crate) fn judged(
        &mut self,
        worker: usize,
        now_us: u64,
        from: &Endpoint,
        fate: Expected,
        reply: Option<&[u8]>,
        events: Vec<Event>,
    ) {
        let owner = match &fate {
            Expected::Announce { wish, .. } => Some(self.owner(&wish.info_hash)),
            _ => None,
        };
        let is_foreign = owner.is_some_and(|owner| owner != worker);
        if !is_foreign && !matches!(fate, Expected::Scrape { .. }) {
            assert!(events.is_empty(), "no other worker must be told: {events:?}");
        }
        match (fate, reply) {
            (Expected::Silence | Expected::Waits, None) => {}
            (Expected::Connect { transaction }, Some(reply)) => {
                assert!(
                    matches!(Reply::read(reply, from.source), (number, Reply::Connect { .. }) if number == transaction)
                );
                if let (_, Reply::Connect { id }) = Reply::read(reply, from.source) {
                    self.issue(now_us, from.source.ip(), id);
                }
                self.replied(worker, from, "answered connects");
            }
            (Expected::Refusal { transaction, message }, Some(reply)) => {
                assert_eq!(Reply::read(reply, from.source), (transaction, Reply::Error { message }));
                self.replied(worker, from, "refusals");
            }
            (Expected::Announce { transaction, wish }, None) => {
                self.opened(worker, from, transaction, wish, &events);
            }
            (Expected::Announce { transaction, wish }, Some(reply)) => {
                assert!(!is_foreign, "another worker's swarm");
                self.opened(worker, from, transaction, wish, &events);
                self.announce_answered(worker, now_us, from, reply);
            }
            (Expected::Scrape { transaction, info_hashes }, reply) => {
                self.scrape_asked(worker, now_us, from, transaction, &info_hashes, reply, events);
            }
            (fate, reply) => panic!("{fate:?} has led to {reply:?}"),
        }
    }

    /// A reply by UDP has left.
    pub(crate) fn replied(&mut self, worker: usize, to: &Endpoint, kind: &'static str) {
        self.log.add(kind, 1);
        self.bump_of(worker, to.source.ip(), [Counter::UdpRepliesV4, Counter::UdpRepliesV6]);
    }

    /// A request by UDP has waited; its response leaves with the next turn.
    pub(crate) fn waited(&mut self, worker: usize, to: &Endpoint, response: &[u8]) {
        self.waited[worker].push((*to, response.to_vec()));
    }

    /// Whether a reply is the response to a request that has waited.
    fn has_waited(&mut self, worker: usize, to: &Endpoint, bytes: &[u8]) -> bool {
        let waited = &mut self.waited[worker];
        let at = waited.iter().position(|(client, response)| client == to && response == bytes);
        at.map(|at| waited.remove(at)).is_some()
    }

    /// Notes an announce by UDP that its owner will answer.
    fn opened(
        &mut self,
        worker: usize,
        from: &Endpoint,
        transaction: u32,
        wish: ClientAnnounce,
        events: &[Event],
    ) {
        let owner = self.owner(&wish.info_hash);
        let terms = self.terms(&wish, true);
        let travels = owner != worker;
        let open = Open { wish, terms, owner, to: *from, travels };
        if !travels {
            self.unanswered[owner] += 1;
            self.open.entry((from.source, transaction)).or_default().push_back(open);
            return;
        }
        let [Event::Posted { to, words: Content::UdpAnnounce(message), was_taken }] = events else {
            panic!("an announce goes to its owner, once: {events:?}")
        };
        assert_eq!(*to, owner, "the wrong worker");
        self.check_message(message, from, transaction, &open);
        if self.posted(worker, *was_taken) {
            self.open.entry((from.source, transaction)).or_default().push_back(open);
        }
    }

    /// Counts what the mesh took, or did not.
    pub(crate) fn posted(&mut self, worker: usize, was_taken: bool) -> bool {
        self.bump(worker, if was_taken { Counter::MeshHops } else { Counter::DropMeshFull });
        was_taken
    }

    fn check_message(&self, message: &UdpAnnounce, from: &Endpoint, transaction: u32, open: &Open) {
        assert_eq!(
            (message.to, message.transaction_id),
            (*from, transaction),
            "the announce of another client"
        );
        self.check_interval(message.interval_secs);
        check_announce(&message.announce, &open.wish, open.terms);
    }

    pub(crate) fn check_interval(&self, secs: u32) {
        let interval = self.policy.announce_interval_secs;
        assert!((interval..=interval + interval / 16).contains(&secs), "an interval of {secs} s");
    }

    /// Holds what has happened in a part of a worker's turn.
    pub(crate) fn happened(&mut self, worker: usize, now_us: u64, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Reply { to, bytes } if self.has_waited(worker, &to, &bytes) => {
                    self.replied(worker, &to, "answered after a wait");
                }
                Event::Reply { to, bytes } => match Reply::read(&bytes, to.source) {
                    (transaction, Reply::Scrape { counts }) => {
                        self.waits.scrape_answered(worker, &to, transaction, &counts);
                        self.replied(worker, &to, "gathered scrapes");
                    }
                    _ => self.announce_answered(worker, now_us, &to, &bytes),
                },
                Event::Took { from, words: Content::UdpAnnounce(message) } => {
                    let key = (message.to.source, message.transaction_id);
                    let open = self
                        .open
                        .get_mut(&key)
                        .and_then(|open| open.iter_mut().find(|open| open.travels && open.to == message.to));
                    let open = open.unwrap_or_else(|| {
                        panic!("{from} has sent an announce that no client sent: {message:?}")
                    });
                    assert_eq!(open.owner, worker, "it came to the wrong worker");
                    open.travels = false;
                    self.unanswered[worker] += 1;
                    self.log.add("forwarded announces", 1);
                }
                Event::Took { from, words } => self.took(worker, from, words),
                Event::Posted { to, words, was_taken } => self.answered(worker, now_us, to, words, was_taken),
            }
        }
    }

    /// An announce by UDP was answered.
    fn announce_answered(&mut self, worker: usize, now_us: u64, to: &Endpoint, bytes: &[u8]) {
        let (transaction, reply) = Reply::read(bytes, to.source);
        let Reply::Announce { interval_secs, seeders, leechers, peers } = reply else {
            panic!("no client asked for {reply:?}")
        };
        let key = (to.source, transaction);
        let waiting = self.open.get_mut(&key).filter(|open| !open.is_empty());
        let waiting =
            waiting.unwrap_or_else(|| panic!("no client at {} asked for {transaction:#x}", to.source));
        let at = waiting.iter().position(|open| !open.travels && open.owner == worker && open.to == *to);
        let at = at.unwrap_or_else(|| panic!("worker {worker} answers what it was not asked"));
        let open = waiting.remove(at).expect("it was found");
        if waiting.is_empty() {
            self.open.remove(&key);
        }
        assert_eq!(open.to, *to, "the way back");
        self.unanswered[worker] -= 1;
        self.check_interval(interval_secs);
        let said = Answered { seeders, leechers, downloaded: None, peers: &peers, ids: &[] };
        self.announced(worker, now_us, &open.wish, open.terms, &said);
        self.replied(worker, to, "answered announces");
    }

    /// The owner of a swarm has taken an announce.
    pub(crate) fn announced(
        &mut self,
        worker: usize,
        now_us: u64,
        wish: &ClientAnnounce,
        terms: Terms,
        said: &Answered<'_>,
    ) {
        let was_refused = self.oracle.announce(worker, now_us, wish, terms, said);
        self.log.add("refused by a full table", u64::from(was_refused));
        self.log.add("peers handed out", said.peers.len() as u64);
    }

    /// After a turn: all is answered that had to be, counted as it was, and in the table that is in the oracle's.
    pub(crate) fn after_turn(&mut self, worker: usize, now_us: u64, engine: &Engine, swept: bool) {
        assert_eq!(self.unanswered[worker], 0, "announces that this turn has not answered");
        assert!(self.waited[worker].is_empty(), "responses that this turn has not sent");
        self.check_counters(worker, engine);
        let counted = |counter| engine.counters.get(counter);
        let all = Gone {
            expired: counted(Counter::ExpiredPeers),
            evicted: counted(Counter::EvictedPeers),
            denied: counted(Counter::DeniedPeers),
        };
        let before = std::mem::replace(&mut self.gone[worker], all);
        let gone = Gone {
            expired: all.expired - before.expired,
            evicted: all.evicted - before.evicted,
            denied: all.denied - before.denied,
        };
        if swept {
            self.oracle.pass(worker, now_us);
        }
        if self.oracle.is_due(worker, now_us, gone, &self.rules[worker]) {
            self.oracle.compare(worker, now_us, engine, gone, &self.rules[worker]);
        }
        for (kind, count) in
            [("expired", gone.expired), ("evicted", gone.evicted), ("swept as denied", gone.denied)]
        {
            self.log.add(kind, count);
        }
    }

    /// Checks the counters, and whether requests wait.
    pub(crate) fn check_counters(&self, worker: usize, engine: &Engine) {
        for counter in KNOWN {
            let (counted, expected) = (engine.counters.get(counter), self.expected[worker].get(counter));
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
        let part = &self.oracle.parts[worker];
        let (mut swarms, mut seeders, mut leechers, mut v6) = (0, 0, 0, 0);
        for swarm in part.swarms.values() {
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
            (Counter::Completed, part.completed),
            (Counter::DropTableFull, part.refused),
        ] {
            assert_eq!(engine.counters.get(counter), value, "{counter:?} of worker {worker}");
        }
        let (overdue, lag) =
            (self.oracle.longest_overdue_us(worker, now_us), engine.counters.get(Counter::SweepLagMs));
        assert!(overdue / 1_000 <= lag, "a peer has outlived its time by {overdue} us, the lag is {lag} ms");
    }

    /// Checks that no request waits.
    pub(crate) fn check_quiet(&self) {
        assert!(self.open.is_empty(), "announces without an answer: {:?}", self.open.keys());
        self.waits.check_quiet();
    }
}

/// Holds what a worker tells another of an announce to what the client has said.
pub(crate) fn check_announce(announce: &Announce, wish: &ClientAnnounce, terms: Terms) {
    let said = (announce.info_hash, announce.peer_id.0, announce.peer, announce.event, announce.seeder);
    let peer = PeerAddr::new(wish.peer.ip(), wish.peer.port());
    assert_eq!(said, (wish.info_hash, wish.peer_id, peer, wish.event, wish.seeder));
    assert_eq!(usize::from(announce.num_want), terms.num_want, "peers wanted");
}
