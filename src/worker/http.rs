//! Owns the HTTP connections of a worker, a task each: bytes are read, requests found in them, responses written. What
//! a request is answered with is decided in `answer`.
//!
//! Bytes come from the worker's ring in a buffer, which is given back once the requests in it are answered. Every whole
//! request in it is answered; the responses are collected and written at once. A connection that waits for a request
//! holds no buffer.

use std::cell::Cell;
use std::net::{IpAddr, Shutdown};
use std::rc::Rc;

use super::answer::{Exchange, Responded};
use super::client::Peer;
use super::connections::{Admission, Fate, Phase};
use super::stream::Stream;
use super::{App, PanicGuard, Shared};
use crate::counters::{Counter, Kind};
use crate::engine::middleware::Middleware;
use crate::limits::{HTTP_LINGER_BYTES, HTTP_WRITE_BATCH_BYTES};
use crate::ring::{Event, TcpStream};
use crate::throttle::Limited;
use crate::time::Timestamp;
use crate::types::Family;
use crate::wire::http::{FieldBuffer, Persistence, RequestReader, ResponseWriter, Status};
use crate::wire::proxy::{self, Start};

/// Serves one connection to its end.
pub(super) async fn serve<M: Middleware>(
    app: Rc<App<M>>,
    stream: Rc<TcpStream>,
    peer: Peer,
    admission: Admission,
) {
    let shared = &app.shared;
    let _guard = PanicGuard(shared.clone());
    let mut connection = Connection {
        input: Vec::new(),
        reader: RequestReader::default(),
        left: Cell::new(None),
        stream: &stream,
        app: &app,
        shared,
        peer,
        begun: false,
        key: admission.key,
        now: Cell::new(shared.clock.now()),
    };
    match admission.refused {
        false => connection.run().await,
        true => connection.end_with(Status::Unavailable).await,
    }
    shared.connections.borrow_mut().close(admission.key);
}

/// What follows the responses that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// More requests.
    Read,
    /// The connection is closed, as both sides want.
    Close,
    /// The connection is closed after an error; the client may still be sending.
    Linger,
}

/// An open connection.
pub(super) struct Connection<'a, M> {
    /// Bytes that have come and are not done with.
    input: Vec<u8>,
    reader: RequestReader,
    /// The input, left by a request that took it over, with what has come meanwhile.
    left: Cell<Option<Vec<u8>>>,
    stream: &'a Rc<TcpStream>,
    pub(super) app: &'a Rc<App<M>>,
    pub(super) shared: &'a Rc<Shared>,
    pub(super) peer: Peer,
    /// Bytes have come, and a header of the PROXY protocol, if there was one, is done with.
    begun: bool,
    key: usize,
    /// The time, read anew after each wait for the client.
    pub(super) now: Cell<Timestamp>,
}

