//! Owns the HTTP connections of a worker, a task each on the runtime's ring: bytes are read, requests found in them,
//! responses written. What a request is answered with is decided in `answer`.
//!
//! The bytes of a connection are read into one small buffer. Every whole request in it is answered; the responses are
//! collected and written at once. A reply buffer is held only while there are responses in it.

use std::cell::Cell;
use std::net::{IpAddr, Shutdown};
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use super::answer::{Exchange, Responded};
use super::client::Peer;
use super::connections::{Admission, Fate, Phase};
use super::stream::{Reading, Stream};
use super::{App, PanicGuard, Shared};
use crate::counters::{Counter, Kind};
use crate::engine::middleware::Middleware;
use crate::limits::{
    HTTP_ACCEPT_PAUSE_MS, HTTP_HEAD_MAX_BYTES, HTTP_LINGER_BYTES, HTTP_POOLED_BUFFER_BYTES,
    HTTP_POOLED_BUFFERS, HTTP_READ_BYTES, HTTP_ROOM_PAUSE_MS, HTTP_WRITE_BATCH_BYTES,
};
use crate::sys::Acceptor;
use crate::throttle::Limited;
use crate::time::Timestamp;
use crate::types::Family;
use crate::wire::http::{FieldBuffer, Persistence, RequestReader, ResponseWriter, Status};
use crate::wire::proxy::{self, Start};

/// Accepts connections until it is dropped.
pub(super) async fn accept<M: Middleware>(app: Rc<App<M>>, acceptor: Acceptor, number: usize) {
    let shared = app.shared.clone();
    loop {
        while shared.connections.borrow().is_making_room() {
            tokio::time::sleep(Duration::from_millis(HTTP_ROOM_PAUSE_MS)).await;
        }
        match acceptor.accept().await {
            Ok((stream, peer)) => {
                let peer = Peer { ip: peer.ip().to_canonical(), is_https: false, listener: number };
                let now = shared.clock.now();
                let limited = !peer.is_trusted(&app.trusted_proxies.borrow())
                    && !shared.permits(now, peer.ip, Limited::HttpConnection);
                if limited {
                    continue; // it is closed
                }
                let stream = Rc::new(TcpStream::from_std(stream));
                let admission = shared.connections.borrow_mut().open(now, &stream);
                if admission.is_none_or(|admission| admission.refused) {
                    shared.engine.borrow_mut().counters.bump(Counter::DropConnections);
                }
                if let Some(admission) = admission {
                    tokio_uring::spawn(serve(app.clone(), stream, peer, admission));
                }
            }
            Err(_) => {
                shared.engine.borrow_mut().counters.bump(Counter::DropAccept);
                tokio::time::sleep(Duration::from_millis(HTTP_ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve<M: Middleware>(app: Rc<App<M>>, stream: Rc<TcpStream>, peer: Peer, admission: Admission) {
    let shared = &app.shared;
    let _guard = PanicGuard(shared.clone());
    let mut connection = Connection {
        input: Vec::with_capacity(HTTP_READ_BYTES),
        reader: RequestReader::default(),
        reading: Cell::new(None),
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
    if connection.reading.take().is_some() {
        let _ = stream.shutdown(Shutdown::Both); // or the read would hold the socket open
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
    /// A read in flight, left by a request that took the connection over.
    reading: Cell<Option<Reading>>,
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
            let mut out = self.shared.take_buffer();
            let next = loop {
                let next = self.answer(&mut out).await;
                if out.is_empty() {
                    break next;
                }
                let full = out.len() >= HTTP_WRITE_BATCH_BYTES; // then there may be more requests in the input
                let (written, buffer) = self.write(out).await;
                out = buffer;
                if !written {
                    break Next::Close;
                }
                if next != Next::Read || !full {
                    break next;
                }
            };
            self.shared.give_buffer(out);
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
        if idle && self.shared.stopping.get() {
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
        if idle && self.input.capacity() > HTTP_READ_BYTES {
            self.input = Vec::with_capacity(HTTP_READ_BYTES);
        }
        if self.input.len() == self.input.capacity() {
            let more = self.input.capacity().max(HTTP_READ_BYTES);
            self.input.reserve_exact(more.min(HTTP_HEAD_MAX_BYTES - self.input.len()));
        }
        self.enter(if idle { Phase::Idle } else { Phase::Request });
        let result = match self.reading.take() {
            Some(reading) => {
                let (result, bytes) = reading.await;
                self.input.extend_from_slice(&bytes);
                result
            }
            None => {
                let input = std::mem::take(&mut self.input);
                let filled = input.len();
                self.shared.unsubmitted.set(true);
                let (result, input) = self.stream.read(input.slice(filled..)).await;
                self.input = input.into_inner();
                result
            }
        };
        self.now.set(self.shared.clock.now());
        // Bytes that came in time count, whatever happens to the connection after that.
        match result {
            Ok(0) if !idle && self.fate() == Fate::IsLate => {
                self.end_with(Status::RequestTimeout).await;
                false
            }
            result => result.is_ok_and(|bytes| bytes > 0),
        }
    }

    /// Returns what happens to the connection.
    fn fate(&self) -> Fate {
        self.shared.connections.borrow().fate(self.key)
    }

    /// Ends the connection with a bare status.
    async fn end_with(&mut self, status: Status) {
        let mut out = self.shared.take_buffer();
        self.refuse(&mut out, status);
        let (written, out) = self.write(out).await;
        self.shared.give_buffer(out);
        if written {
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
        Stream::new(self.shared, self.stream, self.key, self.peer.ip, rest, self.reading.take())
    }

    /// Takes the connection back, with the bytes that have come meanwhile.
    pub(super) fn take_back(&self, stream: &Stream) {
        let (input, reading) = stream.give_back();
        self.left.set(Some(input));
        self.reading.set(reading);
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

    /// Writes the responses collected so far. False: the write failed.
    pub(super) async fn flush(&self, out: &mut Vec<u8>) -> bool {
        if out.is_empty() {
            return true;
        }
        let (written, buffer) = self.write(std::mem::take(out)).await;
        *out = buffer;
        written
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

    /// Writes the responses. False: the write failed. Returns the buffer, empty.
    async fn write(&self, out: Vec<u8>) -> (bool, Vec<u8>) {
        self.enter(Phase::Write);
        self.shared.unsubmitted.set(true);
        let (result, mut out) = self.stream.write_all(out).await;
        self.now.set(self.shared.clock.now());
        out.clear();
        (result.is_ok(), out)
    }

    /// Discards what the client still sends, for a while. A connection that is closed at once would be reset, and the
    /// client might never see the response.
    async fn linger(&mut self) {
        self.enter(Phase::Linger);
        let mut left = HTTP_LINGER_BYTES;
        let mut scratch = std::mem::take(&mut self.input);
        scratch.clear();
        scratch.reserve(HTTP_READ_BYTES);
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        if let Some(reading) = self.reading.take()
            && !matches!(reading.await.0, Ok(1..))
        {
            return;
        }
        while left > 0 && !self.shared.stopping.get() {
            self.shared.unsubmitted.set(true);
            let (result, buffer) = self.stream.read(scratch).await;
            scratch = buffer;
            scratch.clear();
            match result {
                Ok(bytes) if bytes > 0 => left = left.saturating_sub(bytes),
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

    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(HTTP_READ_BYTES))
    }

    fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < HTTP_POOLED_BUFFERS && buffer.capacity() <= HTTP_POOLED_BUFFER_BYTES {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}
