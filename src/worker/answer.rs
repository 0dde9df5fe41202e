//! Owns what a request by HTTP is answered with: a page of the site or the tracker's own response, to which the query,
//! the lists, the middleware and the swarm, perhaps that of another worker, contribute. The connection is in `http`.

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;

use super::PanicGuard;
use super::client::Client;
use super::connections::Phase;
use super::http::Connection;
use super::waiting::WaitSlot;
use crate::counters::{Counter, Kind};
use crate::engine::context::{AnnounceRequest, RequestContext, ScrapeRequest, Terms};
use crate::engine::middleware::Middleware;
use crate::engine::route::Route;
use crate::engine::task::{self, Swarms};
use crate::engine::{Answer, Engine, Outcome, Source, Verdict};
use crate::limits::WAIT_DEADLINE_MS;
use crate::mesh::Mesh;
use crate::throttle::Limited;
use crate::time::Timestamp;
use crate::types::Family;
use crate::web::{RequestHead, SiteRequest};
use crate::wire::bencode::put_failure;
use crate::wire::http::{Head, Method, Persistence, Request, ResponseWriter, Status, put_status};
use crate::wire::query::{AnnounceQuery, QueryError, ScrapeQuery};

/// What became of a request.
pub(super) struct Responded {
    /// The connection stays open.
    pub(super) keep_alive: bool,
    /// Number of bytes that follow the head and are a body that is not wanted.
    pub(super) skip_bytes: u64,
}

/// How an announce or a scrape was answered.
enum Answered {
    /// 200, with the body at the end of the output.
    Inline,
    /// With this status and body, which are not in the output yet.
    Apart { status: StatusCode, body: Vec<u8> },
}

/// A request and what its answer needs.
pub(super) struct Exchange<'a, M> {
    connection: &'a Connection<'a, M>,
    request: Request<'a>,
    route: Route<'a>,
    client: Client,
    /// What follows the head in the input.
    rest: &'a [u8],
    /// The client has not sent more requests than its limit allows.
    permitted: bool,
    /// The head, if the site answers the request.
    page: Option<Box<RequestHead>>,
}

impl<'a, M: Middleware> Exchange<'a, M> {
    /// Counts the request in its client's limit, and takes what is needed of its head.
    pub(super) fn new(connection: &'a Connection<'a, M>, head: &Head<'_, 'a>, rest: &'a [u8]) -> Self {
        let client = connection.peer.client(&connection.app.trusted_proxies.borrow(), head);
        let permitted = connection.shared.permits(connection.now.get(), client.ip, Limited::HttpRequest);
        let request = head.request;
        let route = Route::of(request.path);
        let serves = permitted && connection.app.site.serves(&route, request.path);
        let page = serves.then(|| Box::new(head.into()));
        Self { connection, request, route, client, rest, permitted, page }
    }

    /// Answers the request, at the end of `out` or by itself.
    ///
    /// # Errors
    ///
    /// The status that the connection ends with: where the next request begins is not known.
    pub(super) async fn answer(&mut self, out: &mut Vec<u8>) -> Result<Responded, Status> {
        let connection = self.connection;
        if let Some(head) = self.page.take() {
            connection.count(Counter::of(Kind::HttpReply, Family::of(connection.peer.ip)));
            connection.count(Counter::HttpOther);
            return Ok(Box::pin(self.serve(head, out)).await);
        }
        let request = &self.request;
        let skip_bytes = request.skippable_bytes()?;
        connection.count(Counter::of(Kind::HttpReply, Family::of(connection.peer.ip)));
        let keep_alive = request.stays_open_unread() && self.stays();
        let persistence = match (keep_alive, request.http_10) {
            (true, false) => Persistence::KeepAlive,
            (true, true) => Persistence::KeepAlive10,
            (false, _) => Persistence::Close,
        };
        let head_only = request.method == Method::Head;
        let start = out.len();
        let response = ResponseWriter::start(out, Status::Ok, persistence, head_only);
        let answered = match (request.method, &self.route) {
            _ if !self.permitted => Err(Status::TooManyRequests),
            (_, Route::NotFound) => Err(Status::NotFound),
            (Method::Other, _) => Err(Status::MethodNotAllowed),
            (_, Route::Announce { .. }) => self.announce(out, start).await,
            (_, Route::Scrape { .. }) => self.scrape(out, start).await,
            (_, Route::Health) => {
                connection.count(Counter::HttpOther);
                out.extend_from_slice(b"ok\n");
                Ok(Answered::Inline)
            }
        };
        match answered {
            Ok(Answered::Inline) => response.finish(out),
            Ok(Answered::Apart { status, body }) => {
                out.truncate(start); // it is shorter than that if earlier responses were written meanwhile
                let response = ResponseWriter::start(out, Status::Other(status), persistence, head_only);
                out.extend_from_slice(&body);
                response.finish(out);
            }
            Err(status) => {
                if status != Status::Unavailable {
                    connection.count(Counter::HttpOther);
                }
                if !matches!(status, Status::Unavailable | Status::TooManyRequests) {
                    connection.count(Counter::BadHttp);
                }
                out.truncate(start);
                put_status(out, status, persistence, head_only);
            }
        }
        Ok(Responded { keep_alive, skip_bytes })
    }

