//! A private tracker: who announces shows a passkey, and what each member transfers is counted.
//!
//! ```sh
//! echo 'b7e2a90f51c4 Alice' > members
//! cargo run --release --example private -- members
//! ```
//!
//! Alice's torrents have `http://127.0.0.1:6969/b7e2a90f51c4/announce` in them, or the same with `udp`. What members
//! have transferred is at `http://127.0.0.1:6969/users`, for those who ask from the machine itself.
//!
//! The file stands for a database: asking it takes its time, and the worker has other requests to do meanwhile. Who is
//! added to it is let in at once; who is taken out, within a minute. A signal ends the program at once, and what it has
//! counted is in its memory alone.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clap::Parser;
use gyre::Tracker;
use gyre::engine::context::{Action, RequestContext};
use gyre::engine::middleware::{Flow, Middleware, Next, Then, on};
use gyre::error::{Code, TrackerError};
use gyre::time::{Clock, Timestamp};
use gyre::types::{Event, InfoHash, PeerId};
use gyre::web::HttpConnection;
use gyre::wire::query::AnnounceQuery;
use serde::Serialize;
use serde_json::json;
use tokio::task::spawn_blocking;

/// How long a worker takes a member for one without asking again.
const MEMBER_LIFETIME: Duration = Duration::from_secs(60);
/// Torrents, each in one client, that a member's account keeps track of at a time.
const ACCOUNT_TORRENTS: usize = 2_000;

/// A tracker for members alone.
#[derive(Parser)]
struct Options {
    /// File of members: in each line a passkey, a blank and a name
    members: PathBuf,
    /// Where to serve UDP and HTTP
    #[arg(value_name = "ADDR:PORT", default_value = "127.0.0.1:6969")]
    address: SocketAddr,
}

/// Whose passkey a request has shown. It travels with the request, from one middleware to the next.
#[derive(Clone)]
struct Member(String);

/// The file of members.
#[derive(Clone)]
struct Store(PathBuf);

impl Store {
    /// Who has this passkey. With a database, this is what its async client does.
    async fn find(&self, passkey: &str) -> Result<Option<Member>, TrackerError> {
        let (store, passkey) = (self.clone(), passkey.to_owned());
        let found = spawn_blocking(move || store.search(&passkey)).await.map_err(TrackerError::internal)?;
        found.map_err(TrackerError::internal)
    }

    fn search(&self, passkey: &str) -> io::Result<Option<Member>> {
        for line in BufReader::new(File::open(&self.0)?).lines() {
            if let Some((found, name)) = line?.split_once(' ')
                && found == passkey
            {
                return Ok(Some(Member(name.to_owned())));
            }
        }
        Ok(None)
    }
}

/// Lets members pass, and nobody else. Each worker has a clone, with a cache of its own that needs no lock.
#[derive(Clone)]
struct Passkeys {
    store: Store,
    clock: Clock,
    /// Members by passkey, and until when they are taken for such. Strangers find no room in it.
    known: RefCell<HashMap<String, (Member, Timestamp)>>,
}

fn unknown() -> TrackerError {
    TrackerError::new(Code::AccessDenied, "unknown passkey")
}

impl Middleware for Passkeys {
    /// Says at once what the cache knows.
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        if request.is_connect() {
            return Ok(Then::Next); // it carries no passkey, and gives nothing away
        }
        let passkey = request.passkey().ok_or_else(unknown)?; // a scrape by UDP can't carry one either: refused
        let member = match self.known.borrow().get(&*passkey) {
            Some((member, until)) if self.clock.now() < *until => member.clone(),
            _ => return Ok(Then::Wait),
        };
        request.data_mut().insert(member);
        Ok(Then::Next)
    }

    /// Asks the store about the others.
    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        let passkey = request.passkey().map(Cow::into_owned).ok_or_else(unknown)?;
        let Some(member) = self.store.find(&passkey).await? else {
            self.known.borrow_mut().remove(&passkey);
            return Err(unknown());
        };
        self.known.borrow_mut().insert(passkey, (member.clone(), self.clock.now() + MEMBER_LIFETIME));
        request.data_mut().insert(member);
        next.run(request).await
    }
}

/// What a member has transferred since the tracker was started.
#[derive(Default, Serialize)]
struct Account {
    uploaded: u64,
    downloaded: u64,
    /// What each client has told last of each torrent, uploaded and downloaded.
    #[serde(skip)]
    told: HashMap<(InfoHash, PeerId), (u64, u64)>,
}

impl Account {
    /// Clients tell what they have transferred since they began with a torrent. What counts is how much more it is than
    /// the last time.
    fn count(&mut self, announce: &AnnounceQuery) {
        let now = (announce.uploaded, announce.downloaded);
        let client = (announce.info_hash, announce.peer_id);
        let before = self.told.remove(&client).unwrap_or(now);
        self.uploaded = self.uploaded.saturating_add(now.0.saturating_sub(before.0));
        self.downloaded = self.downloaded.saturating_add(now.1.saturating_sub(before.1));
        if announce.event == Event::Stopped {
            return;
        }
        if self.told.len() >= ACCOUNT_TORRENTS {
            self.told.clear(); // nobody is in so many: most are of clients that never said they stopped
        }
        self.told.insert(client, now);
    }
}

/// The members' accounts by name, which all workers share.
#[derive(Clone, Default)]
struct Accounts(Arc<Mutex<BTreeMap<String, Account>>>);

impl Accounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Account>> {
        self.0.lock().expect("who has the lock doesn't panic")
    }

    /// Counts an announce to the member whose passkey it has shown.
    fn count(&self, request: &mut RequestContext<'_>) -> Flow {
        let member = request.data_mut().remove::<Member>();
        if let (Some(Member(name)), Some(announce)) = (member, request.as_announce()) {
            self.lock().entry(name).or_default().count(&announce.query);
        }
        Ok(Then::Next)
    }

    /// The page `/users`.
    async fn show(&self, connection: &mut HttpConnection) -> Result<(), TrackerError> {
        // Behind a proxy everybody seems to be on this machine, unless `Config::trusted_proxies` names it.
        if !connection.ip().is_loopback() {
            return Err(TrackerError::new(Code::AccessDenied, "only for the machine itself"));
        }
        let users = json!(*self.lock());
        connection.send(users).await
    }
}

fn serve(Options { members, address }: Options) -> Result<(), Box<dyn Error>> {
    File::open(&members).map_err(|error| format!("{}: {error}", members.display()))?;
    let passkeys = Passkeys { store: Store(members), clock: Clock::start(), known: RefCell::default() };
    let accounts = Accounts::default();
    let users = accounts.clone();
    let mut tracker = Tracker::builder()
        .udp(address)
        .http(address)
        .middleware(passkeys)
        .middleware(on(Action::Announce, move |request: &mut RequestContext<'_>| accounts.count(request)))
        .get("/users", async move |connection: &mut HttpConnection| users.show(connection).await)
        .listen()?;
    tracing::info!("ready: udp://{} http://{}", tracker.udp_addresses()[0], tracker.http_addresses()[0]);
    tracker.wait(Duration::MAX)?;
    Ok(())
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_target(false).with_writer(io::stderr).init();
    match serve(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
