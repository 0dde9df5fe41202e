//! Owns sessions: what a site knows of a client from one request to the next, kept here under an id that the client
//! holds in a signed cookie.

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

/// A session's values by their names, as JSON knows them.
pub type Values = serde_json::Map<String, serde_json::Value>;

/// What a session is found by: random, and known to its client alone. Whoever knows it is the client, so `Debug` shows
/// only its start. None is ever taken over from a client that doesn't have it from here.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    fn random() -> io::Result<Self> {
        let bytes: [u8; WEB_SESSION_ID_BYTES] = crate::random()?;
        let mut text = String::with_capacity(2 * bytes.len());
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes any text"));
        Ok(Self(text.into()))
    }

    /// The id of this text, if it could be one.
    fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_id = text.len() == 2 * WEB_SESSION_ID_BYTES && text.bytes().all(is_digit);
        is_id.then(|| Self(text.into()))
    }

    /// All of it: 40 hexadecimal digits.
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

/// What a store has of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What was saved.
    pub values: Values,
    /// How much of its lifetime is left.
    pub left: Duration,
}

/// What a store will answer.
pub type Answer<'a, T> = LocalFuture<'a, Result<T, TrackerError>>;

/// Where sessions live: [`MemoryStore`], or something that several processes share. A session that is not written
/// within its lifetime is gone; a store may let one go before, too.
///
/// Times are counted since the process's start, so a store that outlives it has to go by a clock of its own.
pub trait SessionStore: Send + Sync {
    /// A session that is there.
    fn load(&self, id: SessionId, now: Timestamp) -> Answer<'_, Option<Stored>>;

    /// Keeps a new session for a lifetime from now on.
    fn save(&self, id: SessionId, values: Values, now: Timestamp, lifetime: Duration) -> Answer<'_, ()>;

    /// Writes a session anew if it is there, for a lifetime from now on. Says whether it is: if not, nothing may be
    /// kept, so that who has logged out is not in again by a request that was under way.
    fn replace(&self, id: SessionId, values: Values, now: Timestamp, lifetime: Duration) -> Answer<'_, bool>;

    /// Forgets a session. One that is not there is no error.
    fn remove(&self, id: SessionId) -> Answer<'_, ()>;
}

/// What has to be done with a session before its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Change {
    /// Nothing, unless much of its lifetime has passed.
    #[default]
    None,
    /// Values are to be written.
    Written,
    /// It goes on under a new id.
    Renewed,
    /// It is over.
    Ended,
}

/// What is known of one client. It lasts from the first value that is kept, and is written back before the response.
/// Of two requests at a time whose handlers both change it the later one's values stay.
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
    /// What the store and the client know it by; none before it was stored.
    id: Option<SessionId>,
    values: Values,
    /// What was left of its lifetime when it was loaded.
    left: Duration,
    change: Change,
}

impl Session {
    /// The value of this name; `None` also if it is of another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.values.get(name)?).ok()
    }

    /// Keeps a value in place of the one of this name.
    ///
    /// # Errors
    ///
    /// [`Code::Internal`](gyre_core::error::Code::Internal), and the session stays as it was, if JSON has no such value, or
    /// the session would exceed [`WEB_SESSION_MAX_BYTES`] as JSON.
    pub fn insert<T: Serialize>(&mut self, name: impl Into<String>, value: T) -> Result<(), TrackerError> {
        let mut values = self.values.clone();
        values.insert(name.into(), serde_json::to_value(value).map_err(TrackerError::internal)?);
        let text = serde_json::to_vec(&values).map_err(TrackerError::internal)?;
        if text.len() > WEB_SESSION_MAX_BYTES {
            return Err(TrackerError::internal("a session has no room for this value"));
        }
        // What a store will not be able to read, as it is nested too deep, must not get there.
        self.values = serde_json::from_slice(&text).map_err(TrackerError::internal)?;
        self.change = match self.change {
            Change::None | Change::Written => Change::Written,
            // What comes after the end is another session.
            Change::Renewed | Change::Ended => Change::Renewed,
        };
        Ok(())
    }

    /// Drops the value of this name.
    pub fn remove(&mut self, name: &str) {
        if self.values.remove(name).is_some() && self.change == Change::None {
            self.change = Change::Written;
        }
    }

    /// Drops all values. The session goes on.
    pub fn clear(&mut self) {
        if !self.values.is_empty() && self.change == Change::None {
            self.change = Change::Written;
        }
        self.values.clear();
    }

    /// Whether it holds no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Gives it a new id; the old one is forgotten. To be called at login, and whenever the client may do more than
    /// before: an id that somebody has foisted on it is then worth nothing.
    pub fn renew(&mut self) {
        if self.change != Change::Ended {
            self.change = Change::Renewed;
        }
    }

    /// Ends it: its values are gone, here and in the store, and so is its cookie. What is inserted afterwards begins
    /// another.
    pub fn end(&mut self) {
        self.values.clear();
        self.change = Change::Ended;
    }
}

