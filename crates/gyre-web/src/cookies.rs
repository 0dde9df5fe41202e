//! Owns cookies: reading those of a request and setting one (RFC 6265).

use std::fmt::Write;

use cookie::{Cookie, SameSite};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::limits::{WEB_COOKIE_MAX_BYTES, WEB_COOKIES_MAX};
use gyre_core::error::{Code, TrackerError};

/// The cookies of a request. A client can send any cookie, so don't trust them.
///
/// Values are percent-decoded, since a [`Cookie`] is encoded when it is set. Names are not decoded: an encoded
/// `__Host-` or `__Secure-` has not passed the browser's rules for these prefixes.
///
/// ```
/// # use gyre_web::testing as gyre;
/// # use gyre::{error::TrackerError, web::HttpConnection};
/// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
/// let cookies = connection.cookies()?;
/// let theme = cookies.get("theme").unwrap_or("light");
/// let names: Vec<&str> = cookies.iter().map(|(name, _)| name).collect();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// Reads all `Cookie` fields of a request.
    ///
    /// # Errors
    ///
    /// [`Code::HeadTooLarge`] for more than [`WEB_COOKIES_MAX`] cookies; [`Code::IncorrectRequest`] for a cookie
    /// without name or `=`, for control characters, and for text that is not UTF-8 before or after decoding.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, TrackerError> {
        let malformed = || TrackerError::incorrect_request("malformed cookie");
        let mut cookies = Vec::new();
        for field in headers.get_all(COOKIE) {
            let field = str::from_utf8(field.as_bytes()).map_err(|_| malformed())?;
            if field.contains(char::is_control) {
                return Err(malformed());
            }
            for cookie in Cookie::split_parse(field) {
                let cookie = cookie.map_err(|_| malformed())?;
                if cookies.len() == WEB_COOKIES_MAX {
                    let message = format!("more than {WEB_COOKIES_MAX} cookies");
                    return Err(TrackerError::new(Code::HeadTooLarge, message));
                }
                let value = percent_decode_str(cookie.value()).decode_utf8().map_err(|_| malformed())?;
                cookies.push((cookie.name().to_owned(), value.into_owned()));
            }
        }
        Ok(Self(cookies))
    }

    /// Returns the value of the cookie of this name. Of several it is the first, which has the longest path.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(other, value)| (other == name).then_some(value))
    }

    /// Returns names and values, in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the number of cookies, at most [`WEB_COOKIES_MAX`].
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no cookies.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the value of a `Set-Cookie` field for this cookie. The cookie's value is percent-encoded, so it may be any
/// text.
///
/// # Errors
///
/// [`Code::IncorrectResponse`] for a cookie that can't be written or that browsers refuse: a name that is not a token,
/// a `;` or control character in path or domain, more than [`WEB_COOKIE_MAX_BYTES`] in all, `SameSite=None` without
/// `Secure`, and a `__Host-` or `__Secure-` cookie without the attributes that these prefixes require.
pub(crate) fn set_cookie_value(cookie: &Cookie<'_>) -> Result<HeaderValue, TrackerError> {
    let refused =
        |why| Err(TrackerError::new(Code::IncorrectResponse, format!("this cookie can't be set: {why}")));
    let name = cookie.name();
    if !is_token(name) {
        return refused("its name is not a token");
    }
    for attribute in [cookie.path(), cookie.domain()].into_iter().flatten() {
        if !attribute.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';') {
            return refused("its path or domain has an invalid character");
        }
    }
    // The crate adds Secure where it is required, unless it was set to false.
    let is_partitioned = cookie.partitioned() == Some(true);
    let needs_secure = is_partitioned || cookie.same_site() == Some(SameSite::None);
    let is_secure = is_partitioned || cookie.secure().unwrap_or(needs_secure);
    if needs_secure && !is_secure {
        return refused("SameSite=None requires Secure");
    }
    let has_prefix =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if (has_prefix("__Secure-") || has_prefix("__Host-")) && !is_secure {
        return refused("the prefix of its name requires Secure");
    }
    if has_prefix("__Host-") && (cookie.path() != Some("/") || cookie.domain().is_some()) {
        return refused("a __Host- cookie must have the path / and no domain");
    }
    let mut text = String::new();
    // Writing fails for a date out of range. The crate also encodes the name, which a token does not need.
    let written = write!(text, "{}", cookie.encoded());
    match (written, text.split_once('=')) {
        (Ok(()), Some((_, rest))) => text = format!("{name}={rest}"),
        _ => return refused("its date is out of range"),
    }
    if text.len() > WEB_COOKIE_MAX_BYTES {
        return refused("it is longer than browsers keep");
    }
    HeaderValue::from_str(&text).or_else(|_| refused("it is not a valid header field value"))
}

