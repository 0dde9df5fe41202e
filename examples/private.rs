//! A private tracker: announces need a passkey, and the transfers of each member are counted.
//!
//! ```sh
//! echo 'b7e2a90f51c4 Alice' > members
//! cargo run --release --example private -- members
//! ```
//!
//! Alice's torrents contain `http://127.0.0.1:6969/b7e2a90f51c4/announce`, or the same URL with `udp`.
//! `http://127.0.0.1:6969/users` shows the transfers of all members, to requests from this machine.
//!
//! The file stands in for a database: a lookup takes time, and the worker serves other requests in the meantime. A new
//! member is admitted at once. A removed one is refused after at most a minute. A signal ends the program at once. Its
//! counts are only in memory.

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

/// Time for which a worker caches a member.
const MEMBER_LIFETIME: Duration = Duration::from_secs(60);
/// Maximum number of torrents and clients whose last figures an account keeps.
const ACCOUNT_TORRENTS: usize = 2_000;

/// A tracker for members only
#[derive(Parser)]
struct Options {
    /// File of members, each line a passkey, a blank and a name
    members: PathBuf,
    /// Where to serve UDP and HTTP
    #[arg(value_name = "ADDR:PORT", default_value = "127.0.0.1:6969")]
    address: SocketAddr,
}

/// The member whose passkey a request has. The request carries it from one middleware to the next.
#[derive(Clone)]
struct Member(String);

/// The file of members.
#[derive(Clone)]
struct Store(PathBuf);

impl Store {
    /// Finds the member with this passkey. With a database, its async client would do this.
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

/// Lets only members pass. Each worker has a clone with its own cache, which needs no lock.
#[derive(Clone)]
struct Passkeys {
    store: Store,
    clock: Clock,
    /// Members by passkey, with the time until which they are cached. Unknown passkeys are not cached.
    cache: RefCell<HashMap<String, (Member, Timestamp)>>,
}

fn unknown() -> TrackerError {
    TrackerError::new(Code::AccessDenied, "unknown passkey")
}

impl Middleware for Passkeys {
    /// Lets cached members pass at once.
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        if request.is_connect() {
            return Ok(Then::Next); // it has no passkey and reveals nothing
        }
        let passkey = request.passkey().ok_or_else(unknown)?; // a UDP scrape can't have one and is refused
        let member = match self.cache.borrow().get(&*passkey) {
            Some((member, until)) if self.clock.now() < *until => member.clone(),
            _ => return Ok(Then::Wait),
        };
        request.data_mut().insert(member);
        Ok(Then::Next)
    }

    /// Looks up other passkeys in the store.
    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        let passkey = request.passkey().map(Cow::into_owned).ok_or_else(unknown)?;
        let Some(member) = self.store.find(&passkey).await? else {
            self.cache.borrow_mut().remove(&passkey);
            return Err(unknown());
        };
        self.cache.borrow_mut().insert(passkey, (member.clone(), self.clock.now() + MEMBER_LIFETIME));
        request.data_mut().insert(member);
        next.run(request).await
    }
}

/// Transfers of a member since the start of the tracker.
#[derive(Default, Serialize)]
struct Account {
    uploaded: u64,
    downloaded: u64,
    /// Last announced figures of each torrent and client, uploaded and downloaded.
    #[serde(skip)]
    announced: HashMap<(InfoHash, PeerId), (u64, u64)>,
}

impl Account {
    /// Counts an announce. A client announces its transfers since it started the torrent, so the increase since its
    /// last announce is added.
    fn count(&mut self, announce: &AnnounceQuery) {
        let now = (announce.uploaded, announce.downloaded);
        let client = (announce.info_hash, announce.peer_id);
        let before = self.announced.remove(&client).unwrap_or(now);
        self.uploaded = self.uploaded.saturating_add(now.0.saturating_sub(before.0));
        self.downloaded = self.downloaded.saturating_add(now.1.saturating_sub(before.1));
        if announce.event == Event::Stopped {
            return;
        }
        if self.announced.len() >= ACCOUNT_TORRENTS {
            self.announced.clear(); // most are of clients that never announced a stop
        }
        self.announced.insert(client, now);
    }
}

/// The members' accounts by name, shared by all workers.
#[derive(Clone, Default)]
struct Accounts(Arc<Mutex<BTreeMap<String, Account>>>);

impl Accounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Account>> {
        self.0.lock().expect("no panic under the lock")
    }

    /// Counts an announce for the member whose passkey it has.
    fn count(&self, request: &mut RequestContext<'_>) -> Flow {
        let member = request.data_mut().remove::<Member>();
        if let (Some(Member(name)), Some(announce)) = (member, request.as_announce()) {
            self.lock().entry(name).or_default().count(&announce.query);
        }
        Ok(Then::Next)
    }

    /// `GET /users`
    async fn show(&self, connection: &mut HttpConnection) -> Result<(), TrackerError> {
        // Behind a local proxy all clients seem to be on this machine, unless `Config::trusted_proxies` names the
        // proxy.
        if !connection.ip().is_loopback() {
            return Err(TrackerError::new(Code::AccessDenied, "only from this machine"));
        }
        let users = json!(*self.lock());
        connection.send(users).await
    }
}

fn serve(Options { members, address }: Options) -> Result<(), Box<dyn Error>> {
    File::open(&members).map_err(|error| format!("{}: {error}", members.display()))?;
    let passkeys = Passkeys { store: Store(members), clock: Clock::start(), cache: RefCell::default() };
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
