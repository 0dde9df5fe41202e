//! Owns sessions: values that a site keeps for a client from one request to the next, under an id that the client holds
//! in a signed cookie.

mod memory;

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cookie::{Cookie, CookieJar, Key, SameSite};
use http::HeaderValue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cookies::{Cookies, set_cookie_value};
use crate::limits::{
    DEFAULT_WEB_SESSION_LIFETIME_S, WEB_SESSION_ID_BYTES, WEB_SESSION_LIFETIME_RANGE_S,
    WEB_SESSION_MAX_BYTES, WEB_SESSION_SLIDE_DIVISOR,
};
use crate::transport::LocalFuture;
use gyre_core::error::TrackerError;
use gyre_core::time::Timestamp;

pub use memory::MemoryStore;

/// A session's values by name, as JSON.
pub type Values = serde_json::Map<String, serde_json::Value>;

/// The key of a session, random and secret. A client that knows it has the session, so `Debug` shows only its start. An
/// id is never accepted from a client unless a store issued it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    fn random() -> io::Result<Self> {
        let bytes: [u8; WEB_SESSION_ID_BYTES] = crate::random()?;
        let mut text = String::with_capacity(2 * bytes.len());
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes any text"));
        Ok(Self(text.into()))
    }

    /// Reads an id. `None`: the text is not a valid one.
    fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_id = text.len() == 2 * WEB_SESSION_ID_BYTES && text.bytes().all(is_digit);
        is_id.then(|| Self(text.into()))
    }

    /// Returns the whole id: 40 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({}…)", &self.0[..6])
    }
}

/// A session as a store returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSession {
    /// Its values.
    pub values: Values,
    /// Its remaining lifetime.
    pub remaining: Duration,
}

/// The future that a method of [`SessionStore`] returns.
pub type StoreFuture<'a, T> = LocalFuture<'a, Result<T, TrackerError>>;

/// Keeps sessions: [`MemoryStore`], or a store that several processes share. A session that is not written within its
/// lifetime expires. A store may also drop one earlier.
///
/// Timestamps count from the process's start, so a store that outlives the process needs its own clock.
pub trait SessionStore: Send + Sync {
    /// Returns a session. `None`: it does not exist or has expired.
    fn load(&self, id: SessionId, now: Timestamp) -> StoreFuture<'_, Option<StoredSession>>;

    /// Saves a new session, which expires after `lifetime`.
    fn save(&self, id: SessionId, values: Values, now: Timestamp, lifetime: Duration) -> StoreFuture<'_, ()>;

    /// Overwrites a session, which then expires after `lifetime`. Returns whether it existed. If it did not, nothing
    /// may be stored. Otherwise a concurrent request could undo a logout.
    fn replace(
        &self,
        id: SessionId,
        values: Values,
        now: Timestamp,
        lifetime: Duration,
    ) -> StoreFuture<'_, bool>;

    /// Removes a session. A missing one is not an error.
    fn remove(&self, id: SessionId) -> StoreFuture<'_, ()>;
}

/// What must be stored of a session before the response is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Change {
    /// Nothing, unless a part of its lifetime has passed.
    #[default]
    None,
    /// Its values.
    Written,
    /// Its values, under a new id.
    Renewed,
    /// That it has ended.
    Ended,
}

/// The session of one client. It begins with its first value and is stored before the response is sent. If the handlers
/// of two concurrent requests both change it, the values of the later one remain.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::web::session::Session;
///
/// # fn main() -> Result<(), gyre::error::TrackerError> {
/// let mut session = Session::default();
/// session.insert("user", 7)?;
/// session.renew(); // at each login
/// assert_eq!(session.get::<u64>("user"), Some(7));
/// assert_eq!(session.get::<String>("user"), None);
/// session.end(); // logout
/// assert!(session.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Session {
    /// Its id. `None` until it was stored.
    id: Option<SessionId>,
    values: Values,
    /// Remaining lifetime when it was loaded.
    remaining: Duration,
    change: Change,
}

