//! Owns the `Cache-Control` field of a response: which caches may store it, and for how long (RFC 9111, section 5.2.2).

use std::fmt;
use std::mem::discriminant;
use std::time::Duration;

use http::HeaderValue;

use crate::limits::WEB_CACHE_MAX_S;

/// A directive of `Cache-Control`. Times are truncated to whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Directive {
    /// Any cache may store the response, even if the request had credentials.
    Public,
    /// Only the browser's cache may store it, no shared cache.
    Private,
    /// No cache may store it.
    NoStore,
    /// It may be stored, but must be validated with the server before each reuse.
    NoCache,
    /// Once stale, it must be validated before reuse.
    MustRevalidate,
    /// It will not change while it is fresh (RFC 8246).
    Immutable,
    /// It is fresh for this time.
    MaxAge(Duration),
    /// It is fresh for this time in shared caches.
    SMaxAge(Duration),
    /// Once stale, it may be used for this time while a new one is fetched (RFC 5861).
    StaleWhileRevalidate(Duration),
}

impl Directive {
    fn parse(text: &str) -> Option<Self> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let time = || {
            let digits = argument.trim().trim_matches('"');
            let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            // A number of more than 64 bits exceeds the maximum, too.
            all_digits
                .then(|| Duration::from_secs(digits.parse().unwrap_or(WEB_CACHE_MAX_S).min(WEB_CACHE_MAX_S)))
        };
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "public" => Self::Public,
            "private" => Self::Private,
            "no-store" => Self::NoStore,
            "no-cache" => Self::NoCache,
            "must-revalidate" => Self::MustRevalidate,
            "immutable" => Self::Immutable,
            "max-age" => Self::MaxAge(time()?),
            "s-maxage" => Self::SMaxAge(time()?),
            "stale-while-revalidate" => Self::StaleWhileRevalidate(time()?),
            _ => return None,
        })
    }
}

impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, time) = match *self {
            Self::Public => ("public", None),
            Self::Private => ("private", None),
            Self::NoStore => ("no-store", None),
            Self::NoCache => ("no-cache", None),
            Self::MustRevalidate => ("must-revalidate", None),
            Self::Immutable => ("immutable", None),
            Self::MaxAge(time) => ("max-age", Some(time)),
            Self::SMaxAge(time) => ("s-maxage", Some(time)),
            Self::StaleWhileRevalidate(time) => ("stale-while-revalidate", Some(time)),
        };
        f.write_str(name)?;
        time.map_or(Ok(()), |time| write!(f, "={}", time.as_secs().min(WEB_CACHE_MAX_S)))
    }
}

/// The directives for a response. Contradictory ones are not refused: caches follow the stricter one.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::web::cache::{CacheControl, Directive};
/// use std::time::Duration;
///
/// let cache = CacheControl::new().public().max_age(Duration::from_secs(3_600)).immutable();
/// assert_eq!(cache.to_string(), "public, max-age=3600, immutable");
/// assert!(cache.directives().contains(&Directive::Public));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheControl(Vec<Directive>);

impl CacheControl {
    /// Creates an empty list of directives.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directive, in place of one of the same name.
    pub fn with(mut self, directive: Directive) -> Self {
        match self.0.iter_mut().find(|known| discriminant(*known) == discriminant(&directive)) {
            Some(known) => *known = directive,
            None => self.0.push(directive),
        }
        self
    }

    /// Adds [`Directive::Public`].
    pub fn public(self) -> Self {
        self.with(Directive::Public)
    }

    /// Adds [`Directive::Private`].
    pub fn private(self) -> Self {
        self.with(Directive::Private)
    }

    /// Adds [`Directive::NoStore`].
    pub fn no_store(self) -> Self {
        self.with(Directive::NoStore)
    }

    /// Adds [`Directive::NoCache`].
    pub fn no_cache(self) -> Self {
        self.with(Directive::NoCache)
    }

    /// Adds [`Directive::MustRevalidate`].
    pub fn must_revalidate(self) -> Self {
        self.with(Directive::MustRevalidate)
    }

    /// Adds [`Directive::Immutable`].
    pub fn immutable(self) -> Self {
        self.with(Directive::Immutable)
    }

    /// Adds [`Directive::MaxAge`].
    pub fn max_age(self, time: Duration) -> Self {
        self.with(Directive::MaxAge(time))
    }

    /// Adds [`Directive::SMaxAge`].
    pub fn s_maxage(self, time: Duration) -> Self {
        self.with(Directive::SMaxAge(time))
    }

    /// Adds [`Directive::StaleWhileRevalidate`].
    pub fn stale_while_revalidate(self, time: Duration) -> Self {
        self.with(Directive::StaleWhileRevalidate(time))
    }

    /// Returns the directives, in order.
    pub fn directives(&self) -> &[Directive] {
        &self.0
    }

    /// Parses a header value. Unknown directives are ignored. `None`: there is no known directive.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let directives = value.to_str().ok()?.split(',').filter_map(Directive::parse);
        Some(directives.fold(Self::new(), Self::with)).filter(|cache| !cache.0.is_empty())
    }
}

impl fmt::Display for CacheControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, directive) in self.0.iter().enumerate() {
            f.write_str(if number > 0 { ", " } else { "" })?;
            directive.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<CacheControl> {
        CacheControl::parse(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn all_directives_are_written_and_read_back() {
        let second = Duration::from_secs;
        let all = CacheControl::new()
            .public()
            .private()
            .no_store()
            .no_cache()
            .must_revalidate()
            .immutable()
            .max_age(second(1))
            .s_maxage(second(20))
            .stale_while_revalidate(second(300));
        let text = "public, private, no-store, no-cache, must-revalidate, immutable, max-age=1, s-maxage=20, \
                    stale-while-revalidate=300";
        assert_eq!(all.to_string(), text);
        assert_eq!(parse(text), Some(all));
        assert_eq!(
            CacheControl::new().max_age(second(1)).max_age(Duration::MAX).to_string(),
            "max-age=2147483648"
        );
        assert_eq!(CacheControl::new().max_age(Duration::from_millis(1_999)).to_string(), "max-age=1");
    }

    #[test]
    fn known_directives_are_read() {
        let minute = Duration::from_secs(60);
        assert_eq!(
            parse("Max-Age=\"60\",foo=\"a\" , PUBLIC"),
            Some(CacheControl::new().max_age(minute).public())
        );
        assert_eq!(parse("max-age=5, max-age=60"), Some(CacheControl::new().max_age(minute)));
        let longest = Some(CacheControl::new().max_age(Duration::from_secs(WEB_CACHE_MAX_S)));
        assert_eq!(parse("max-age=99999999999999999999999"), longest);
        assert_eq!(parse("max-age=4294967296"), longest);
        for nothing in ["", ",", "foo", "max-age", "max-age=", "max-age=-1", "max-age=x", "max-age=+1"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
        assert_eq!(CacheControl::parse(&HeaderValue::from_bytes(b"public, \xff").unwrap()), None);
    }

    proptest! {
        #[test]
        fn parsed_text_is_written_again(text in "[ a-z\",=0-9]{0,40}|((public|max-age=[0-9]{1,12}|no-store),?){0,5}") {
            if let Some(cache) = parse(&text) {
                prop_assert_eq!(parse(&cache.to_string()), Some(cache));
            }
        }
    }
}
