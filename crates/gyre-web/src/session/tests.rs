//! Owns the tests of sessions: how long they last, and what a client can't do to them.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use http::HeaderMap;
use http::header::COOKIE;

use super::*;
use gyre_core::error::Code;

const START: Timestamp = Timestamp::from_secs(1_000);
const HOUR: Duration = Duration::from_secs(3600);

/// Returns the output of a future of the store in memory, which is ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future is pending"),
    }
}

/// A site with one client, which handles cookies like a browser.
struct Site {
    sessions: Sessions,
    store: Arc<MemoryStore>,
    cookies: Vec<String>,
}

impl Site {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::with_capacity(4));
        let sessions = Sessions::new(Arc::clone(&store) as Arc<dyn SessionStore>).unwrap().lifetime(HOUR);
        Self { sessions, store, cookies: Vec::new() }
    }

    fn load(&self, time: Timestamp) -> Session {
        let fields = self.cookies.iter().map(|cookie| (COOKIE, HeaderValue::from_str(cookie).unwrap()));
        let cookies = Cookies::parse(&HeaderMap::from_iter(fields)).unwrap();
        now(self.sessions.load(&cookies, time)).unwrap()
    }

    /// Stores a session and applies its `Set-Cookie`, if there is one.
    fn store(&mut self, session: &mut Session, time: Timestamp) -> Option<String> {
        let value = now(self.sessions.store(session, time, false)).unwrap()?.to_str().unwrap().to_owned();
        let pair = value.split(';').next().unwrap().to_owned();
        self.cookies = if value.contains("Max-Age=0") { Vec::new() } else { vec![pair] };
        Some(value)
    }

    /// Serves one request with this handler.
    fn request<T>(
        &mut self,
        time: Timestamp,
        handler: impl FnOnce(&mut Session) -> T,
    ) -> (T, Option<String>) {
        let mut session = self.load(time);
        let result = handler(&mut session);
        let cookie = self.store(&mut session, time);
        (result, cookie)
    }

    fn login(&mut self) -> SessionId {
        self.request(START, |session| session.insert("user", 7).unwrap());
        self.load(START).id.unwrap()
    }
}

fn user(session: &mut Session) -> Option<u64> {
    session.get("user")
}

#[test]
fn values_are_kept_between_requests() {
    let mut site = Site::new();
    let (_, cookie) = site.request(START, |session| session.insert("user", 7).unwrap());
    let cookie = cookie.unwrap();
    assert!(cookie.starts_with("gyre_session="), "{cookie}");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=3600"), "{cookie}");
    assert_eq!(site.request(START, user), (Some(7), None), "an unchanged session sets no cookie");
    site.request(START, |session| {
        session.insert("name", "x").unwrap();
        session.remove("user");
        session.remove("nothing");
    });
    let session = site.load(START);
    assert_eq!((session.get::<u64>("user"), session.get::<String>("name").as_deref()), (None, Some("x")));
    let ((), cookie) = site.request(START, Session::clear);
    assert!(cookie.is_some() && site.load(START).is_empty());
    assert_eq!(site.store.len(), 1, "a cleared session stays in the store");
}

#[test]
fn a_session_without_values_is_not_stored() {
    let mut site = Site::new();
    let nothing: [fn(&mut Session); 5] = [
        |_| {},
        Session::clear,
        Session::renew,
        Session::end,
        |session| {
            session.insert("a", 1).unwrap();
            session.remove("a");
        },
    ];
    for handler in nothing {
        assert_eq!(site.request(START, handler), ((), None));
        assert!(site.store.is_empty());
    }
}

#[test]
fn the_cookie_has_the_configured_attributes() {
    let cookie = |sessions: &Sessions, is_https| {
        let mut session = Session::default();
        session.insert("a", 1).unwrap();
        let value = now(sessions.store(&mut session, START, is_https)).map_err(|error| error.code())?;
        Ok(value.unwrap().to_str().unwrap().to_owned())
    };
    let sessions = Site::new().sessions;
    assert!(cookie(&sessions, true).unwrap().contains("; Secure;"));
    assert!(!cookie(&sessions, false).unwrap().contains("Secure"));
    let secure = sessions.clone().secure(true).same_site(SameSite::Strict).lifetime(Duration::MAX);
    let text = cookie(&secure, false).unwrap();
    assert!(text.contains("; SameSite=Strict; Secure;") && text.ends_with("; Max-Age=34560000"), "{text}");
    let host = sessions.cookie_name("__Host-s");
    assert!(cookie(&host, true).unwrap().starts_with("__Host-s="));
    assert_eq!(cookie(&host, false), Err(Code::IncorrectResponse));
}