impl<M: Middleware> Connection<'_, M> {
    async fn run(&mut self) {
        loop {
            if !self.read().await {
                return;
            }
            let next = loop {
                let mut out = self.shared.streams.take_buffer();
                let next = self.answer(&mut out).await;
                if out.is_empty() {
                    self.shared.streams.give_buffer(out);
                    break next;
                }
                if next == Next::Close {
                    return self.write_last(out).await;
                }
                let full = out.len() >= HTTP_WRITE_BATCH_BYTES; // then there may be more requests in the input
                if !self.write(out).await {
                    return;
                }
                if next != Next::Read || !full {
                    break next;
                }
            };
            match next {
                Next::Read => {}
                Next::Close => return,
                Next::Linger => return self.linger().await,
            }
        }
    }

    /// Waits for more input. False: no more will come.
    async fn read(&mut self) -> bool {
        let idle = self.input.is_empty() && !self.reader.is_skipping();
        // A connection that was accepted at the very end still gets its response.
        if idle && self.begun && self.shared.stopping.get() {
            return false;
        }
        match self.fate() {
            Fate::Stays => {}
            Fate::IsLate if !idle => {
                self.end_with(Status::RequestTimeout).await;
                return false;
            }
            _ => return false,
        }
        if self.input.is_empty() {
            self.shared.streams.give_buffer(std::mem::take(&mut self.input));
        }
        let waits = if idle { Phase::Idle } else { Phase::Request };
        self.enter(waits);
        let received = loop {
            match self.stream.next().await {
                Event::Received(received) => break received,
                Event::Blocked if self.written().await => self.enter(waits),
                Event::Blocked => return false,
            }
        };
        self.now.set(self.shared.clock.now());
        // Bytes that came in time count, whatever happens to the connection after that.
        match received {
            Ok(bytes) if !bytes.is_empty() => {
                if self.input.is_empty() {
                    self.input = bytes;
                } else {
                    self.input.extend_from_slice(&bytes);
                    self.shared.streams.give_buffer(bytes);
                }
                true
            }
            Ok(_) if !idle && self.fate() == Fate::IsLate => {
                self.end_with(Status::RequestTimeout).await;
                false
            }
            _ => false,
        }
    }

    /// Returns what happens to the connection.
    fn fate(&self) -> Fate {
        self.shared.connections.borrow().fate(self.key)
    }

    /// Ends the connection with a bare status.
    async fn end_with(&mut self, status: Status) {
        let mut out = self.shared.streams.take_buffer();
        self.refuse(&mut out, status);
        if self.write(out).await {
            self.linger().await;
        }
    }

    /// Answers the whole requests of the input until there are no more or the batch is full.
    async fn answer(&mut self, out: &mut Vec<u8>) -> Next {
        if !self.begun {
            match self.begin() {
                Ok(true) => {}
                Ok(false) => return Next::Read,
                Err(status) => {
                    self.refuse(out, status);
                    return Next::Linger;
                }
            }
        }
        let mut from = 0;
        let next = loop {
            if out.len() >= HTTP_WRITE_BATCH_BYTES {
                break Next::Read;
            }
            let mut exchange = match self.next_request(&mut from) {
                Ok(Some(exchange)) => exchange,
                Ok(None) => break Next::Read,
                Err(status) => {
                    self.refuse(out, status);
                    break Next::Linger;
                }
            };
            let responded = exchange.answer(out).await;
            let left = self.left.take();
            let took_over = left.is_some();
            if let Some(left) = left {
                (self.input, from) = (left, 0);
            }
            match responded {
                Ok(Responded { keep_alive, skip_bytes }) => {
                    self.reader.skip(skip_bytes);
                    if !keep_alive {
                        let unread = self.input.len() > from || skip_bytes > 0;
                        break if took_over || unread { Next::Linger } else { Next::Close };
                    }
                }
                Err(status) => {
                    self.refuse(out, status);
                    break Next::Linger;
                }
            }
        };
        self.input.drain(..from);
        next
    }

    /// Takes the next whole request of the input. `from`: number of the input's bytes that are done with.
    ///
    /// Not async, since the field buffer is large: a task has room for everything that lives while it waits.
    fn next_request(&mut self, from: &mut usize) -> Result<Option<Exchange<'_, M>>, Status> {
        let mut buffer = FieldBuffer::new();
        let progress = self.reader.read(&self.input[*from..], &mut buffer)?;
        *from += progress.taken;
        Ok(progress.head.map(|head| Exchange::new(self, &head, &self.input[*from..])))
    }

    /// Hands the connection over to a handler or middleware, with the bytes that follow the request's head.
    pub(super) fn stream(&self, rest: &[u8]) -> Rc<Stream> {
        Stream::new(self.shared, self.stream, self.key, self.peer.ip, rest)
    }

    /// Takes the connection back, with the bytes that have come meanwhile.
    pub(super) fn take_back(&self, stream: &Stream) {
        self.left.set(Some(stream.give_back()));
        self.now.set(self.shared.clock.now());
    }

    /// Takes the header of the PROXY protocol that a trusted proxy may send first. False: not all of it has come.
    fn begin(&mut self) -> Result<bool, Status> {
        if self.peer.is_trusted(&self.app.trusted_proxies.borrow()) {
            match proxy::read(&self.input) {
                Start::Plain => {}
                Start::Partial => return Ok(false),
                Start::Malformed => return Err(Status::BadRequest),
                Start::Header(header) => {
                    self.input.drain(..header.bytes);
                    self.peer.ip = header.client.unwrap_or(self.peer.ip);
                    self.peer.is_https = header.is_tls;
                }
            }
        }
        self.begun = true;
        Ok(true)
    }

    /// Writes the responses collected so far, and waits until the kernel has taken all that were ever written. False: a
    /// write failed.
    pub(super) async fn flush(&self, out: &mut Vec<u8>) -> bool {
        if !out.is_empty() {
            let all = std::mem::replace(out, self.shared.streams.take_buffer());
            if !self.write(all).await {
                return false;
            }
        }
        self.written().await
    }

    /// Adds the response to bytes that are not a valid request; the connection can't be used after it. It has no body,
    /// since the request may have been a HEAD.
    fn refuse(&self, out: &mut Vec<u8>, status: Status) {
        self.count(Counter::of(Kind::HttpReply, Family::of(self.peer.ip)));
        if status != Status::Unavailable {
            self.count(Counter::BadHttp);
        }
        ResponseWriter::start(out, status, Persistence::Close, false).finish(out);
    }

    /// Writes the responses, once the ones before are written. False: those were not. Whether these are is known when
    /// the connection [reads](Self::read) or [writes](Self::written) next.
    async fn write(&self, out: Vec<u8>) -> bool {
        let written = self.written().await;
        if written {
            self.enter(Phase::Write);
            self.stream.send(out);
        }
        written
    }

    /// Writes the responses, closes the connection, and waits until that is done.
    async fn write_last(&self, out: Vec<u8>) {
        if self.written().await {
            self.enter(Phase::Write);
            self.stream.send_last(out);
            self.written().await;
        }
    }

    /// Waits until all responses are written. False: a write failed.
    async fn written(&self) -> bool {
        if !self.stream.is_sending() {
            return true;
        }
        self.enter(Phase::Write);
        let (result, buffer) = self.stream.sent().await;
        self.shared.streams.give_buffer(buffer);
        self.now.set(self.shared.clock.now());
        result.is_ok()
    }

    /// Discards what the client still sends, for a while. A connection that is closed at once would be reset, and the
    /// client might never see the response.
    async fn linger(&mut self) {
        if !self.written().await {
            return;
        }
        self.enter(Phase::Linger);
        self.stream.shutdown(Shutdown::Write);
        let mut left = HTTP_LINGER_BYTES;
        while left > 0 && !self.shared.stopping.get() {
            match self.stream.next().await {
                Event::Received(Ok(bytes)) if !bytes.is_empty() => {
                    left = left.saturating_sub(bytes.len());
                    self.shared.streams.give_buffer(bytes);
                }
                _ => return,
            }
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.shared.connections.borrow_mut().enter(self.now.get(), self.key, phase);
    }

    pub(super) fn count(&self, counter: Counter) {
        self.shared.engine.borrow_mut().counters.bump(counter);
    }
}

impl Shared {
    pub(super) fn permits(&self, now: Timestamp, ip: IpAddr, limited: Limited) -> bool {
        self.engine.borrow_mut().is_within_rate(now, ip, limited)
    }
}
