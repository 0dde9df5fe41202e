//! Owns the body of a request as a handler reads it: whole or in chunks, as text, JSON or a form. Its content type must
//! match, and nothing is read beyond a limit.

mod incoming;
#[cfg(feature = "multipart")]
mod multipart;

use std::fmt;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use mime_guess::Mime;
use mime_guess::mime::{APPLICATION, CHARSET, JSON, WWW_FORM_URLENCODED};
use percent_encoding::percent_decode;
use serde::de::DeserializeOwned;

use crate::limits::{WEB_BODY_MAX_BYTES, WEB_FORM_FIELDS, WEB_REASON_CHARS};
use gyre_core::error::{Code, TrackerError};

pub(crate) use incoming::Incoming;
#[cfg(feature = "multipart")]
pub use multipart::{Field, Multipart};

/// The body of a request. Without one it is empty.
///
/// The body is received while it is read. A client that sends `Expect: 100-continue` gets its 100 at the first read. No
/// call returns bytes that an earlier one has returned.
///
/// All calls that read can fail with
/// - [`Code::IncorrectRequest`]: the body does not match its type;
/// - [`Code::ContentTooLarge`]: it is longer than the [`limit`](Self::limit);
/// - [`Code::UnsupportedMediaType`]: its content type is not the one that the call reads;
/// - [`Code::ConnectionClosed`]: the client closed the connection before the end of the body.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::error::TrackerError;
/// use gyre::web::body::Body;
///
/// #[derive(serde::Deserialize)]
/// struct Torrent {
///     name: String,
///     files: Vec<String>,
/// }
///
/// async fn title(body: Body<'_>) -> Result<String, TrackerError> {
///     let torrent: Torrent = body.limit(64 << 10).json().await?;
///     Ok(format!("{} ({} files)", torrent.name, torrent.files.len()))
/// }
/// ```
pub struct Body<'a> {
    incoming: &'a mut Incoming,
    content_type: Option<&'a str>,
    limit: u64,
}

impl<'a> Body<'a> {
    /// Creates the body of a request with these header fields.
    pub(crate) fn new(incoming: &'a mut Incoming, headers: &'a HeaderMap) -> Self {
        // A type that is not ASCII is invalid, which differs from a missing one.
        let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        Self { incoming, content_type, limit: WEB_BODY_MAX_BYTES }
    }

    /// Sets the maximum length of the body. Default: [`WEB_BODY_MAX_BYTES`].
    pub fn limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// Returns the next chunk as it arrives; it is never empty. `None`: the body has ended.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::body::Body};
    /// async fn count_lines(body: Body<'_>) -> Result<usize, TrackerError> {
    ///     let mut body = body.limit(10 << 30);
    ///     let mut lines = 0;
    ///     while let Some(chunk) = body.next().await? {
    ///         lines += chunk.iter().filter(|&&byte| byte == b'\n').count();
    ///     }
    ///     Ok(lines)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [above](Self), except for the content type.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TrackerError> {
        self.incoming.next(self.limit).await
    }

    /// Reads all of its bytes.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let torrent = connection.body().limit(1 << 20).raw().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [above](Self), except for the content type.
    pub async fn raw(mut self) -> Result<Bytes, TrackerError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads all of it as UTF-8 text. The content type may be any.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let note = connection.body().limit(1_000).text().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [above](Self). A content type with a charset other than UTF-8 is refused.
    pub async fn text(self) -> Result<String, TrackerError> {
        media_type(self.content_type)?;
        utf8(&self.raw().await?)
    }

    /// Reads it as JSON. Its content type must be `application/json` or end with `+json`.
    ///
    /// # Errors
    ///
    /// As [above](Self). For malformed JSON, or JSON that does not match the type `T`, the message names line and
    /// column.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, TrackerError> {
        let is_json = |media: &Mime| {
            (media.type_() == APPLICATION && media.subtype() == JSON) || media.suffix() == Some(JSON)
        };
        media_type(self.content_type)?
            .filter(is_json)
            .ok_or_else(|| unsupported("the content type must be JSON"))?;
        serde_json::from_slice(&self.raw().await?).map_err(|error| {
            let reason = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            malformed("JSON", reason.strip_suffix(&place).unwrap_or(&reason), &place)
        })
    }

    /// Reads the fields of a form of type `application/x-www-form-urlencoded`, at most [`WEB_FORM_FIELDS`] of them. A
    /// repeated field is a list.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::body::Body};
    /// #[derive(serde::Deserialize)]
    /// struct Search {
    ///     words: String,
    ///     #[serde(default)]
    ///     category: Vec<u32>,
    /// }
    ///
    /// async fn search(body: Body<'_>) -> Result<String, TrackerError> {
    ///     let search: Search = body.form().await?;
    ///     Ok(format!("{} in {:?}", search.words, search.category))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [above](Self).
    pub async fn form<T: DeserializeOwned>(self) -> Result<T, TrackerError> {
        let is_form = |media: &Mime| media.type_() == APPLICATION && media.subtype() == WWW_FORM_URLENCODED;
        media_type(self.content_type)?
            .filter(is_form)
            .ok_or_else(|| unsupported("the content type must be application/x-www-form-urlencoded"))?;
        let body = self.raw().await?;
        check_form(&body)?;
        serde_html_form::from_bytes(&body).map_err(|error| malformed("form", &error, ""))
    }
}

/// Reads a content type. Any charset other than UTF-8 is refused.
fn media_type(content_type: Option<&str>) -> Result<Option<Mime>, TrackerError> {
    let Some(content_type) = content_type else { return Ok(None) };
    let media: Mime = content_type.parse().map_err(|_| unsupported("the content type is malformed"))?;
    let charset = media.get_param(CHARSET);
    if charset.is_some_and(|charset| !["utf-8", "utf8", "us-ascii"].iter().any(|name| charset == *name)) {
        return Err(unsupported("the charset must be UTF-8"));
    }
    Ok(Some(media))
}

fn utf8(bytes: &[u8]) -> Result<String, TrackerError> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|error| malformed("text", &error, ""))
}

/// Refuses what the parser of forms would accept: malformed escapes, invalid UTF-8, and too many fields.
fn check_form(body: &[u8]) -> Result<(), TrackerError> {
    if body.split(|&byte| byte == b'&').count() > WEB_FORM_FIELDS {
        return Err(too_many_fields());
    }
    let mut escapes = body.split(|&byte| byte == b'%').skip(1);
    if !escapes.all(|escape| matches!(escape, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())) {
        return Err(malformed("form", &"a % without two hexadecimal digits", ""));
    }
    // The separators between fields are ASCII, so if the whole is UTF-8, each field is.
    percent_decode(body).decode_utf8().map(drop).map_err(|error| malformed("form", &error, ""))
}

fn too_many_fields() -> TrackerError {
    TrackerError::incorrect_request(format!("the form has more than {WEB_FORM_FIELDS} fields"))
}

fn unsupported(message: &'static str) -> TrackerError {
    TrackerError::new(Code::UnsupportedMediaType, message)
}

/// Makes a [`Code::IncorrectRequest`]. The reason may quote the body: it is shortened and put on one line.
fn malformed(what: &str, reason: &(impl fmt::Display + ?Sized), place: &str) -> TrackerError {
    let reason = reason.to_string();
    let printable = reason.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let reason: String = printable.take(WEB_REASON_CHARS).collect();
    TrackerError::incorrect_request(format!("malformed {what}{place}: {reason}"))
}

#[cfg(test)]
mod tests;