    /// Whether the tracker wants to keep the connection.
    fn stays(&self) -> bool {
        self.permitted && !self.connection.shared.stopping.get()
    }

    /// Lets the site answer the request.
    async fn serve(&self, head: Box<RequestHead>, out: &mut Vec<u8>) -> Responded {
        let closed = Responded { keep_alive: false, skip_bytes: 0 };
        let keep_alive = self.stays() && self.request.keep_alive;
        if !self.connection.flush(out).await {
            return closed;
        }
        let stream = self.connection.stream(self.rest);
        let Client { ip, is_https } = self.client;
        let request = SiteRequest { head: *head, ip, is_https, keep_alive };
        let (app, running) = (self.connection.app.clone(), stream.clone());
        let served = self.connection.shared.in_runtime(async move {
            let _guard = PanicGuard(app.shared.clone());
            running.run(app.site.serve(running.clone(), request)).await
        });
        let served = served.await;
        self.connection.take_back(&stream);
        match served.flatten() {
            None => closed,
            Some(served) => Responded {
                keep_alive: served.keep_alive && !stream.aborted().get(),
                skip_bytes: served.skip_bytes,
            },
        }
    }

    /// Answers an announce. The output before `start` is earlier responses.
    async fn announce(&self, out: &mut Vec<u8>, start: usize) -> Result<Answered, Status> {
        let ip = self.client.ip;
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

    /// Answers a scrape. The output before `start` is earlier responses.
    async fn scrape(&self, out: &mut Vec<u8>, start: usize) -> Result<Answered, Status> {
        let ip = self.client.ip;
        self.connection.count(Counter::of(Kind::HttpScrape, Family::of(ip)));
        // Boxed: it is large and lives while the task waits, and every connection's task would have room for it.
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

    /// Asks the engine, and waits if it asked other workers.
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

    /// Passes a request to the middleware, and waits if the middleware does.
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

    /// Runs middleware that waits, and watches the client meanwhile.
    async fn wait(
        &self,
        mut request: RequestContext<'static>,
        passed: usize,
        out: &mut Vec<u8>,
    ) -> Result<Answered, Status> {
        let (connection, app) = (self.connection, self.connection.app);
        let Some(_slot) = WaitSlot::take(app) else { return Err(Status::Unavailable) };
        if !connection.flush(out).await {
            return Err(Status::Unavailable); // the client will not read it
        }
        let stream = connection.stream(self.rest);
        request.watch(stream.aborted().clone());
        let middleware = app.gate.borrow().middleware();
        let (shared, running) = (connection.shared.clone(), stream.clone());
        let ended = connection.shared.in_runtime(async move {
            let _guard = PanicGuard(shared.clone());
            let swarms = Swarms(&*shared);
            let deadline = Duration::from_millis(WAIT_DEADLINE_MS);
            let answering = middleware.run(Some(passed), &mut request, &swarms);
            let ended = running.run(tokio::time::timeout(deadline, answering)).await;
            (ended, request)
        });
        let ended = ended.await;
        connection.take_back(&stream);
        let Some((Some(Ok(result)), mut request)) = ended else {
            connection.count(Counter::DropWaitLate);
            return Err(Status::Unavailable);
        };
        let mut body = Vec::new();
        let status = connection.shared.engine.borrow_mut().conclude_http(&mut request, result, &mut body);
        Ok(Answered::Apart { status, body })
    }

    /// Writes the failure for a request that the lists deny. False: it is allowed. `announce`: the query, if it is an
    /// announce.
    fn denies(&self, ip: IpAddr, announce: Option<&AnnounceQuery>, out: &mut Vec<u8>) -> bool {
        let engine = &mut *self.connection.shared.engine.borrow_mut();
        engine.deny_http(self.connection.now.get(), ip, announce, out)
    }

    /// Writes the failure for an invalid query.
    fn fail(&self, error: QueryError, out: &mut Vec<u8>) -> Answered {
        self.connection.count(Counter::BadQuery);
        self.connection.count(Counter::Refused);
        put_failure(out, &error.to_string(), true);
        Answered::Inline
    }
}

/// Result of the middleware.
#[allow(clippy::large_enum_variant, reason = "it is handed up the stack once")]
enum Mediated<'a> {
    /// The engine must answer.
    Passed(RequestContext<'a>),
    Answered(Answered),
}