#[test]
fn a_wrong_signature_gives_an_empty_session() {
    let mut site = Site::new();
    let id = site.login();
    let (name, value) = site.cookies[0].split_once('=').unwrap();
    let (name, value) = (name.to_owned(), value.to_owned());
    let tampered = (0..value.len()).map(|at| {
        let mut bytes = value.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    });
    let forged = ["", "\u{fc}", id.as_str(), &format!("{}{id}", "A".repeat(44))].map(str::to_owned);
    for value in tampered.chain(forged) {
        let cookies = HeaderMap::from_iter([(
            COOKIE,
            HeaderValue::from_bytes(format!("{name}={value}").as_bytes()).unwrap(),
        )]);
        // An invalid escape already fails in the reading of cookies.
        let Ok(cookies) = Cookies::parse(&cookies) else { continue };
        let session = now(site.sessions.load(&cookies, START)).unwrap();
        assert!(session.id.is_none() && session.is_empty(), "{value}");
    }
    // A cookie is only valid with the key that signed it.
    site.sessions = site.sessions.clone().key(&[7; 64]);
    assert!(site.load(START).id.is_none());
    site.login();
    site.sessions = site.sessions.clone().key(&[7; 64]);
    assert!(site.load(START).id.is_some());
}

#[test]
fn no_id_is_accepted_from_a_client() {
    let mut site = Site::new();
    // An id that the client has chosen, signed with the right key because of another bug.
    let chosen = SessionId::parse(&"ab".repeat(WEB_SESSION_ID_BYTES)).unwrap();
    let cookie = site.sessions.cookie(Some(&chosen), false).unwrap();
    site.cookies = vec![cookie.to_str().unwrap().split(';').next().unwrap().to_owned()];
    let given = site.login();
    assert_ne!(given, chosen);
    assert!(now(site.store.load(chosen.clone(), START)).unwrap().is_none());
    // The id of a session that has ended.
    let old = site.cookies.clone();
    site.request(START, Session::end);
    site.cookies = old;
    assert_eq!(site.load(START).id, None);
    assert_ne!(site.login(), given);
}

#[test]
fn a_renewed_session_invalidates_the_old_id() {
    let mut site = Site::new();
    let planted = site.login();
    let known = site.cookies.clone();
    let (_, cookie) = site.request(START, |session| {
        session.insert("role", "admin").unwrap();
        session.renew();
    });
    assert!(cookie.is_some());
    let session = site.load(START);
    assert_ne!(session.id, Some(planted));
    assert_eq!((session.get("user"), session.get::<String>("role").as_deref()), (Some(7), Some("admin")));
    assert_eq!(site.store.len(), 1);
    site.cookies = known;
    assert!(site.load(START).is_empty());
}