/// How a site keeps sessions: where, for how long, and in which cookie.
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
    /// Sessions in this store for [`DEFAULT_WEB_SESSION_LIFETIME_S`], in the cookie `gyre_session`, `SameSite=Lax` and
    /// signed with a random key: one that is valid until the process ends.
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

    /// Signs with this key. It must be random, secret, and the same for all processes that share the store.
    #[must_use]
    pub fn key(mut self, key: &[u8; 64]) -> Self {
        self.key = Key::from(key);
        self
    }

    /// How long a session lasts that is not used: whole seconds, brought within [`WEB_SESSION_LIFETIME_RANGE_S`]. It
    /// begins anew when the session is used after a tenth of it.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        let (least, most) = WEB_SESSION_LIFETIME_RANGE_S.into_inner();
        self.lifetime = Duration::from_secs(lifetime.as_secs().clamp(least, most));
        self
    }

    /// The cookie's name: a token (RFC 6265). With one that starts with `__Host-`, which needs HTTPS, no other host of
    /// the domain can set the cookie.
    #[must_use]
    pub fn cookie_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether the cookie is `Secure` in any case: for a site that is reached by HTTPS alone. Else it is so in answers
    /// by HTTPS.
    #[must_use]
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Which requests from other sites the cookie comes with. `None` works by HTTPS alone.
    #[must_use]
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// The session that the client's cookie names. If its signature is wrong, or the store doesn't know it (any more),
    /// the client gets another, fresh and empty: an id that is not in the store is never brought there.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(crate) async fn load(&self, cookies: &Cookies, now: Timestamp) -> Result<Session, TrackerError> {
        let signed = cookies.get(&self.name).map(|value| Cookie::new("", value.to_owned()));
        let signed = signed.and_then(|cookie| CookieJar::new().signed(&self.key).verify(cookie));
        let Some(id) = signed.and_then(|cookie| SessionId::parse(cookie.value())) else {
            return Ok(Session::default());
        };
        Ok(match self.store.load(id.clone(), now).await? {
            Some(Stored { values, left }) => Session { id: Some(id), values, left, change: Change::None },
            None => Session::default(),
        })
    }

    /// Writes to the store what has changed; returns the value of a `Set-Cookie` if the client has to be told: of a new
    /// id, of a lifetime that begins anew, of the end. To be called before the head of the response is written, and
    /// again after the handler: the changes after the head that need a cookie come too late for the client.
    ///
    /// A session that holds nothing and never did is not stored, and sets no cookie. One that has ended or expired
    /// meanwhile stays so: its values are lost, and it is fresh.
    ///
    /// # Errors
    ///
    /// The store's, that of a cookie that can't be set, and none of either if the id can't be drawn:
    /// [`Code::Internal`](gyre_core::error::Code::Internal). The same call may be tried again.
    pub(crate) async fn store(
        &self,
        session: &mut Session,
        now: Timestamp,
        is_https: bool,
    ) -> Result<Option<HeaderValue>, TrackerError> {
        let passed = self.lifetime.saturating_sub(session.left);
        let is_worn = passed > self.lifetime / WEB_SESSION_SLIDE_DIVISOR;
        let cookie = match (session.change, &session.id) {
            (Change::None, Some(_)) if !is_worn => None,
            (Change::None | Change::Written, Some(id)) => {
                let cookie = self.cookie(Some(id), is_https)?;
                if self.store.replace(id.clone(), session.values.clone(), now, self.lifetime).await? {
                    session.left = self.lifetime;
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
                // If something fails in between, the client has no session rather than one that others know.
                if let Some(old) = old {
                    self.store.remove(old.clone()).await?;
                    session.id = None;
                }
                self.store.save(new.clone(), session.values.clone(), now, self.lifetime).await?;
                (session.id, session.left) = (Some(new), self.lifetime);
                Some(cookie)
            }
        };
        session.change = Change::None;
        Ok(cookie)
    }

    /// The cookie that names a session, or with none the one that makes the client forget it.
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
