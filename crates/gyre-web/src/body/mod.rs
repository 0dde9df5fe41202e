//! Owns a request's body as a handler sees it: whole or by stretches, as text, JSON or a form. What it is must be said
//! by its type, and nothing is read beyond a limit.

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

/// The body of a request. A request without one has an empty one.
///
/// It comes while it is read; a client that asks whether it should send it at all (`Expect: 100-continue`) is told so
/// only then. What one call has read no other gives again.
///
/// All calls that read can fail with
/// - [`Code::IncorrectRequest`]: it is not what it is said to be;
/// - [`Code::ContentTooLarge`]: it is longer than the [`limit`](Self::limit);
/// - [`Code::UnsupportedMediaType`]: the type it is said to be of is not what is read;
/// - [`Code::ConnectionClosed`]: the client went away before its end.
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
    /// The body that comes with these header fields.
    pub(crate) fn new(incoming: &'a mut Incoming, headers: &'a HeaderMap) -> Self {
        // A type of bytes that are no text is no type, which is other than to have none.
        let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        Self { incoming, content_type, limit: WEB_BODY_MAX_BYTES }
    }

    /// Takes so many bytes of body at most, [`WEB_BODY_MAX_BYTES`] if this is not called.
    pub fn limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// The next stretch, as it comes; never an empty one. `None`: the body is over.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::body::Body};
    /// async fn count_lines(body: Body<'_>) -> Result<usize, TrackerError> {
    ///     let mut body = body.limit(10 << 30);
    ///     let mut lines = 0;
    ///     while let Some(stretch) = body.next().await? {
    ///         lines += stretch.iter().filter(|&&byte| byte == b'\n').count();
    ///     }
    ///     Ok(lines)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [above](Self), but for the type.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TrackerError> {
        self.incoming.next(self.limit).await
    }

    /// All of its bytes.
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
    /// As [above](Self), but for the type.
    pub async fn raw(mut self) -> Result<Bytes, TrackerError> {
        let mut whole = BytesMut::new();
        while let Some(stretch) = self.next().await? {
            whole.extend_from_slice(&stretch);
        }
        Ok(whole.freeze())
    }

    /// All of it as text, in UTF-8, of whatever type it is.
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
    /// As [above](Self); the type is wrong if it says another charset.
    pub async fn text(self) -> Result<String, TrackerError> {
        media_type(self.content_type)?;
        utf8(&self.raw().await?)
    }

    /// The value that it has in JSON, if its type is `application/json` or one that ends with `+json`.
    ///
    /// # Errors
    ///
    /// As [above](Self). If it is no JSON, or not of such a value, the message says in which line and column.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, TrackerError> {
        let is_json = |media: &Mime| {
            (media.type_() == APPLICATION && media.subtype() == JSON) || media.suffix() == Some(JSON)
        };
        media_type(self.content_type)?.filter(is_json).ok_or_else(|| unsupported("JSON is read here"))?;
        serde_json::from_slice(&self.raw().await?).map_err(|error| {
            let reason = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            wrong("JSON", reason.strip_suffix(&place).unwrap_or(&reason), &place)
        })
    }

    /// The fields of a form of type `application/x-www-form-urlencoded`, at most [`WEB_FORM_FIELDS`] of them. A field
    /// that is there several times makes a list.
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
        media_type(self.content_type)?.filter(is_form).ok_or_else(|| unsupported("a form is read here"))?;
        let body = self.raw().await?;
        check_form(&body)?;
        serde_html_form::from_bytes(&body).map_err(|error| wrong("form", &error, ""))
    }
}

/// Reads a type. One in another charset than UTF-8 is refused: nothing else is read.
fn media_type(content_type: Option<&str>) -> Result<Option<Mime>, TrackerError> {
    let Some(content_type) = content_type else { return Ok(None) };
    let media: Mime = content_type.parse().map_err(|_| unsupported("Content-Type is no type"))?;
    let charset = media.get_param(CHARSET);
    if charset.is_some_and(|charset| !["utf-8", "utf8", "us-ascii"].iter().any(|name| charset == *name)) {
        return Err(unsupported("UTF-8 is the only charset that is read"));
    }
    Ok(Some(media))
}

fn utf8(bytes: &[u8]) -> Result<String, TrackerError> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|error| wrong("text", &error, ""))
}

/// Refuses what the reading of forms would put up with: broken escapes, what is no UTF-8, fields without end.
fn check_form(body: &[u8]) -> Result<(), TrackerError> {
    if body.split(|&byte| byte == b'&').count() > WEB_FORM_FIELDS {
        return Err(too_many_fields());
    }
    let mut escapes = body.split(|&byte| byte == b'%').skip(1);
    if !escapes.all(|escape| matches!(escape, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())) {
        return Err(wrong("form", &"a % without two hexadecimal digits", ""));
    }
    // What stands between the fields is ASCII: it divides UTF-8 into UTF-8.
    percent_decode(body).decode_utf8().map(drop).map_err(|error| wrong("form", &error, ""))
}

fn too_many_fields() -> TrackerError {
    TrackerError::incorrect_request(format!("the form has more than {WEB_FORM_FIELDS} fields"))
}

fn unsupported(message: &'static str) -> TrackerError {
    TrackerError::new(Code::UnsupportedMediaType, message)
}

/// [`Code::IncorrectRequest`] with a reason that may cite the body: cut short, in one line.
fn wrong(what: &str, reason: &(impl fmt::Display + ?Sized), place: &str) -> TrackerError {
    let reason = reason.to_string();
    let printable = reason.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let reason: String = printable.take(WEB_REASON_CHARS).collect();
    TrackerError::incorrect_request(format!("the {what} can't be read{place}: {reason}"))
}

#[cfg(test)]
mod tests;