impl Session {
    /// Returns the value of this name. `None`: there is no such value, or it has another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.values.get(name)?).ok()
    }

    /// Sets the value of this name.
    ///
    /// # Errors
    ///
    /// [`Code::Internal`](gyre_core::error::Code::Internal) if the value can't be represented in JSON, or the session
    /// would exceed [`WEB_SESSION_MAX_BYTES`] as JSON. The session is not changed then.
    pub fn insert<T: Serialize>(&mut self, name: impl Into<String>, value: T) -> Result<(), TrackerError> {
        let mut values = self.values.clone();
        values.insert(name.into(), serde_json::to_value(value).map_err(TrackerError::internal)?);
        let text = serde_json::to_vec(&values).map_err(TrackerError::internal)?;
        if text.len() > WEB_SESSION_MAX_BYTES {
            return Err(TrackerError::internal("the session would exceed its maximum size"));
        }
        // A value that is nested too deep to be read back must not reach the store.
        self.values = serde_json::from_slice(&text).map_err(TrackerError::internal)?;
        self.change = match self.change {
            Change::None | Change::Written => Change::Written,
            // A value that is inserted after the end begins a new session.
            Change::Renewed | Change::Ended => Change::Renewed,
        };
        Ok(())
    }

    /// Removes the value of this name.
    pub fn remove(&mut self, name: &str) {
        if self.values.remove(name).is_some() && self.change == Change::None {
            self.change = Change::Written;
        }
    }

    /// Removes all values. The session continues.
    pub fn clear(&mut self) {
        if !self.values.is_empty() && self.change == Change::None {
            self.change = Change::Written;
        }
        self.values.clear();
    }

    /// Returns whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Gives the session a new id and removes the old one. Call it at login and whenever the client gets more rights.
    /// Then an id that an attacker has planted in the client's browser is useless (session fixation).
    pub fn renew(&mut self) {
        if self.change != Change::Ended {
            self.change = Change::Renewed;
        }
    }

    /// Ends the session: removes its values, its entry in the store and its cookie. A value that is inserted afterwards
    /// begins a new session.
    pub fn end(&mut self) {
        self.values.clear();
        self.change = Change::Ended;
    }
}

/// How a site keeps sessions: in which store, for how long, and in which cookie.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use gyre::web::session::{MemoryStore, Sessions};
///
/// # fn main() -> std::io::Result<()> {
/// let sessions = Sessions::new(Arc::new(MemoryStore::new()))?
///     .lifetime(Duration::from_secs(3600))
///     .cookie_name("__Host-session")
///     .secure(true);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sessions {
    store: Arc<dyn SessionStore>,
    key: Key,
    name: Cow<'static, str>,
    lifetime: Duration,
    secure: bool,
    same_site: SameSite,
}

impl Sessions {
    /// Keeps sessions in this store for [`DEFAULT_WEB_SESSION_LIFETIME_S`]. The cookie is named `gyre_session`, has
    /// `SameSite=Lax`, and is signed with a random key, which lasts until the process ends.
    ///
    /// # Errors
    ///
    /// As `getrandom(2)`.
    pub fn new(store: Arc<dyn SessionStore>) -> io::Result<Self> {
        let key: [u8; 64] = crate::random()?;
        Ok(Self {
            store,
            key: Key::from(&key),
            name: Cow::Borrowed("gyre_session"),
            lifetime: Duration::from_secs(DEFAULT_WEB_SESSION_LIFETIME_S),
            secure: false,
            same_site: SameSite::Lax,
        })
    }

    /// Sets the key that signs cookies. It must be random, secret, and the same for all processes that share the store.
    #[must_use]
    pub fn key(mut self, key: &[u8; 64]) -> Self {
        self.key = Key::from(key);
        self
    }

