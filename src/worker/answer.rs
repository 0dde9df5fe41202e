//! Owns the answers to announces and scrapes by HTTP: what is read of the query, what the middleware says, what the
//! swarm says, perhaps that of another worker.

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;

use super::connections::Phase;
use super::http::Connection;
use super::waiting::Place;
use crate::counters::{Counter, Kind};
use crate::engine::context::{AnnounceRequest, RequestContext, ScrapeRequest, Terms};
use crate::engine::middleware::Middleware;
use crate::engine::task::{self, Swarms};
use crate::engine::{Answer, Engine, Outcome, Source, Verdict};
use crate::limits::WAIT_DEADLINE_MS;
use crate::mesh::Mesh;
use crate::time::Timestamp;
use crate::types::Family;
use crate::wire::bencode::put_failure;
use crate::wire::http::{Request, Status};
use crate::wire::query::{AnnounceQuery, QueryError, ScrapeQuery};

/// How a request was answered.
pub(super) enum Answered {
    /// 200, the body at the end of the output.
    Inline,
    /// With this; the output has nothing of it.
    Apart { status: StatusCode, body: Vec<u8> },
}

/// A request to the tracker.
pub(super) struct Asked<'a, M> {
    pub(super) connection: &'a Connection<'a, M>,
    pub(super) request: &'a Request<'a>,
    /// The client's address.
    pub(super) ip: IpAddr,
    /// What follows the head in the input.
    pub(super) rest: &'a [u8],
}