/// Returns whether a name is a token (RFC 9110, section 5.6.2).
fn is_token(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cookie::time::{Date, Duration, OffsetDateTime};
    use proptest::prelude::*;

    fn parse(fields: &[&[u8]]) -> Result<Cookies, Code> {
        let fields = fields.iter().map(|field| (COOKIE, HeaderValue::from_bytes(field).unwrap()));
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| {
            headers.append(name, value);
        });
        Cookies::parse(&headers).map_err(|error| error.code())
    }

    #[test]
    fn cookies_of_browsers_are_read() {
        let cookies = parse(&[b"a=1; b=two%20words;c=\"q\"", b"a=2; d= ; e=x=y;; "]).unwrap();
        let expected = [("a", "1"), ("b", "two words"), ("c", "\"q\""), ("a", "2"), ("d", ""), ("e", "x=y")];
        assert_eq!(cookies.iter().collect::<Vec<_>>(), expected);
        assert_eq!((cookies.get("a"), cookies.get("f")), (Some("1"), None));
        assert_eq!((cookies.len(), cookies.is_empty()), (6, false));
        assert!(parse(&[]).unwrap().is_empty());
        // Names are not decoded.
        assert_eq!(parse(&[b"%5F_Host-a=1"]).unwrap().get("__Host-a"), None);
    }

    #[test]
    fn malformed_cookies_are_refused() {
        for field in [b"a".as_slice(), b"a=1; b", b"=1", b"a=\t1", b"a=\xff", b"a=%ff"] {
            assert_eq!(parse(&[field]), Err(Code::IncorrectRequest), "{}", field.escape_ascii());
        }
        let many = |count| vec!["a=1"; count].join("; ");
        assert_eq!(parse(&[many(WEB_COOKIES_MAX).as_bytes()]).unwrap().len(), WEB_COOKIES_MAX);
        assert_eq!(parse(&[many(WEB_COOKIES_MAX).as_bytes(), b"b=1"]), Err(Code::HeadTooLarge));
    }

    fn set(cookie: impl Into<Cookie<'static>>) -> Result<String, Code> {
        let value = set_cookie_value(&cookie.into());
        value.map(|value| value.to_str().unwrap().to_owned()).map_err(|error| error.code())
    }

    #[test]
    fn all_attributes_are_written() {
        let full =
            Cookie::build(("a", "x; y\r\n")).path("/p").domain("example.org").http_only(true).secure(true);
        let full =
            full.same_site(SameSite::Strict).max_age(Duration::hours(1)).expires(OffsetDateTime::UNIX_EPOCH);
        let expected = "a=x%3B%20y%0D%0A; HttpOnly; SameSite=Strict; Secure; Path=/p; Domain=example.org; \
                        Max-Age=3600; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        assert_eq!(set(full), Ok(expected.into()));
        assert_eq!(set(("100%", "")), Ok("100%=".into()));
        assert_eq!(set(Cookie::build("a").same_site(SameSite::None)), Ok("a=; SameSite=None; Secure".into()));
    }

    #[test]
    fn cookies_that_browsers_refuse_are_refused() {
        let host = || Cookie::build(("__Host-a", "1")).path("/").secure(true);
        assert!(set(host()).is_ok());
        let long = |length| "v".repeat(length);
        assert!(set(("a", long(WEB_COOKIE_MAX_BYTES - 2))).is_ok());
        let refused: [Cookie<'static>; 17] = [
            ("", "1").into(),
            ("a b", "1").into(),
            ("a=b", "1").into(),
            ("a;b", "1").into(),
            ("a\r\nb", "1").into(),
            ("\u{fc}", "1").into(),
            ("a", long(WEB_COOKIE_MAX_BYTES - 1)).into(),
            Cookie::build("a").path("/\r\nX: y").into(),
            Cookie::build("a").path("/; Secure").into(),
            Cookie::build("a").path("/\t").into(),
            Cookie::build("a").domain("x\0").into(),
            Cookie::build("a").domain("x;y").into(),
            Cookie::build("a").same_site(SameSite::None).secure(false).into(),
            Cookie::build("__secure-a").path("/").into(),
            host().domain("example.org").into(),
            host().path("/a").into(),
            host().secure(false).into(),
        ];
        for cookie in refused {
            let shown = format!("{cookie:?}");
            assert_eq!(set(cookie), Err(Code::IncorrectResponse), "{shown}");
        }
        // A date that the crate can't write is an error, not a panic.
        let _ =
            set(Cookie::build("a").expires(OffsetDateTime::new_utc(Date::MIN, cookie::time::Time::MIDNIGHT)));
    }

    proptest! {
        #[test]
        fn a_cookie_survives_setting_and_reading(name in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,16}", value in any::<String>()) {
            let text = set((name.clone(), value.clone())).unwrap();
            let cookies = parse(&[text.as_bytes()]).unwrap();
            prop_assert_eq!(cookies.iter().collect::<Vec<_>>(), [(name.as_str(), value.as_str())]);
        }

        #[test]
        fn no_part_of_a_cookie_splits_the_field(
            name in "[ -~\r\n\0]{0,8}", value: String, path in "[ -~\r\n\t\u{80}-\u{100}]{0,8}",
            domain in "[ -~\r\n\0]{0,8}",
        ) {
            let built = Cookie::build((name.clone(), value.clone())).path(path.clone()).domain(domain.clone());
            if let Ok(text) = set(built) {
                prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", text);
                prop_assert_eq!(text.matches(';').count(), 2);
                let back = Cookie::parse(text).unwrap();
                prop_assert_eq!(back.name(), name);
                prop_assert_eq!(back.path(), Some(path.trim()));
                // The crate omits a leading dot.
                let domain = domain.strip_prefix('.').unwrap_or(&domain).trim();
                prop_assert_eq!(back.domain().unwrap_or(""), domain.strip_prefix('.').unwrap_or(domain));
            }
        }

        #[test]
        fn no_field_panics(field in prop::collection::vec(32_u8..=255, 0..64)) {
            let field: Vec<u8> = field.into_iter().filter(|&byte| byte != 127).collect();
            let _ = parse(&[&field]);
        }
    }
}
