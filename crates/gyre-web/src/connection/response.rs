//! Owns how a handler sets the head of its response, and the values that requests and responses have in the log.

use std::borrow::Cow;

use cookie::Cookie;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue,
    LINK, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{StatusCode, Version};

use super::{HttpConnection, Progress, ResponseHead};
use crate::cache::CacheControl;
use crate::cookies::set_cookie_value;
use crate::links::Links;
use crate::log::{LogRecord, date};
use gyre_core::error::{Code, TrackerError};
use gyre_core::time::wall_clock;

/// Fields that only the server writes: the date, the framing of the body, and those of the connection.
const SERVER_FIELDS: [HeaderName; 7] =
    [CONNECTION, CONTENT_LENGTH, DATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

impl HttpConnection {
    /// Returns the head of the response, as set so far.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_header("x-tracker", "gyre")?;
    /// assert_eq!(connection.response().headers["x-tracker"], "gyre");
    /// # Ok(())
    /// # }
    /// ```
    pub fn response(&self) -> &ResponseHead {
        &self.response
    }

    /// Returns whether sending the response has begun.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.send("done").await?;
    /// assert!(connection.sent());
    /// # Ok(())
    /// # }
    /// ```
    pub fn sent(&self) -> bool {
        self.progress != Progress::Open
    }

    /// Returns the response's status. Default: 200.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_status(201)?;
    /// assert_eq!(connection.status(), http::StatusCode::CREATED);
    /// # Ok(())
    /// # }
    /// ```
    pub fn status(&self) -> StatusCode {
        self.response.status
    }

    /// Sets the response's status, 200 to 599.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectResponse`] for any other status, [`Code::ResponseAlreadySent`].
    pub fn set_status(&mut self, status: u16) -> Result<(), TrackerError> {
        self.check_open()?;
        let status = StatusCode::from_u16(status).ok().filter(|status| (200..600).contains(&status.as_u16()));
        let no_status = || TrackerError::new(Code::IncorrectResponse, "a response's status is 200 to 599");
        self.response.status = status.ok_or_else(no_status)?;
        Ok(())
    }

    /// Returns a header field of the response. If there are several of this name, the first.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_header("x-robots-tag", "noindex")?;
    /// connection.append_header("vary", "accept-language")?;
    /// assert!(connection.header("x-robots-tag").is_some_and(|value| value == "noindex"));
    /// connection.remove_header("x-robots-tag");
    /// # Ok(())
    /// # }
    /// ```
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.response.headers.get(name)
    }

    /// Sets a header field of the response, in place of all of the same name.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectResponse`] if the name is not a valid one (RFC 9110, section 5.1), the value has a line break
    /// or another control character or is not ASCII, or only the server writes this field;
    /// [`Code::ResponseAlreadySent`].
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), TrackerError> {
        let (name, value) = self.checked_field(name, value)?;
        self.response.headers.insert(name, value);
        Ok(())
    }

    /// Adds a header field to the response and keeps others of the same name.
    ///
    /// # Errors
    ///
    /// As [`set_header`](Self::set_header).
    pub fn append_header(&mut self, name: &str, value: &str) -> Result<(), TrackerError> {
        let (name, value) = self.checked_field(name, value)?;
        self.response.headers.append(name, value);
        Ok(())
    }

    /// Removes all header fields of this name from the response. Returns whether there were any.
    pub fn remove_header(&mut self, name: &str) -> bool {
        self.progress == Progress::Open && self.response.headers.remove(name).is_some()
    }

    fn checked_field(&self, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), TrackerError> {
        self.check_open()?;
        let incorrect = |message| TrackerError::new(Code::IncorrectResponse, message);
        let name = HeaderName::from_bytes(name.as_bytes());
        let name = name.map_err(|_| incorrect("a header field's name is not a token"))?;
        if SERVER_FIELDS.contains(&name) {
            return Err(incorrect("only the server writes this header field"));
        }
        let value = HeaderValue::from_str(value).ok().filter(|value| value.to_str().is_ok());
        let value = value
            .ok_or_else(|| incorrect("a header field's value has a control character or is not ASCII"))?;
        Ok((name, value))
    }

    /// Sets a cookie with its attributes. To remove a cookie from the client, set it with a `Max-Age` of zero.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// use gyre::web::HttpConnection;
    /// use gyre::web::cookie::{Cookie, SameSite};
    ///
    /// async fn page(connection: &mut HttpConnection) -> Result<(), gyre::error::TrackerError> {
    ///     let theme = Cookie::build(("theme", "dark")).path("/").same_site(SameSite::Strict);
    ///     connection.set_cookie(theme)?;
    ///     connection.send("dark now").await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectResponse`] if a part of it can't stand in the header field, or it is larger than browsers keep;
    /// [`Code::ResponseAlreadySent`].
    pub fn set_cookie<'a>(&mut self, cookie: impl Into<Cookie<'a>>) -> Result<(), TrackerError> {
        self.check_open()?;
        let value = set_cookie_value(&cookie.into())?;
        self.response.headers.append(SET_COOKIE, value);
        Ok(())
    }

    /// Returns the `Cache-Control` field of the response, if it is set.
    pub fn cache(&self) -> Option<CacheControl> {
        self.response.headers.get(CACHE_CONTROL).and_then(CacheControl::parse)
    }

    /// Sets the `Cache-Control` field (RFC 9111): which caches may keep the response, and for how long. `None` removes
    /// it.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// use gyre::web::cache::CacheControl;
    /// use std::time::Duration;
    ///
    /// connection.set_cache(Some(&CacheControl::new().public().max_age(Duration::from_secs(60))))?;
    /// assert!(connection.cache().is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::ResponseAlreadySent`].
    pub fn set_cache(&mut self, cache: Option<&CacheControl>) -> Result<(), TrackerError> {
        match cache {
            Some(cache) => self.set_header(CACHE_CONTROL.as_str(), &cache.to_string()),
            None => self.check_open().map(|()| drop(self.response.headers.remove(CACHE_CONTROL))),
        }
    }

    /// Returns the language of the response's content (`Content-Language`), if it is set.
    pub fn lang(&self) -> Option<&str> {
        self.response.headers.get(CONTENT_LANGUAGE)?.to_str().ok()
    }

    /// Sets the language of the response's content, as a tag (RFC 5646).
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_lang("de")?;
    /// assert_eq!(connection.lang(), Some("de"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`set_header`](Self::set_header).
    pub fn set_lang(&mut self, tag: &str) -> Result<(), TrackerError> {
        self.set_header(CONTENT_LANGUAGE.as_str(), tag)
    }

    /// Returns the `Link` fields of the response.
    pub fn links(&self) -> Links {
        Links::parse(&self.response.headers)
    }

    /// Sets the `Link` field (RFC 8288), in place of earlier ones.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// use gyre::web::links::Links;
    ///
    /// let mut links = Links::default();
    /// links.add("next", "/torrents?page=2");
    /// connection.set_links(&links)?;
    /// assert_eq!(connection.links(), links);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectResponse`] if a part of a link can't stand in the header field, [`Code::ResponseAlreadySent`].
    pub fn set_links(&mut self, links: &Links) -> Result<(), TrackerError> {
        self.check_open()?;
        self.response.headers.insert(LINK, links.to_value()?);
        Ok(())
    }

    /// Returns the content type of the response, if it is set.
    pub fn content_type(&self) -> Option<&str> {
        self.response.headers.get(CONTENT_TYPE)?.to_str().ok()
    }

    /// Sets the content type of the response, in place of the one that follows from the payload. It is given as a media
    /// type (`text/css`), or as the extension of a file of this type (`css`).
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_content_type("css")?;
    /// assert_eq!(connection.content_type(), Some("text/css; charset=utf-8"));
    /// connection.remove_content_type();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`set_header`](Self::set_header), and [`Code::IncorrectResponse`] for an unknown extension.
    pub fn set_content_type(&mut self, media_type: &str) -> Result<(), TrackerError> {
        if media_type.contains('/') {
            return self.set_header(CONTENT_TYPE.as_str(), media_type);
        }
        match mime_guess::from_ext(media_type.trim_start_matches('.')).first_raw() {
            Some(known) => self.set_header(CONTENT_TYPE.as_str(), &with_charset(known)),
            None => Err(TrackerError::new(Code::IncorrectResponse, "unknown file extension")),
        }
    }

    /// Removes the content type, so that it follows from the payload. Returns whether there was one.
    pub fn remove_content_type(&mut self) -> bool {
        self.remove_header(CONTENT_TYPE.as_str())
    }

    pub(super) fn check_open(&self) -> Result<(), TrackerError> {
        match self.progress {
            Progress::Open => Ok(()),
            _ => Err(TrackerError::new(Code::ResponseAlreadySent, "a response was sent already")),
        }
    }
}

