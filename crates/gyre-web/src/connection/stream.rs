//! Owns responses that are written in pieces: streams of bytes, and server-sent events.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use futures_core::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::encoding::{Compressor, Encoding};
use super::send::Length;
use super::{HttpConnection, Progress};
use crate::limits::{WEB_COMPRESS_STEP_BYTES, WEB_WRITE_BYTES};
use gyre_core::error::{Code, TrackerError};
use gyre_core::wire::chunked::{LAST_CHUNK, put_chunk};

/// A response whose body is written in pieces. It is sent in chunks (RFC 9112, section 7.1), or until the connection's
/// end to an HTTP/1.0 client. If it is dropped before [`finish`](Self::finish), the response is cut off and the client
/// can tell.
pub struct ResponseStream<'a> {
    connection: &'a mut HttpConnection,
    compressor: Option<Compressor>,
    /// Bytes of the body, compressed if there is a compressor, that wait to be written.
    data: Vec<u8>,
    /// The head at first, then a buffer for reuse.
    out: Vec<u8>,
    /// Bytes that were taken since the last pause for the worker.
    taken_bytes: usize,
    chunked: bool,
}

impl fmt::Debug for ResponseStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseStream").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl HttpConnection {
    /// Begins a response whose body is written in pieces.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.set_content_type("csv")?;
    /// let mut response = connection.stream().await?;
    /// for number in 0..1_000_000 {
    ///     response.write(format!("{number}\n").as_bytes()).await?;
    /// }
    /// response.finish().await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub async fn stream(&mut self) -> Result<ResponseStream<'_>, TrackerError> {
        let encoding = self.negotiate(u64::MAX);
        self.start(encoding).await
    }

    pub(super) async fn start(
        &mut self,
        encoding: Option<Encoding>,
    ) -> Result<ResponseStream<'_>, TrackerError> {
        let chunked = self.request.version != http::Version::HTTP_10;
        let out = self.begin(Length::Unknown).await?;
        let compressor = encoding.filter(|_| self.has_body()).map(Compressor::new);
        Ok(ResponseStream { connection: self, compressor, data: Vec::new(), out, taken_bytes: 0, chunked })
    }

    /// Sends the items of a stream as they come. An error of the stream cuts the response off. For a HEAD request the
    /// stream is not polled.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// use std::pin::Pin;
    /// use std::task::{Context, Poll};
    ///
    /// struct Numbers(std::ops::Range<u32>);
    ///
    /// impl futures_core::Stream for Numbers {
    ///     type Item = std::io::Result<bytes::Bytes>;
    ///
    ///     fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
    ///         Poll::Ready(self.0.next().map(|number| Ok(format!("{number}\n").into())))
    ///     }
    /// }
    ///
    /// connection.drain_stream(Numbers(0..10)).await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), and [`Code::Internal`] for an error of the stream.
    pub async fn drain_stream<S, E>(&mut self, stream: S) -> Result<(), TrackerError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: fmt::Display,
    {
        if !self.response.headers.contains_key(CONTENT_TYPE) {
            self.set_content_type("application/octet-stream")?;
        }
        let mut response = self.stream().await?;
        let mut stream = pin!(stream);
        while response.has_body()
            && let Some(bytes) = poll_fn(|context| stream.as_mut().poll_next(context)).await
        {
            response.write(&bytes.map_err(TrackerError::internal)?).await?;
            response.flush().await?;
        }
        response.finish().await
    }

    /// Begins a stream of server-sent events (the `EventSource` of browsers). It lasts until the client closes the
    /// connection, the handler returns or the worker stops. [`keep`](Self::keep) limits the time between two events.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// use std::time::Duration;
    /// use gyre::web::{Event, HttpConnection};
    ///
    /// async fn live(connection: &mut HttpConnection) -> Result<(), gyre::error::TrackerError> {
    ///     let mut events = connection.events().await?;
    ///     for tick in 0_u32.. {
    ///         events.send(&Event::new(tick.to_string()).name("tick")).await?;
    ///         tokio::time::sleep(Duration::from_secs(1)).await;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub async fn events(&mut self) -> Result<EventStream<'_>, TrackerError> {
        self.set_content_type("text/event-stream")?;
        self.response.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.transport.set_endless();
        // Not compressed: events are small, and a compressor would take half a MiB for each client.
        let mut stream = self.start(None).await?;
        stream.flush().await?; // the client sees at once that it is connected
        Ok(EventStream(stream))
    }
}

