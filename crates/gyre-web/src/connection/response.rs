//! Owns what a handler can set on its response's head, and what it says of a response in the log.

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

/// Fields that say when the response is made, how its body is framed and the connection kept; the server writes them
/// itself.
const OWN_FIELDS: [HeaderName; 7] =
    [CONNECTION, CONTENT_LENGTH, DATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

impl HttpConnection {
    /// The response's head, as far as it is set.
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

    /// Whether the response was sent, or has begun to be.
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

    /// The response's status; 200 unless another was set.
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
    /// [`Code::IncorrectResponse`] for any other, [`Code::ResponseAlreadySent`].
    pub fn set_status(&mut self, status: u16) -> Result<(), TrackerError> {
        self.check_open()?;
        let status = StatusCode::from_u16(status).ok().filter(|status| (200..600).contains(&status.as_u16()));
        let no_status = || TrackerError::new(Code::IncorrectResponse, "a response's status is 200 to 599");
        self.response.status = status.ok_or_else(no_status)?;
        Ok(())
    }

    /// A header field of the response; the first, if there are several of the name.
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

    /// Sets a header field of the response, in place of those of its name.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectResponse`] if the name is none (RFC 9110, section 5.1), the value has a line break or another
    /// control character or is not ASCII, or the field is one that the server writes itself;
    /// [`Code::ResponseAlreadySent`].
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), TrackerError> {
        let (name, value) = self.checked_field(name, value)?;
        self.response.headers.insert(name, value);
        Ok(())
    }

    /// Adds a header field to the response, beside those of its name.
    ///
    /// # Errors
    ///
    /// As [`set_header`](Self::set_header).
    pub fn append_header(&mut self, name: &str, value: &str) -> Result<(), TrackerError> {
        let (name, value) = self.checked_field(name, value)?;
        self.response.headers.append(name, value);
        Ok(())
    }

    /// Takes all header fields of this name out of the response. True if there were any.
    pub fn remove_header(&mut self, name: &str) -> bool {
        self.progress == Progress::Open && self.response.headers.remove(name).is_some()
    }

    fn checked_field(&self, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), TrackerError> {
        self.check_open()?;
        let incorrect = |message| TrackerError::new(Code::IncorrectResponse, message);
        let name = HeaderName::from_bytes(name.as_bytes());
        let name =
            name.map_err(|_| incorrect("a header's name has other characters than those of a token"))?;
        if OWN_FIELDS.contains(&name) {
            return Err(incorrect("this header is the server's to write"));
        }
        let value = HeaderValue::from_str(value).ok().filter(|value| value.to_str().is_ok());
        let value =
            value.ok_or_else(|| incorrect("a header's value has a control character or is not ASCII"))?;
        Ok((name, value))
    }

    /// Sets a cookie, with the attributes that it carries. To take one away set it with a `Max-Age` of zero.
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
    /// [`Code::IncorrectResponse`] if a part of it would break the header, or it is larger than browsers keep;
    /// [`Code::ResponseAlreadySent`].
    pub fn set_cookie<'a>(&mut self, cookie: impl Into<Cookie<'a>>) -> Result<(), TrackerError> {
        self.check_open()?;
        let value = set_cookie_value(&cookie.into())?;
        self.response.headers.append(SET_COOKIE, value);
        Ok(())
    }

    /// How long and by whom the response may be kept, as far as it is set.
    pub fn cache(&self) -> Option<CacheControl> {
        self.response.headers.get(CACHE_CONTROL).and_then(CacheControl::parse)
    }

    /// Sets how long and by whom the response may be kept (RFC 9111); `None` leaves it to others.
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

    /// The language of the response's content (`Content-Language`), if it is set.
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

    /// How what is here is related to other places (`Link`), as far as it is set.
    pub fn links(&self) -> Links {
        Links::parse(&self.response.headers)
    }

    /// Sets how what is here is related to other places (RFC 8288).
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
    /// [`Code::IncorrectResponse`] if a part of it would break the header, [`Code::ResponseAlreadySent`].
    pub fn set_links(&mut self, links: &Links) -> Result<(), TrackerError> {
        self.check_open()?;
        self.response.headers.insert(LINK, links.to_value()?);
        Ok(())
    }

    /// The type of the response's content, if it is set.
    pub fn content_type(&self) -> Option<&str> {
        self.response.headers.get(CONTENT_TYPE)?.to_str().ok()
    }

    /// Sets the type of the response's content, in place of what it would be by what is sent: a media type
    /// (`text/css`), or the extension of a file that has it (`css`).
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
    /// As [`set_header`](Self::set_header), and [`Code::IncorrectResponse`] for an extension that nobody knows.
    pub fn set_content_type(&mut self, media_type: &str) -> Result<(), TrackerError> {
        if media_type.contains('/') {
            return self.set_header(CONTENT_TYPE.as_str(), media_type);
        }
        match mime_guess::from_ext(media_type.trim_start_matches('.')).first_raw() {
            Some(known) => self.set_header(CONTENT_TYPE.as_str(), &with_charset(known)),
            None => Err(TrackerError::new(Code::IncorrectResponse, "no type is known for this extension")),
        }
    }

    /// Leaves the type of the response's content to what is sent.
    pub fn remove_content_type(&mut self) -> bool {
        self.remove_header(CONTENT_TYPE.as_str())
    }

    pub(super) fn check_open(&self) -> Result<(), TrackerError> {
        match self.progress {
            Progress::Open => Ok(()),
            _ => Err(TrackerError::new(Code::ResponseAlreadySent, "a response has been sent already")),
        }
    }
}

/// Text is sent as UTF-8.
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