/// Adds the charset to a type of text, which is sent as UTF-8.
fn with_charset(media_type: &'static str) -> Cow<'static, str> {
    match media_type.starts_with("text/") || media_type == "application/javascript" {
        true => Cow::Owned(format!("{media_type}; charset=utf-8")),
        false => Cow::Borrowed(media_type),
    }
}

impl LogRecord for HttpConnection {
    fn token(&self, name: &str, argument: Option<&str>) -> Option<Cow<'_, str>> {
        let text = |value: &'_ HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let field = |name: &str| self.request.headers.get(name).map(text);
        Some(match name {
            "method" => self.request.method.as_str().into(),
            "url" => self.request.uri.path_and_query().map_or("/", |url| url.as_str()).into(),
            "path" => self.path().into(),
            "status" if self.sent() => self.response.status.as_str().to_owned().into(),
            "ip" => self.ip.to_string().into(),
            "host" => self.host().into(),
            "protocol" => self.protocol().into(),
            "user-agent" => field("user-agent")?.into(),
            "referer" => field("referer")?.into(),
            "http-version" => if self.request.version == Version::HTTP_10 { "1.0" } else { "1.1" }.into(),
            "response-time" => {
                let micros = self.transport.now().since(self.started).as_micros();
                format!("{}.{:03}", micros / 1_000, micros % 1_000).into()
            }
            "length" => self.sent_bytes.to_string().into(),
            "date" => date(wall_clock()).into(),
            "request" => field(argument?)?.into(),
            "response" => match argument? {
                name if name.eq_ignore_ascii_case(DATE.as_str()) => {
                    httpdate::fmt_http_date(wall_clock()).into()
                }
                name => self.response.headers.get(name).map(text)?.into(),
            },
            _ => return None,
        })
    }
}