impl ResponseStream<'_> {
    /// Returns the connection, for reading its request.
    pub fn connection(&self) -> &HttpConnection {
        self.connection
    }

    /// Returns whether the body is sent. In the response to a HEAD request it is not.
    pub(super) fn has_body(&self) -> bool {
        self.connection.has_body()
    }

    /// Writes bytes of the body. They are buffered and sent when the buffer is full, or with [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// [`Code::ConnectionClosed`] if the client has closed the connection.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), TrackerError> {
        let has_body = self.has_body();
        for piece in bytes.chunks(WEB_COMPRESS_STEP_BYTES) {
            match &mut self.compressor {
                Some(compressor) => compressor.write(piece, &mut self.data),
                None if has_body => self.data.extend_from_slice(piece),
                None => {}
            }
            if self.data.len() >= WEB_WRITE_BYTES || !has_body {
                self.write_out().await?;
            }
            // A lot of input may compress to little output. Without writes nothing else would let the worker run.
            self.taken_bytes += piece.len();
            if self.taken_bytes >= WEB_COMPRESS_STEP_BYTES {
                self.taken_bytes = 0;
                self.connection.transport.pause().await;
            }
        }
        if self.connection.is_aborted() { Err(HttpConnection::gone()) } else { Ok(()) }
    }

    /// Sends all that was written so far.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let mut response = connection.stream().await?;
    /// response.write(b"working ... ").await?;
    /// response.flush().await?; // the client sees it now
    /// response.write(b"done\n").await?;
    /// response.finish().await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::ConnectionClosed`] if the client has closed the connection.
    pub async fn flush(&mut self) -> Result<(), TrackerError> {
        if let Some(compressor) = &mut self.compressor {
            compressor.flush(&mut self.data);
        }
        self.write_out().await
    }

    /// Ends the response.
    ///
    /// # Errors
    ///
    /// [`Code::ConnectionClosed`] if the client has closed the connection.
    pub async fn finish(mut self) -> Result<(), TrackerError> {
        if let Some(compressor) = self.compressor.take() {
            compressor.finish(&mut self.data);
        }
        self.put_data();
        if self.chunked && self.has_body() {
            self.out.extend_from_slice(LAST_CHUNK);
        }
        let out = std::mem::take(&mut self.out);
        self.connection.write(out).await?;
        self.connection.progress = Progress::Sent;
        Ok(())
    }

    async fn write_out(&mut self) -> Result<(), TrackerError> {
        self.put_data();
        if self.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        self.out = self.connection.write(out).await?;
        Ok(())
    }

    /// Moves the waiting bytes of the body into the output, behind the head if that was not sent yet.
    fn put_data(&mut self) {
        if self.has_body() && !self.data.is_empty() {
            self.connection.sent_bytes += self.data.len() as u64;
            match self.chunked {
                true => put_chunk(&mut self.out, &self.data),
                false => self.out.extend_from_slice(&self.data),
            }
        }
        self.data.clear();
    }
}

/// A server-sent event.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::web::Event;
///
/// let event = Event::new("two\nlines").name("news").id("7").retry_ms(2_000);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    data: String,
    name: Option<String>,
    id: Option<String>,
    retry_ms: Option<u64>,
}

impl Event {
    /// Creates an event with this data, which may have several lines.
    pub fn new(data: impl Into<String>) -> Self {
        Self { data: data.into(), ..Self::default() }
    }

    /// Sets the event's name. Clients take an event without a name as `message`.
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Sets the id that the client sends as `Last-Event-ID` when it reconnects.
    pub fn id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// Sets the milliseconds that the client waits before it reconnects.
    pub fn retry_ms(self, millis: u64) -> Self {
        Self { retry_ms: Some(millis), ..self }
    }

    fn put(&self, out: &mut String) -> Result<(), TrackerError> {
        for (field, value) in [("event", &self.name), ("id", &self.id)] {
            let Some(value) = value else { continue };
            if value.contains(['\r', '\n', '\0']) {
                return Err(TrackerError::new(
                    Code::IncorrectResponse,
                    "an event's name or id has a line break",
                ));
            }
            out.push_str(&format!("{field}: {value}\n"));
        }
        if let Some(millis) = self.retry_ms {
            out.push_str(&format!("retry: {millis}\n"));
        }
        // To a client a single carriage return ends a line, too.
        for line in self.data.replace("\r\n", "\n").split(['\n', '\r']) {
            out.push_str(&format!("data: {line}\n"));
        }
        out.push('\n');
        Ok(())
    }
}

/// A stream of server-sent events.
///
/// ```
/// # use gyre_web::testing as gyre;
/// # use gyre::{error::TrackerError, web::HttpConnection};
/// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
/// let mut events = connection.events().await?;
/// events.ping().await?;
/// events.aborted().await; // or wait for the next event
/// events.finish().await
/// # }
/// ```
#[derive(Debug)]
pub struct EventStream<'a>(ResponseStream<'a>);

impl EventStream<'_> {
    /// Sends an event at once.
    ///
    /// # Errors
    ///
    /// [`Code::ConnectionClosed`] if the client has closed the connection, [`Code::IncorrectResponse`] if the event's
    /// name or id has a line break.
    pub async fn send(&mut self, event: &Event) -> Result<(), TrackerError> {
        let mut text = String::new();
        event.put(&mut text)?;
        self.0.write(text.as_bytes()).await?;
        self.0.flush().await
    }

    /// Sends a comment, which clients ignore. It shows the client and proxies that the connection is alive.
    ///
    /// # Errors
    ///
    /// [`Code::ConnectionClosed`] if the client has closed the connection.
    pub async fn ping(&mut self) -> Result<(), TrackerError> {
        self.0.write(b":\n\n").await?;
        self.0.flush().await
    }

    /// Returns the connection, for reading its request.
    pub fn connection(&self) -> &HttpConnection {
        self.0.connection()
    }

    /// Waits until the client has closed the connection. Await it together with the source of the next event.
    pub async fn aborted(&self) {
        self.connection().aborted().await;
    }

    /// Ends the stream. The client will reconnect.
    ///
    /// # Errors
    ///
    /// [`Code::ConnectionClosed`] if the client has closed the connection.
    pub async fn finish(self) -> Result<(), TrackerError> {
        self.0.finish().await
    }
}
