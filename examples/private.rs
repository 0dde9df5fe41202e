//! A private tracker: who announces shows a passkey, and what each member transfers is counted.
//!
//! `cargo run --release --example private -- MEMBERS [ADDR:PORT]`, where each line of the file MEMBERS is a passkey, a
//! blank and a name. A member's torrents have `udp://HOST:6969/PASSKEY/announce` or the same with `http`. The page
//! `/users` shows the counts to those who ask from the machine itself.
//!
//! The file stands for a database: asking it takes its time. So each worker keeps answers for a minute, and has other
//! requests to do while it waits for one. A signal ends the program at once; the counts are in its memory alone.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use gyre::Tracker;
use gyre::engine::context::{Action, RequestContext};
use gyre::engine::middleware::{Flow, Middleware, Next, Then, on};
use gyre::error::{Code, TrackerError};
use gyre::time::{Clock, Timestamp};
use gyre::types::{Event, InfoHash, PeerId};
use gyre::web::{HttpConnection, Json};
use gyre::wire::query::AnnounceQuery;
use serde_json::json;
use tokio::sync::oneshot;

/// Questions that wait for the store; more are turned away. It answers some hundred thousand a second.
const QUESTIONS: usize = 4_096;
/// Answers that a worker keeps of each kind, members and strangers.
const ANSWERS: usize = 100_000;
/// How long an answer holds: who is taken out of the file is let in for so long.
const ANSWER_LIFETIME: Duration = Duration::from_secs(60);
/// Torrents that a member may be in at a time, each with one client.
const TRANSFERS: usize = 2_000;
/// A client that has not announced for so long is gone; it should announce every half an hour.
const TRANSFER_LIFETIME: Duration = Duration::from_secs(2 * 3600);

/// Whose passkey a request has shown; it travels with the request, from one middleware to the next.
#[derive(Clone)]
struct Member(Arc<str>);

/// The file of members, read by a thread of its own: no worker ever waits for the disk.
#[derive(Clone)]
struct Store {
    questions: SyncSender<Question>,
}

struct Question {
    passkey: String,
    answer: oneshot::Sender<io::Result<Option<Member>>>,
}

/// What the store's thread has read.
struct Members {
    path: PathBuf,
    by_passkey: HashMap<String, Member>,
    /// When the file was changed, and how long it was.
    version: (SystemTime, u64),
}

impl Store {
    /// Reads the file, and from then on whenever it has changed. Change it by renaming another one to its name, so that
    /// no half of it is read.
    fn open(path: &Path) -> io::Result<Self> {
        let members = Members::read(path)?;
        tracing::info!("{} members in {}", members.by_passkey.len(), path.display());
        let (questions, asked) = sync_channel(QUESTIONS);
        thread::Builder::new().name("store".into()).spawn(move || members.answer(asked))?;
        Ok(Self { questions })
    }

    /// Who has this passkey.
    async fn find(&self, passkey: String) -> Result<Option<Member>, TrackerError> {
        let (answer, answered) = oneshot::channel();
        let too_many = |_| TrackerError::new(Code::Unavailable, "too many passkeys are asked about");
        self.questions.try_send(Question { passkey, answer }).map_err(too_many)?;
        let found = answered.await.map_err(TrackerError::internal)?;
        found.map_err(|error| {
            tracing::error!("the file of members can't be read: {error}");
            TrackerError::new(Code::Unavailable, "passkeys can't be looked up at the moment")
        })
    }
}

impl Members {
    fn read(path: &Path) -> io::Result<Self> {
        let version = Self::version(path)?; // before the text: a change in between is seen the next time
        let text = fs::read_to_string(path)?;
        let mut by_passkey = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            match line.trim().split_once(char::is_whitespace) {
                Some((passkey, name)) => {
                    by_passkey.insert(passkey.to_owned(), Member(name.trim_start().into()));
                }
                None if line.trim().is_empty() => {}
                None => tracing::warn!("{}:{number}: no name follows the passkey", path.display()),
            }
        }
        Ok(Self { path: path.to_owned(), by_passkey, version })
    }

    fn version(path: &Path) -> io::Result<(SystemTime, u64)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.modified()?, metadata.len()))
    }

    /// Answers until nobody can ask any more.
    fn answer(mut self, asked: Receiver<Question>) {
        for Question { passkey, answer } in asked {
            let found = self.refresh().map(|()| self.by_passkey.get(&passkey).cloned());
            let _ = answer.send(found); // who asked may have been given up
        }
    }

    fn refresh(&mut self) -> io::Result<()> {
        if Self::version(&self.path)? != self.version {
            *self = Self::read(&self.path)?;
        }
        Ok(())
    }
}

/// Answers that hold for some time, at most [`ANSWERS`] of them. When half as many are new, the older ones go.
#[derive(Clone)]
struct Cache<T> {
    new: HashMap<String, (T, Timestamp)>,
    old: HashMap<String, (T, Timestamp)>,
}

impl<T: Clone> Cache<T> {
    fn empty() -> Self {
        Self { new: HashMap::new(), old: HashMap::new() }
    }

    fn get(&self, passkey: &str, now: Timestamp) -> Option<T> {
        let (answer, until) = self.new.get(passkey).or_else(|| self.old.get(passkey))?;
        (now < *until).then(|| answer.clone())
    }