#[test]
fn an_ended_session_stays_ended() {
    let mut site = Site::new();
    let id = site.login();
    let mut concurrent = site.load(START);
    let (_, cookie) = site.request(START, |session| {
        session.end();
        session.renew();
    });
    assert_eq!(cookie.unwrap(), "gyre_session=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
    assert!(site.store.is_empty() && site.cookies.is_empty());
    // A request that had begun before does not bring it back.
    concurrent.insert("late", 1).unwrap();
    assert_eq!(site.store(&mut concurrent, START), None);
    assert!(site.store.is_empty() && concurrent.is_empty());
    // A value that is inserted after the end belongs to a new session.
    let before = site.login();
    site.request(START, |session| {
        session.end();
        session.insert("message", "goodbye").unwrap();
    });
    let session = site.load(START);
    assert_eq!(
        (session.get::<u64>("user"), session.get::<String>("message").as_deref()),
        (None, Some("goodbye"))
    );
    assert!(session.id.is_some() && session.id != Some(id) && session.id != Some(before));
    assert_eq!(site.store.len(), 1);
}

#[test]
fn using_a_session_extends_it() {
    let mut site = Site::new();
    site.login();
    let at = |minutes: u64| START + Duration::from_secs(60 * minutes);
    assert_eq!(site.request(at(6), user), (Some(7), None), "a tenth of the lifetime does not restart it");
    let (_, cookie) = site.request(at(7), user);
    assert!(cookie.unwrap().ends_with("Max-Age=3600"), "the client gets the new lifetime");
    assert_eq!(site.request(at(8), user), (Some(7), None));
    assert_eq!(site.request(at(66), user).0, Some(7), "one hour after the seventh minute");
    assert_eq!(site.request(at(125), user).0, Some(7));
    assert_eq!(site.request(at(185), user), (None, None));
}

#[test]
fn the_size_of_a_session_is_limited() {
    let mut session = Session::default();
    let length = WEB_SESSION_MAX_BYTES - r#"{"a":""}"#.len();
    session.insert("a", "x".repeat(length)).unwrap();
    for (name, value) in [("a", "x".repeat(length + 1)), ("b", String::new())] {
        assert_eq!(session.insert(name, value).unwrap_err().code(), Code::Internal);
    }
    assert_eq!(session.get::<String>("a").unwrap().len(), length, "the session is unchanged");
    assert_eq!(session.values.len(), 1);
    // Values that can't be read back or are not JSON can't be kept.
    let nested = (0..500).fold(serde_json::Value::Null, |inner, _| vec![inner].into());
    let mut session = Session::default();
    assert!(session.insert("deep", nested).is_err());
    assert!(session.insert("map", std::collections::BTreeMap::from([([1], 2)])).is_err());
    assert!(session.is_empty() && session.change == Change::None);
}

#[test]
fn ids_are_random_and_debug_shows_only_their_start() {
    let ids: std::collections::HashSet<_> = (0..1_000).map(|_| SessionId::random().unwrap()).collect();
    assert_eq!(ids.len(), 1_000);
    for id in ids {
        assert_eq!(SessionId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(id.to_string(), id.as_str());
        assert_eq!(format!("{id:?}"), format!("SessionId({}…)", &id.as_str()[..6]));
    }
}

fn save(store: &MemoryStore, at: Timestamp, lifetime: Duration) -> SessionId {
    let id = SessionId::random().unwrap();
    now(store.save(id.clone(), Values::new(), at, lifetime)).unwrap();
    id
}

#[test]
fn a_full_store_drops_expired_sessions_then_the_least_recently_used() {
    let store = MemoryStore::with_capacity(4);
    let at = |seconds| START + Duration::from_secs(seconds);
    let kept = |ids: &[&SessionId]| ids.iter().map(|id| store.has(id)).collect::<Vec<_>>();
    let a = save(&store, at(0), HOUR);
    let b = save(&store, at(0), HOUR);
    let brief = save(&store, at(0), Duration::from_secs(5));
    let d = save(&store, at(0), HOUR);
    // `a` is the least recently used one, but `brief` has expired.
    let e = save(&store, at(5), HOUR);
    assert_eq!(kept(&[&a, &b, &brief, &d, &e]), [true, true, false, true, true]);
    // `a` is used, so `b` is the next to be dropped.
    assert!(now(store.load(a.clone(), at(6))).unwrap().is_some());
    let f = save(&store, at(7), HOUR);
    assert_eq!(kept(&[&a, &b, &d, &e, &f]), [true, false, true, true, true]);
    // Writing is a use, too. Removing a session makes room.
    assert!(now(store.replace(d.clone(), Values::new(), at(8), HOUR)).unwrap());
    now(store.remove(f.clone())).unwrap();
    let g = save(&store, at(9), HOUR);
    let h = save(&store, at(9), HOUR);
    assert_eq!(kept(&[&a, &d, &e, &f, &g, &h]), [true, true, false, false, true, true]);
    assert_eq!(store.len(), 4);
}

#[test]
fn expired_sessions_are_not_found() {
    let store = MemoryStore::with_capacity(10);
    let ids: Vec<_> = (0..6).map(|_| save(&store, START, HOUR)).collect();
    let remaining = now(store.load(ids[0].clone(), START + HOUR / 4)).unwrap().unwrap().remaining;
    assert_eq!(remaining, HOUR * 3 / 4);
    assert!(now(store.load(ids[0].clone(), START + HOUR)).unwrap().is_none());
    assert!(!now(store.replace(ids[1].clone(), Values::new(), START + HOUR, HOUR)).unwrap());
    assert_eq!(store.len(), 4);
    // Each new session sweeps two expired ones.
    save(&store, START + HOUR, HOUR);
    assert_eq!(store.len(), 3);
    save(&store, START + HOUR, HOUR);
    assert_eq!(store.len(), 2);
}

#[test]
fn a_store_keeps_its_capacity() {
    for capacity in [0, 1, 3, 1_000, 20_000] {
        let store = MemoryStore::with_capacity(capacity);
        for _ in 0..2 * capacity + 1 {
            save(&store, START, HOUR);
        }
        let (least, most) = (capacity * 9 / 10, capacity.max(1));
        assert!((least..=most).contains(&store.len()), "{} of {capacity}", store.len());
        assert!(store.is_consistent());
    }
}

#[test]
fn threads_can_share_a_store() {
    let store = Arc::new(MemoryStore::with_capacity(2_000));
    let sessions = Sessions::new(Arc::clone(&store) as Arc<dyn SessionStore>).unwrap();
    let shared: Vec<_> = (0..8).map(|_| save(&store, START, HOUR)).collect();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (sessions, store, shared) = (sessions.clone(), Arc::clone(&store), &shared);
            scope.spawn(move || {
                for turn in 0..400_u64 {
                    let mut session = Session::default();
                    session.insert("own", (thread, turn)).unwrap();
                    now(sessions.store(&mut session, START, false)).unwrap();
                    let id = session.id.clone().unwrap();
                    let own = now(store.load(id.clone(), START)).unwrap().unwrap();
                    assert_eq!(own.values["own"], serde_json::json!([thread, turn]));
                    session.end();
                    now(sessions.store(&mut session, START, false)).unwrap();
                    assert!(now(store.load(id.clone(), START)).unwrap().is_none());
                    // All threads write to this session until one of them removes it. Then it stays removed.
                    let common = &shared[(turn / 50) as usize];
                    let values = Values::from_iter([("by".to_owned(), thread.into())]);
                    now(store.replace(common.clone(), values, START, HOUR)).unwrap();
                    if turn % 50 == 49 {
                        now(store.remove(common.clone())).unwrap();
                        assert!(now(store.load(common.clone(), START)).unwrap().is_none());
                    }
                }
            });
        }
    });
    assert!(store.is_empty() && store.is_consistent());
}
