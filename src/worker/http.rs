//! Owns the HTTP connections of a worker: a task each, on the runtime's ring.
//!
//! The bytes of a connection are read into one small buffer; every whole request in it is answered, the answers
//! collected and written at once. A reply buffer is held only while there are answers in it.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::{IpAddr, Shutdown};
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

use super::Shared;
use super::connections::{Admission, Phase};
use crate::counters::{Counter, Kind};
use crate::engine::route::Route;
use crate::engine::{Answer, Engine, HttpAnnounce, HttpScrape, Outcome, Ticket};
use crate::limits::{
    HTTP_ACCEPT_PAUSE_MS, HTTP_HEAD_MAX_BYTES, HTTP_LINGER_BYTES, HTTP_POOLED_BUFFER_BYTES,
    HTTP_POOLED_BUFFERS, HTTP_READ_BYTES, HTTP_WRITE_BATCH_BYTES,
};
use crate::mesh::Mesh;
use crate::time::Timestamp;
use crate::types::Family;
use crate::wire::bencode::put_failure;
use crate::wire::http::{
    Method, Persistence, Request, ResponseWriter, Status, can_start_request, head_end, leading_empty_lines,
    put_status,
};
use crate::wire::query::{AnnounceQuery, QueryError, ScrapeQuery};

