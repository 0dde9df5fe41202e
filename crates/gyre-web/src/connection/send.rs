//! Owns how a response is written: its head, a body whose length is known, and what stands in for one.

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

/// What describes a body, and so goes with it.
const BODY_FIELDS: [HeaderName; 4] = [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE];

/// How long the body is that follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    /// As long as its chunks are, or where the client knows none until the connection is closed.
    Unknown,
}

impl HttpConnection {
    /// Sends the response: text, bytes, [`Json`](crate::Json) or nothing, with the type of what it is unless
    /// another is set, compressed if that is worth it and the client takes it.
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
    /// [`Code::ResponseAlreadySent`]; [`Code::ConnectionClosed`] if the client has gone; those of the session's store.
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

    /// Sends the client elsewhere: for this time (302), or for good (301); or with the status that is set, if that is
    /// one of redirection, as 303 is after a form.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_status(303)?; // after a form; else 302, or 301 if it is for good
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

    /// Answers with this status by the site's route for errors, or where it has none with a line of text.
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
    /// As [`set_status`](Self::set_status) and [`send`](Self::send), and those of the error's route.
    pub async fn error(&mut self, status: u16) -> Result<(), TrackerError> {
        self.set_status(status)?;
        // What was said of what is not sent.
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

    /// The status, in words, is all there is to say.
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

    /// Whether this response has a body at all (RFC 9110, section 6.4.1).
    pub(super) fn has_body(&self) -> bool {
        self.request.method != Method::HEAD
            && !matches!(self.response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Writes the head into a buffer, after which nothing of it can be changed. The session is stored before.
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
            // RFC 9110, section 8.6, and RFC 9112, section 6.1: a 204 has none, a 304 that of the whole.
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

    /// Writes these bytes; gives the buffer back, empty.
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