    fn put(&mut self, passkey: String, answer: T, now: Timestamp) {
        if self.new.len() >= ANSWERS / 2 {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(passkey, (answer, now + ANSWER_LIFETIME));
    }
}

/// Lets members pass, and nobody else. Each worker has a clone, and so caches of its own, which need no lock.
#[derive(Clone)]
struct Passkeys {
    store: Store,
    clock: Clock,
    members: RefCell<Cache<Member>>,
    /// Apart from the members, so that whoever tries passkeys doesn't push those out.
    strangers: RefCell<Cache<()>>,
}

impl Passkeys {
    fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, members: Cache::empty().into(), strangers: Cache::empty().into() }
    }

    fn unknown() -> TrackerError {
        TrackerError::new(Code::AccessDenied, "unknown passkey")
    }
}

impl Middleware for Passkeys {
    /// Says at once what it knows.
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        if request.is_connect() {
            return Ok(Then::Next); // a connect carries no passkey, and gives nothing away
        }
        // A scrape by UDP can't carry one: it is refused.
        let Some(passkey) = request.passkey() else { return Err(Self::unknown()) };
        let now = self.clock.now();
        if self.strangers.borrow().get(&passkey, now).is_some() {
            return Err(Self::unknown());
        }
        let Some(member) = self.members.borrow().get(&passkey, now) else { return Ok(Then::Wait) };
        request.data_mut().insert(member);
        Ok(Then::Next)
    }

    /// Asks the store about the others.
    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        let passkey = request.passkey().map(Cow::into_owned).ok_or_else(Self::unknown)?;
        let found = self.store.find(passkey.clone()).await?;
        let now = self.clock.now();
        let Some(member) = found else {
            self.strangers.borrow_mut().put(passkey, (), now);
            return Err(Self::unknown());
        };
        self.members.borrow_mut().put(passkey, member.clone(), now);
        request.data_mut().insert(member);
        next.run(request).await
    }
}

/// What a member has transferred since the tracker was started.
#[derive(Default)]
struct Account {
    uploaded: u64,
    downloaded: u64,
    transfers: HashMap<(InfoHash, PeerId), Transfer>,
}

/// What a client has told about a torrent: totals since it began with it, of which the difference counts.
struct Transfer {
    uploaded: u64,
    downloaded: u64,
    told: Timestamp,
}

impl Account {
    fn count(&mut self, announce: &AnnounceQuery, now: Timestamp) -> Result<(), TrackerError> {
        let key = (announce.info_hash, announce.peer_id);
        let AnnounceQuery { uploaded, downloaded, .. } = *announce;
        // A client that is not known, or begins anew, is counted from here on.
        if let Some(before) = self.transfers.get(&key) {
            self.uploaded = self.uploaded.saturating_add(uploaded.saturating_sub(before.uploaded));
            self.downloaded = self.downloaded.saturating_add(downloaded.saturating_sub(before.downloaded));
        } else if self.transfers.len() >= TRANSFERS {
            self.transfers.retain(|_, transfer| now.since(transfer.told) < TRANSFER_LIFETIME);
            if self.transfers.len() >= TRANSFERS {
                return Err(TrackerError::new(Code::AccessDenied, "too many torrents at a time"));
            }
        }
        match announce.event {
            Event::Stopped => drop(self.transfers.remove(&key)),
            _ => drop(self.transfers.insert(key, Transfer { uploaded, downloaded, told: now })),
        }
        Ok(())
    }
}

/// The members' accounts, as many as there are names in the file. All workers share them, each taking the lock for some
/// hundred nanoseconds; a tracker for millions of announces a second would divide them among several locks.
#[derive(Clone, Default)]
struct Accounts(Arc<Mutex<BTreeMap<Arc<str>, Account>>>);

impl Accounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an announce to the member whose passkey it has shown.
    fn count(&self, request: &mut RequestContext<'_>, now: Timestamp) -> Flow {
        let member = request.data().get::<Member>().cloned();
        if let (Some(Member(name)), Some(announce)) = (member, request.as_announce()) {
            self.lock().entry(name).or_default().count(&announce.query, now)?;
        }
        Ok(Then::Next)
    }

    /// The page `/users`.
    async fn show(&self, connection: &mut HttpConnection) -> Result<(), TrackerError> {
        // Behind a proxy everybody seems to be on this machine, unless `Config::trusted_proxies` names it.
        if !connection.ip().is_loopback() {
            return Err(TrackerError::new(Code::AccessDenied, "only for the machine itself"));
        }
        let figures = |account: &Account| {
            let Account { uploaded, downloaded, transfers } = account;
            json!({ "uploaded": uploaded, "downloaded": downloaded, "torrents": transfers.len() })
        };
        let users: BTreeMap<_, _> =
            self.lock().iter().map(|(name, account)| (name.to_string(), figures(account))).collect();
        connection.send(Json(users)).await
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_target(false).with_writer(io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("the file of members is missing: private MEMBERS [ADDR:PORT]")?;
    let address: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:6969").parse()?;
    let (store, clock, accounts) = (Store::open(Path::new(&path))?, Clock::start(), Accounts::default());
    let users = accounts.clone();
    let count = move |request: &mut RequestContext<'_>| accounts.count(request, clock.now());
    let mut tracker = Tracker::builder()
        .udp(address)
        .http(address)
        .middleware(Passkeys::new(store, clock))
        .middleware(on(Action::Announce, count))
        .get("/users", async move |connection: &mut HttpConnection| users.show(connection).await)
        .listen()?;
    tracing::info!("ready: udp://{} http://{}", tracker.udp_addresses()[0], tracker.http_addresses()[0]);
    while !tracker.wait(Duration::from_secs(1))? {}
    Ok(())
}