    /// Sets the lifetime of a session since its last use, in whole seconds, clamped to
    /// [`WEB_SESSION_LIFETIME_RANGE_S`]. Default: [`DEFAULT_WEB_SESSION_LIFETIME_S`]. It restarts when the session is
    /// used after a tenth of it.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        let (least, most) = WEB_SESSION_LIFETIME_RANGE_S.into_inner();
        self.lifetime = Duration::from_secs(lifetime.as_secs().clamp(least, most));
        self
    }

    /// Sets the cookie's name, a token (RFC 6265). Default: `gyre_session`. If it starts with `__Host-`, which requires
    /// HTTPS, no other host of the domain can set the cookie.
    #[must_use]
    pub fn cookie_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets whether the cookie is always `Secure`, for a site that is only reached by HTTPS. Default: false, which
    /// makes it `Secure` in responses over HTTPS.
    #[must_use]
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Sets which requests from other sites carry the cookie. Default: `Lax`. `None` requires HTTPS.
    #[must_use]
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Loads the session that the client's cookie names. If the signature is wrong, or the store doesn't have the
    /// session, returns a new empty one: an id from a client never gets into the store.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn load(&self, cookies: &Cookies, now: Timestamp) -> Result<Session, TrackerError> {
        let signed = cookies.get(&self.name).map(|value| Cookie::new("", value.to_owned()));
        let signed = signed.and_then(|cookie| CookieJar::new().signed(&self.key).verify(cookie));
        let Some(id) = signed.and_then(|cookie| SessionId::parse(cookie.value())) else {
            return Ok(Session::default());
        };
        Ok(match self.store.load(id.clone(), now).await? {
            Some(StoredSession { values, remaining }) => {
                Session { id: Some(id), values, remaining, change: Change::None }
            }
            None => Session::default(),
        })
    }

    /// Writes changes to the store. Returns the value of a `Set-Cookie` for a new id, a restarted lifetime or the end
    /// of the session. It is called before the head of the response is written, and again after the handler: changes
    /// after the head that need a cookie are too late for the client.
    ///
    /// A new session without values is not stored and sets no cookie. If the session has ended or expired in the
    /// meantime, it stays so: its values are lost, and it becomes a new empty one.
    ///
    /// # Errors
    ///
    /// Those of the store and of an invalid cookie; [`Code::Internal`](gyre_core::error::Code::Internal) if there are
    /// no random bytes for an id. The call may be repeated.
    pub(crate) async fn store(
        &self,
        session: &mut Session,
        now: Timestamp,
        is_https: bool,
    ) -> Result<Option<HeaderValue>, TrackerError> {
        let passed = self.lifetime.saturating_sub(session.remaining);
        let is_due = passed > self.lifetime / WEB_SESSION_SLIDE_DIVISOR;
        let cookie = match (session.change, &session.id) {
            (Change::None, Some(_)) if !is_due => None,
            (Change::None | Change::Written, Some(id)) => {
                let cookie = self.cookie(Some(id), is_https)?;
                if self.store.replace(id.clone(), session.values.clone(), now, self.lifetime).await? {
                    session.remaining = self.lifetime;
                    Some(cookie)
                } else {
                    *session = Session::default();
                    None
                }
            }
            (Change::Ended, None) => None,
            (Change::Ended, Some(id)) => {
                self.store.remove(id.clone()).await?;
                session.id = None;
                Some(self.cookie(None, is_https)?)
            }
            (_, None) if session.values.is_empty() => None,
            (Change::None | Change::Written | Change::Renewed, old) => {
                let new = SessionId::random().map_err(TrackerError::internal)?;
                let cookie = self.cookie(Some(&new), is_https)?;
                // The old session goes first: if saving fails, the client has no session rather than one whose id
                // others may know.
                if let Some(old) = old {
                    self.store.remove(old.clone()).await?;
                    session.id = None;
                }
                self.store.save(new.clone(), session.values.clone(), now, self.lifetime).await?;
                (session.id, session.remaining) = (Some(new), self.lifetime);
                Some(cookie)
            }
        };
        session.change = Change::None;
        Ok(cookie)
    }

    /// Returns the value of `Set-Cookie` with this id. `None`: the one that removes the cookie.
    fn cookie(&self, id: Option<&SessionId>, is_https: bool) -> Result<HeaderValue, TrackerError> {
        let (value, lifetime) = match id {
            Some(id) => {
                let mut jar = CookieJar::new();
                jar.signed_mut(&self.key).add(("id", id.as_str().to_owned()));
                let signed = jar.get("id").map(|cookie| cookie.value().to_owned());
                (signed.unwrap_or_default(), self.lifetime)
            }
            None => (String::new(), Duration::ZERO),
        };
        let cookie = Cookie::build((self.name.as_ref(), value))
            .http_only(true)
            .same_site(self.same_site)
            .secure(self.secure || is_https)
            .path("/")
            .max_age(cookie::time::Duration::seconds(lifetime.as_secs() as i64));
        set_cookie_value(&cookie.build())
    }
}

#[cfg(test)]
mod tests;