impl<M: Middleware> Asked<'_, M> {
    /// Answers an announce. What is before `start` of the output are other answers.
    pub(super) async fn announce(&self, out: &mut Vec<u8>, start: usize) -> Result<Answered, Status> {
        let ip = self.ip;
        self.connection.count(Counter::of(Kind::HttpAnnounce, Family::of(ip)));
        let query = match AnnounceQuery::parse(self.request.query.as_bytes()) {
            Ok(query) => query,
            Err(error) => return Ok(self.fail(error, out)),
        };
        if self.denies(ip, Some(&query), out) {
            return Ok(Answered::Inline);
        }
        if M::IS_NONE {
            return self.announced(ip, &query, &Terms::default(), out).await;
        }
        let request = AnnounceRequest::http(ip, self.request.url, query);
        match self.mediate(RequestContext::Announce(request), out, start).await? {
            Mediated::Answered(answered) => Ok(answered),
            Mediated::Passed(RequestContext::Announce(request)) => {
                self.announced(request.ip, &request.query, &request.terms, out).await
            }
            Mediated::Passed(_) => unreachable!("an announce stays one"),
        }
    }

    /// Answers a scrape. What is before `start` of the output are other answers.
    pub(super) async fn scrape(&self, out: &mut Vec<u8>, start: usize) -> Result<Answered, Status> {
        let ip = self.ip;
        self.connection.count(Counter::of(Kind::HttpScrape, Family::of(ip)));
        // Boxed: it is large and lives while the task waits, and every connection's task has room for it.
        let query = match ScrapeQuery::parse(self.request.query.as_bytes()) {
            Ok(query) => Box::new(query),
            Err(error) => return Ok(self.fail(error, out)),
        };
        if self.denies(ip, None, out) {
            return Ok(Answered::Inline);
        }
        if M::IS_NONE {
            return self.scraped(&query, out).await;
        }
        let request = ScrapeRequest::http(ip, self.request.url, query);
        match self.mediate(RequestContext::Scrape(request), out, start).await? {
            Mediated::Answered(answered) => Ok(answered),
            Mediated::Passed(RequestContext::Scrape(request)) => self.scraped(&request.query, out).await,
            Mediated::Passed(_) => unreachable!("a scrape stays one"),
        }
    }

    async fn announced(
        &self,
        ip: IpAddr,
        query: &AnnounceQuery,
        terms: &Terms,
        out: &mut Vec<u8>,
    ) -> Result<Answered, Status> {
        let ask =
            |engine: &mut Engine, now, mesh: &mut Mesh| engine.announce(now, ip, query, Source::Http, mesh);
        match self.ask(ask).await? {
            Answer::Announced { counts, peers } => {
                let engine = &mut *self.connection.shared.engine.borrow_mut();
                engine.write_announced(out, ip, query, terms, counts, peers);
            }
            Answer::Scraped(_) => unreachable!("an announce is not answered by a scrape"),
        }
        Ok(Answered::Inline)
    }

    async fn scraped(&self, query: &ScrapeQuery, out: &mut Vec<u8>) -> Result<Answered, Status> {
        match self.ask(|engine, now, mesh| engine.scrape(now, query, mesh)).await? {
            Answer::Scraped(counts) => {
                self.connection.shared.engine.borrow_mut().write_scraped(out, query, counts);
            }
            Answer::Announced { .. } => unreachable!("a scrape is not answered by an announce"),
        }
        Ok(Answered::Inline)
    }

    /// Asks the engine, and waits if it had to ask other workers.
    async fn ask(
        &self,
        ask: impl FnOnce(&mut Engine, Timestamp, &mut Mesh) -> Outcome,
    ) -> Result<Answer, Status> {
        let shared = self.connection.shared;
        match task::ask(&**shared, self.connection.now.get(), ask) {
            Outcome::Ready(answer) => Ok(answer),
            Outcome::Busy => Err(Status::Unavailable),
            Outcome::Waiting(ticket) => {
                self.connection.enter(Phase::Answer);
                task::answer(&**shared, ticket).await.ok_or(Status::Unavailable)
            }
        }
    }

    /// Shows a request to the middleware, and waits if that has to.
    async fn mediate<'r>(
        &self,
        mut request: RequestContext<'r>,
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<Mediated<'r>, Status> {
        let shared = self.connection.shared;
        let verdict = self.connection.app.gate.borrow().ask(&mut request);
        match verdict {
            Verdict::Pass => Ok(Mediated::Passed(request)),
            Verdict::Concluded(result) => {
                let mut body = Vec::new();
                let status = shared.engine.borrow_mut().conclude_http(&mut request, result, &mut body);
                Ok(Mediated::Answered(Answered::Apart { status, body }))
            }
            Verdict::Wait(passed) => {
                out.truncate(start);
                Box::pin(self.wait(request.into_owned(), passed, out)).await.map(Mediated::Answered)
            }
        }
    }

    /// Lets the middleware wait, and looks after the client meanwhile.
    async fn wait(
        &self,
        mut request: RequestContext<'static>,
        passed: usize,
        out: &mut Vec<u8>,
    ) -> Result<Answered, Status> {
        let (connection, app) = (self.connection, self.connection.app);
        let Some(_place) = Place::take(app) else { return Err(Status::Unavailable) };
        if !connection.flush(out).await {
            return Err(Status::Unavailable); // nobody reads it
        }
        let stream = connection.stream(self.rest);
        request.watch(stream.aborted().clone());
        let middleware = app.gate.borrow().middleware();
        let swarms = Swarms(&**connection.shared);
        let deadline = Duration::from_millis(WAIT_DEADLINE_MS);
        let running = tokio::time::timeout(deadline, middleware.run(Some(passed), &mut request, &swarms));
        let ended = stream.attend(running).await;
        connection.take_back(&stream);
        let Some(Ok(result)) = ended else {
            connection.count(Counter::DropWaitLate);
            return Err(Status::Unavailable);
        };
        let mut body = Vec::new();
        let status = connection.shared.engine.borrow_mut().conclude_http(&mut request, result, &mut body);
        Ok(Answered::Apart { status, body })
    }

    /// Denies a request, an announce among them, if the lists say so.
    fn denies(&self, ip: IpAddr, announce: Option<&AnnounceQuery>, out: &mut Vec<u8>) -> bool {
        let engine = &mut *self.connection.shared.engine.borrow_mut();
        engine.deny_http(self.connection.now.get(), ip, announce, out)
    }

    /// Tells what is wrong with a query, in the tracker's own words.
    fn fail(&self, error: QueryError, out: &mut Vec<u8>) -> Answered {
        self.connection.count(Counter::BadQuery);
        self.connection.count(Counter::Refused);
        put_failure(out, &error.to_string(), true);
        Answered::Inline
    }
}

/// What the middleware came to.
#[allow(clippy::large_enum_variant, reason = "it is handed up the stack once")]
enum Mediated<'a> {
    /// The swarm is to be asked.
    Passed(RequestContext<'a>),
    Answered(Answered),
}
