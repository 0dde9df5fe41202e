//! Owns how a response is written: its head, a body of known length, redirects and errors.

use std::io::Write;

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, HeaderValue, LAST_MODIFIED, LOCATION,
};
use http::{Method, StatusCode, Version};

use super::encoding::compress;
use super::{HttpConnection, Progress};
use crate::limits::WEB_WRITE_BYTES;
use crate::payload::Payload;
#[cfg(doc)]
use gyre_core::error::Code;
use gyre_core::error::TrackerError;
use gyre_core::time::wall_clock;

/// Fields that describe a body and are removed with it.
const BODY_FIELDS: [HeaderName; 4] = [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE];

/// Length of the body that follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    /// The body is sent in chunks. To a client without chunks it lasts until the connection is closed.
    Unknown,
}

impl HttpConnection {
    /// Sends the response: text, bytes, [`Json`](crate::Json) or nothing. Its content type follows from the payload
    /// unless another is set. With the feature `compression` it is compressed if that pays and the client accepts it.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_content_type("html")?;
    /// connection.send("<h1>A tracker</h1>").await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::ResponseAlreadySent`]; [`Code::ConnectionClosed`] if the client has closed the connection; the errors of
    /// the session store.
    pub async fn send<P: Payload>(&mut self, payload: P) -> Result<(), TrackerError> {
        self.check_open()?;
        let body = payload.into_body()?;
        if let Some(media_type) = P::TYPE
            && !self.response.headers.contains_key(CONTENT_TYPE)
        {
            self.response.headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        let body = match self.negotiate(body.len() as u64) {
            None => body,
            Some(encoding) => compress(&*self.transport, encoding, &body).await,
        };
        self.send_body(&body).await
    }

    /// Redirects the client, temporarily (302) or permanently (301). If a status of redirection is set, such as 303
    /// after a form, it is sent instead.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_status(303)?; // after a form
    /// connection.redirect("/thanks", false).await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectResponse`] if the location has a line break or is not ASCII, and those of [`send`](Self::send).
    pub async fn redirect(&mut self, location: &str, permanent: bool) -> Result<(), TrackerError> {
        self.set_header(LOCATION.as_str(), location)?;
        if !self.response.status.is_redirection() {
            self.set_status(if permanent { 301 } else { 302 })?;
        }
        self.send(()).await
    }

    /// Answers with this status through the site's error route. Without an error route the body is a line of text.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// match connection.param("id") {
    ///     Some("1") => connection.send("the first").await,
    ///     _ => connection.error(404).await,
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`set_status`](Self::set_status), [`send`](Self::send) and the error route.
    pub async fn error(&mut self, status: u16) -> Result<(), TrackerError> {
        self.set_status(status)?;
        // Fields that describe the response that is not sent.
        for name in BODY_FIELDS.into_iter().chain([CACHE_CONTROL, ETAG, LAST_MODIFIED, ACCEPT_RANGES]) {
            if !(name == CONTENT_RANGE && status == 416) {
                self.response.headers.remove(name);
            }
        }
        let site = self.site.clone();
        match site.error_route(self.response.status) {
            Some(handler) if !self.in_error => {
                self.in_error = true;
                let answered = handler.handle(self).await;
                self.in_error = false;
                match answered {
                    Ok(()) if self.sent() => Ok(()),
                    Ok(()) => self.send(()).await,
                    Err(_) if !self.sent() => self.send_status().await,
                    Err(error) => Err(error),
                }
            }
            _ => self.send_status().await,
        }
    }

    /// Sends the status as a line of text.
    async fn send_status(&mut self) -> Result<(), TrackerError> {
        let status = self.response.status;
        self.response.headers.remove(CONTENT_TYPE);
        self.send(format!("{} {}\n", status.as_str(), status.canonical_reason().unwrap_or_default())).await
    }

    /// Writes the whole response.
    pub(super) async fn send_body(&mut self, body: &[u8]) -> Result<(), TrackerError> {
        let mut out = self.begin(Length::Bytes(body.len() as u64)).await?;
        let mut rest = if self.has_body() { body } else { &[] };
        self.sent_bytes = rest.len() as u64;
        loop {
            let room = WEB_WRITE_BYTES.saturating_sub(out.len());
            let (piece, later) = rest.split_at(rest.len().min(room));
            out.extend_from_slice(piece);
            rest = later;
            out = self.write(out).await?;
            if rest.is_empty() {
                break;
            }
        }
        self.progress = Progress::Sent;
        Ok(())
    }

    /// Returns whether this response has a body (RFC 9110, section 6.4.1).
    pub(super) fn has_body(&self) -> bool {
        self.request.method != Method::HEAD
            && !matches!(self.response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Stores the session and writes the head into a buffer. Afterwards the head can't be changed.
    pub(super) async fn begin(&mut self, length: Length) -> Result<Vec<u8>, TrackerError> {
        self.check_open()?;
        if self.is_aborted() {
            return Err(Self::gone());
        }
        self.store_session().await?;
        if self.incoming.must_close() {
            self.keep_alive = false;
        }
        let chunked = self.request.version != Version::HTTP_10;
        if length == Length::Unknown && !chunked {
            self.keep_alive = false;
        }
        self.progress = Progress::Begun;
        let status = self.response.status;
        if status == StatusCode::NOT_MODIFIED {
            BODY_FIELDS.iter().for_each(|name| drop(self.response.headers.remove(name)));
        }
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        let _ = write!(out, "{}", httpdate::HttpDate::from(wall_clock()));
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.response.headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        match length {
            // RFC 9110, section 8.6, and RFC 9112, section 6.1: a 204 has no length. A 304 would have that of the whole
            // representation, and leaves it out.
            _ if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED => {}
            Length::Bytes(length) => {
                let _ = write!(out, "Content-Length: {length}\r\n");
            }
            Length::Unknown if chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Length::Unknown => {}
        }
        match (self.keep_alive, chunked) {
            (true, true) => {}
            (true, false) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
        }
        out.extend_from_slice(b"\r\n");
        Ok(out)
    }

    /// Writes these bytes. Returns the buffer, empty.
    pub(super) async fn write(&mut self, out: Vec<u8>) -> Result<Vec<u8>, TrackerError> {
        let (result, mut out) = self.transport.write(out).await;
        out.clear();
        match result {
            Ok(()) => Ok(out),
            Err(_) => {
                self.keep_alive = false;
                Err(Self::gone())
            }
        }
    }
}