/// Takes connections in until the worker stops.
pub(super) async fn accept(shared: Rc<Shared>, listener: TcpListener) {
    loop {
        shared.unsubmitted.set(true);
        match listener.accept().await {
            Ok((stream, peer)) => {
                let stream = Rc::new(stream);
                let admission = shared.connections.borrow_mut().open(shared.clock.now(), &stream);
                if admission.is_none_or(|admission| admission.refused) {
                    shared.engine.borrow_mut().counters.bump(Counter::DropConnections);
                }
                if let Some(admission) = admission {
                    tokio_uring::spawn(serve(shared.clone(), stream, peer.ip().to_canonical(), admission));
                }
            }
            Err(_) if shared.stopping.get() => return,
            Err(_) => {
                shared.engine.borrow_mut().counters.bump(Counter::DropAccept);
                tokio::time::sleep(Duration::from_millis(HTTP_ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve(shared: Rc<Shared>, stream: Rc<TcpStream>, ip: IpAddr, admission: Admission) {
    let mut connection = Connection {
        input: Vec::with_capacity(HTTP_READ_BYTES),
        searched: 0,
        skip_bytes: 0,
        stream: &stream,
        shared: &shared,
        ip,
        key: admission.key,
        now: Cell::new(shared.clock.now()),
    };
    match admission.refused {
        false => connection.run().await,
        true => connection.turn_away(Status::Unavailable).await,
    }
    shared.connections.borrow_mut().close(admission.key);
}

/// What comes after the answers that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// More requests.
    Read,
    /// The end, as both sides wanted.
    Close,
    /// The end, after an error: the client may still be sending.
    Linger,
}

struct Connection<'a> {
    /// What has come and is not answered yet.
    input: Vec<u8>,
    /// So much of it holds no end of a head.
    searched: usize,
    /// So much of what comes is the body of a request that is answered already.
    skip_bytes: u64,
    stream: &'a TcpStream,
    shared: &'a Shared,
    ip: IpAddr,
    key: usize,
    /// The time, read anew after each wait for the client.
    now: Cell<Timestamp>,
}

impl Connection<'_> {
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

    /// Waits for more input. False: there will be none.
    async fn read(&mut self) -> bool {
        let idle = self.input.is_empty() && self.skip_bytes == 0;
        if idle && self.shared.stopping.get() {
            return false;
        }
        if idle && self.input.capacity() > HTTP_READ_BYTES {
            self.input = Vec::with_capacity(HTTP_READ_BYTES);
        }
        if self.input.len() == self.input.capacity() {
            let more = self.input.capacity().min(HTTP_HEAD_MAX_BYTES - self.input.len());
            self.input.reserve_exact(more);
        }
        self.enter(if idle { Phase::Idle } else { Phase::Request });
        let input = std::mem::take(&mut self.input);
        let filled = input.len();
        self.shared.unsubmitted.set(true);
        let (result, input) = self.stream.read(input.slice(filled..)).await;
        self.input = input.into_inner();
        self.now.set(self.shared.clock.now());
        let late = self.shared.connections.borrow().is_late(self.key);
        match result {
            Ok(_) if late && !idle => {
                self.turn_away(Status::RequestTimeout).await;
                false
            }
            Ok(bytes) => bytes > 0 && !late,
            Err(_) => false,
        }
    }

    /// Ends the connection with no more than a status.
    async fn turn_away(&mut self, status: Status) {
        let mut out = self.shared.take_buffer();
        self.refuse(&mut out, status);
        let (written, out) = self.write(out).await;
        self.shared.give_buffer(out);
        if written {
            self.linger().await;
        }
    }

    /// Answers the whole requests of the input, until there is no more of them or the batch is full.
    async fn answer(&mut self, out: &mut Vec<u8>) -> Next {
        let mut from = 0;
        let next = loop {
            let skipped = self.skip_bytes.min((self.input.len() - from) as u64);
            self.skip_bytes -= skipped;
            from += skipped as usize;
            from += leading_empty_lines(&self.input[from..]);
            let input = &self.input[from..];
            if input.is_empty() || out.len() >= HTTP_WRITE_BATCH_BYTES {
                self.searched = 0;
                break Next::Read;
            }
            if !can_start_request(input[0]) {
                self.refuse(out, Status::BadRequest);
                break Next::Linger;
            }
            let Some(length) = head_end(input, self.searched) else {
                self.searched = input.len();
                if input.len() >= HTTP_HEAD_MAX_BYTES {
                    self.refuse(out, Status::HeadTooLarge);
                    break Next::Linger;
                }
                break Next::Read;
            };
            self.searched = 0;
            let request = match Request::parse(&input[..length]) {
                Ok(request) => request,
                Err(status) => {
                    self.refuse(out, status);
                    break Next::Linger;
                }
            };
            let keep_alive = request.keep_alive && !self.shared.stopping.get();
            let persistence = match (keep_alive, request.http_10) {
                (true, false) => Persistence::KeepAlive,
                (true, true) => Persistence::KeepAlive10,
                (false, _) => Persistence::Close,
            };
            self.respond(&request, persistence, out).await;
            self.skip_bytes = request.body_bytes;
            from += length;
            if !keep_alive {
                let unread = self.input.len() > from || self.skip_bytes > 0;
                break if unread { Next::Linger } else { Next::Close };
            }
        };
        self.input.drain(..from);
        next
    }

    /// Answers one request, at the end of `out`.
    async fn respond(&self, request: &Request<'_>, persistence: Persistence, out: &mut Vec<u8>) {
        self.count(Counter::of(Kind::HttpReply, Family::of(self.ip)));
        let head_only = request.method == Method::Head;
        let start = out.len();
        let response = ResponseWriter::start(out, Status::Ok, persistence, head_only);
        let answered = match (request.method, Route::of(request.path)) {
            (_, Route::NotFound) => Err(Status::NotFound),
            (Method::Other, _) => Err(Status::MethodNotAllowed),
            (_, Route::Announce { passkey }) => self.announce(passkey, request.query, out).await,
            (_, Route::Scrape { passkey }) => self.scrape(passkey, request.query, out).await,
            (_, Route::Health) => {
                self.count(Counter::HttpOther);
                out.extend_from_slice(b"ok\n");
                Ok(())
            }
        };
        match answered {
            Ok(()) => response.finish(out),
            Err(status) => {
                if status != Status::Unavailable {
                    self.count(Counter::HttpOther);
                    self.count(Counter::BadHttp);
                }
                out.truncate(start);
                put_status(out, status, persistence, head_only);
            }
        }
    }

    async fn announce(&self, passkey: Option<&str>, query: &str, out: &mut Vec<u8>) -> Result<(), Status> {
        let query = match AnnounceQuery::parse(query.as_bytes()) {
            Ok(query) => query,
            Err(error) => {
                self.fail(error, out);
                return Ok(());
            }
        };
        let request = HttpAnnounce { ip: self.ip, passkey, query };
        match self.ask(|engine, now, mesh| engine.http_announce(now, &request, mesh)).await? {
            Answer::Announced { counts, peers } => {
                self.shared.engine.borrow_mut().write_announced(out, &request, counts, peers);
            }
            Answer::Scraped(_) => unreachable!("an announce is not answered by a scrape"),
        }
        Ok(())
    }

    async fn scrape(&self, passkey: Option<&str>, query: &str, out: &mut Vec<u8>) -> Result<(), Status> {
        // Boxed: it is large and lives while the task waits, and every connection's task has room for it.
        let request = match ScrapeQuery::parse(query.as_bytes()) {
            Ok(query) => Box::new(HttpScrape { ip: self.ip, passkey, query }),
            Err(error) => {
                self.fail(error, out);
                return Ok(());
            }
        };
        match self.ask(|engine, now, mesh| engine.http_scrape(now, &request, mesh)).await? {
            Answer::Scraped(counts) => self.shared.engine.borrow_mut().write_scraped(out, &request, counts),
            Answer::Announced { .. } => unreachable!("a scrape is not answered by an announce"),
        }
        Ok(())
    }

    /// Asks the engine, and waits if it had to ask other workers.
    async fn ask(
        &self,
        ask: impl FnOnce(&mut Engine, Timestamp, &mut Mesh) -> Outcome,
    ) -> Result<Answer, Status> {
        let outcome = {
            let mesh = &mut *self.shared.mesh.borrow_mut();
            let outcome = ask(&mut self.shared.engine.borrow_mut(), self.now.get(), mesh);
            mesh.flush();
            outcome
        };
        let ticket = match outcome {
            Outcome::Ready(answer) => return Ok(answer),
            Outcome::Busy => return Err(Status::Unavailable),
            Outcome::Waiting(ticket) => ticket,
        };
        self.enter(Phase::Answer);
        let _waiting = Waiting { shared: self.shared, ticket };
        let answer = poll_fn(|context| self.shared.engine.borrow_mut().poll(ticket, context)).await;
        answer.ok_or(Status::Unavailable)
    }

    /// Tells what is wrong with a query, in the tracker's own words.
    fn fail(&self, error: QueryError, out: &mut Vec<u8>) {
        self.count(Counter::BadQuery);
        self.count(Counter::Refused);
        put_failure(out, &error.to_string());
    }

    /// Answers what can't be read as a request; after that the connection is of no use. Without a body: it may have
    /// been a HEAD.
    fn refuse(&self, out: &mut Vec<u8>, status: Status) {
        self.count(Counter::of(Kind::HttpReply, Family::of(self.ip)));
        if status != Status::Unavailable {
            self.count(Counter::BadHttp);
        }
        ResponseWriter::start(out, status, Persistence::Close, false).finish(out);
    }

    /// Writes the answers. False: the client doesn't take them. Gives the buffer back, empty.
    async fn write(&self, out: Vec<u8>) -> (bool, Vec<u8>) {
        self.enter(Phase::Write);
        self.shared.unsubmitted.set(true);
        let (result, mut out) = self.stream.write_all(out).await;
        self.now.set(self.shared.clock.now());
        out.clear();
        (result.is_ok(), out)
    }

    /// Reads over what the client still sends, for a while: closed at once, the connection would be reset, and the
    /// client might never see why.
    async fn linger(&mut self) {
        self.enter(Phase::Linger);
        let mut left = HTTP_LINGER_BYTES;
        let mut scratch = std::mem::take(&mut self.input);
        scratch.clear();
        scratch.reserve(HTTP_READ_BYTES);
        if self.stream.shutdown(Shutdown::Write).is_err() {
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

    fn enter(&self, phase: Phase) {
        self.shared.connections.borrow_mut().enter(self.now.get(), self.key, phase);
    }

    fn count(&self, counter: Counter) {
        self.shared.engine.borrow_mut().counters.bump(counter);
    }
}

/// A wait that is given up when the task that waits goes.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.engine.borrow_mut().abandon(self.ticket);
    }
}

impl Shared {
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
