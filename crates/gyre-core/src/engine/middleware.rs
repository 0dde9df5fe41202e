//! Owns what stands between a request and the swarm: functions that look, change, answer or refuse, one after another.
//!
//! ```text
//! request ──► decide ──► decide ──► ... ──► swarm ──► response        at once, on the stack, no allocation
//!                │ Then::Wait
//!                └─────► wait ──► next.run ──► ... ──► swarm
//!                          ◄────────────────────────────┘               in a task: the response can still be changed
//! ```
//!
//! A plain function is a middleware, and so is what [`from_async`] makes of an async one. Those who can often decide at
//! once but not always (a cache before a database) implement [`Middleware`] themselves.

use std::fmt::Debug;

use futures_core::future::LocalBoxFuture;

use crate::engine::context::{Action, RequestContext};
#[cfg(doc)]
use crate::error::Code;
use crate::error::TrackerError;

/// What is to become of a request.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::RequestContext;
/// use gyre::engine::middleware::{Flow, Then};
/// use gyre::error::{Code, TrackerError};
///
/// fn guard(request: &mut RequestContext<'_>) -> Flow {
///     match request.connection().ip().is_loopback() {
///         true => Ok(Then::Next),
///         false if request.is_source_udp() => Ok(Then::Stop), // no answer
///         false => Err(TrackerError::new(Code::AccessDenied, "from here alone")),
///     }
/// }
/// # fn is_middleware(_: impl gyre::engine::middleware::Middleware) {}
/// # is_middleware(guard);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next middleware gets it, and in the end the swarm, unless an answer was sent.
    Next,
    /// No other middleware gets it. The response is what was sent. If nothing was sent, UDP sends nothing and HTTP a
    /// 403.
    Stop,
    /// [`Middleware::wait`] goes on with it, in a task.
    Wait,
}

/// What a middleware decides. An error refuses the request: `failure reason` (BEP 3) or an error packet (BEP 15).
pub type Flow = Result<Then, TrackerError>;

/// Stands between requests and the swarm. Each worker has one clone of its own, which `decide` and `wait` share: what a
/// clone keeps in a [`RefCell`](std::cell::RefCell), as a cache, is the worker's, and needs no lock.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::RequestContext;
/// use gyre::engine::middleware::{Flow, Middleware, Next, Then};
/// use gyre::error::{Code, TrackerError};
///
/// /// Refuses passkeys that are too short, and looks up the others.
/// #[derive(Clone)]
/// struct Passkeys;
///
/// impl Middleware for Passkeys {
///     fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
///         match request.passkey() {
///             _ if request.is_connect() => Ok(Then::Next),
///             Some(passkey) if passkey.len() >= 8 => Ok(Then::Wait),
///             _ => Err(TrackerError::new(Code::AccessDenied, "no passkey")),
///         }
///     }
///
///     async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
///         // ... a database is asked here ...
///         next.run(request).await
///     }
/// }
/// ```
pub trait Middleware: Clone + 'static {
    /// Whether there is nothing to run at all.
    #[doc(hidden)]
    const IS_NONE: bool = false;
    /// Of how many middlewares it is made.
    #[doc(hidden)]
    const STEPS: usize = 1;

    /// Looks at a request before the swarm does.
    ///
    /// # Errors
    ///
    /// Refuses the request.
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow;

    /// Goes on with a request for which [`decide`](Self::decide) said [`Then::Wait`]. The worker does other things
    /// meanwhile. `next.run` asks those who come after and the swarm; then
    /// [`response_mut`](RequestContext::response_mut) has their answer.
    ///
    /// # Errors
    ///
    /// Refuses the request, if no answer was sent.
    fn wait(
        &self,
        request: &mut RequestContext<'_>,
        next: Next<'_>,
    ) -> impl Future<Output = Result<(), TrackerError>> {
        next.run(request)
    }

    /// All in order until one doesn't pass the request on; counts those that did.
    #[doc(hidden)]
    #[inline]
    fn decide_all(&self, request: &mut RequestContext<'_>, passed: &mut usize) -> Flow {
        let flow = self.decide(request);
        *passed += usize::from(flow == Ok(Then::Next));
        flow
    }

    /// Runs those that come after so many that passed the request on already. The first of them has said that it has to
    /// wait, unless `passed` is `None`: then no middleware was asked before.
    #[doc(hidden)]
    fn run(
        &self,
        passed: Option<usize>,
        request: &mut RequestContext<'_>,
        last: &dyn Rest,
    ) -> impl Future<Output = Result<(), TrackerError>> {
        async move {
            let then = if passed.is_some() { Then::Wait } else { self.decide(request)? };
            match then {
                Then::Next => last.run(request).await,
                Then::Stop => Ok(()),
                Then::Wait => self.wait(request, Next(last)).await,
            }
        }
    }
}

/// Those who come after.
#[doc(hidden)]
pub trait Rest {
    fn run<'a>(&'a self, request: &'a mut RequestContext<'_>)
    -> LocalBoxFuture<'a, Result<(), TrackerError>>;
}

/// Those who come after a middleware, the swarm at the end.
pub struct Next<'a>(&'a dyn Rest);

impl Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Next")
    }
}

impl Next<'_> {
    /// Has them answer the request. Those who have answered it already save them the work.
    ///
    /// # Errors
    ///
    /// One of them refuses it, or the swarm can't be asked at the moment ([`Code::Unavailable`]).
    pub async fn run(self, request: &mut RequestContext<'_>) -> Result<(), TrackerError> {
        self.0.run(request).await
    }
}

/// No middleware: requests go to the swarm as they are, at no cost.
impl Middleware for () {
    const IS_NONE: bool = true;
    const STEPS: usize = 0;

    #[inline]
    fn decide(&self, _: &mut RequestContext<'_>) -> Flow {
        Ok(Then::Next)
    }

    #[inline]
    fn decide_all(&self, _: &mut RequestContext<'_>, _: &mut usize) -> Flow {
        Ok(Then::Next)
    }

    async fn run(
        &self,
        _: Option<usize>,
        request: &mut RequestContext<'_>,
        last: &dyn Rest,
    ) -> Result<(), TrackerError> {
        last.run(request).await
    }
}

impl<F> Middleware for F
where
    F: Fn(&mut RequestContext<'_>) -> Flow + Clone + 'static,
{
    #[inline]
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        match self(request) {
            Ok(Then::Wait) => Err(TrackerError::internal("a plain function has nothing to wait with")),
            flow => flow,
        }
    }
}

/// Two middlewares, the first before the second.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::RequestContext;
/// use gyre::engine::middleware::{Chain, Then};
///
/// struct Seen;
/// let first = |request: &mut RequestContext<'_>| {
///     request.data_mut().insert(Seen);
///     Ok(Then::Next)
/// };
/// let second = |request: &mut RequestContext<'_>| {
///     assert!(request.data().get::<Seen>().is_some());
///     Ok(Then::Next)
/// };
/// // The same as `.middleware(first).middleware(second)`.
/// let both = Chain::new(first, second);
/// # fn is_middleware(_: impl gyre::engine::middleware::Middleware) {}
/// # is_middleware(both);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Chain<A, B> {
    first: A,
    second: B,
}

impl<A, B> Chain<A, B> {
    /// The one before the other.
    pub fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

impl<A: Middleware, B: Middleware> Middleware for Chain<A, B> {
    const IS_NONE: bool = A::IS_NONE && B::IS_NONE;
    const STEPS: usize = A::STEPS + B::STEPS;

    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        self.decide_all(request, &mut 0)
    }

    #[inline]
    fn decide_all(&self, request: &mut RequestContext<'_>, passed: &mut usize) -> Flow {
        match self.first.decide_all(request, passed) {
            Ok(Then::Next) => self.second.decide_all(request, passed),
            flow => flow,
        }
    }

    async fn run(
        &self,
        passed: Option<usize>,
        request: &mut RequestContext<'_>,
        last: &dyn Rest,
    ) -> Result<(), TrackerError> {
        match passed {
            Some(passed) if passed >= A::STEPS => {
                self.second.run(Some(passed - A::STEPS), request, last).await
            }
            _ => self.first.run(passed, request, &Tail { middleware: &self.second, last }).await,
        }
    }
}

/// A middleware and those after it.
struct Tail<'a, M> {
    middleware: &'a M,
    last: &'a dyn Rest,
}

impl<M: Middleware> Rest for Tail<'_, M> {
    fn run<'a>(
        &'a self,
        request: &'a mut RequestContext<'_>,
    ) -> LocalBoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(self.middleware.run(None, request, self.last))
    }
}

/// What [`from_async`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Async<F>(F);

/// Makes a middleware of an async function of the request and those who come after. Each request takes a task and its
/// memory while the function waits; at most [`MAX_WAITING`](crate::limits::MAX_WAITING) of a worker may wait at a time,
/// each at most [`WAIT_DEADLINE_MS`](crate::limits::WAIT_DEADLINE_MS). Past that HTTP gives 503 and UDP drops.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{RequestContext, Response};
/// use gyre::engine::middleware::{Next, from_async};
///
/// let fewer_peers = from_async(async |request: &mut RequestContext<'_>, next: Next<'_>| {
///     next.run(request).await?;
///     if let Some(Response::Announce(response)) = request.response_mut() {
///         response.peers.retain(|address| address.port() != 6881);
///     }
///     Ok(())
/// });
/// # fn is_middleware(_: impl gyre::engine::middleware::Middleware) {}
/// # is_middleware(fewer_peers);
/// ```
pub fn from_async<F>(function: F) -> Async<F>
where
    F: AsyncFn(&mut RequestContext<'_>, Next<'_>) -> Result<(), TrackerError> + Clone + 'static,
{
    Async(function)
}

impl<F> Middleware for Async<F>
where
    F: AsyncFn(&mut RequestContext<'_>, Next<'_>) -> Result<(), TrackerError> + Clone + 'static,
{
    fn decide(&self, _: &mut RequestContext<'_>) -> Flow {
        Ok(Then::Wait)
    }

    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        self.0(request, next).await
    }
}

/// What [`on`] makes.
#[derive(Clone, Copy, Debug)]
pub struct On<M> {
    action: Action,
    middleware: M,
}

/// Makes a middleware that sees the requests of one action alone: others pass at once.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{Action, RequestContext};
/// use gyre::engine::middleware::{Next, Then, from_async, on};
///
/// let no_scrapes = on(Action::Scrape, |_: &mut RequestContext<'_>| Ok(Then::Stop));
/// let announces = on(
///     Action::Announce,
///     from_async(async |request: &mut RequestContext<'_>, next: Next<'_>| next.run(request).await),
/// );
/// # fn is_middleware(_: impl gyre::engine::middleware::Middleware) {}
/// # is_middleware(no_scrapes);
/// # is_middleware(announces);
/// ```
pub fn on<M: Middleware>(action: Action, middleware: M) -> On<M> {
    On { action, middleware }
}

impl<M: Middleware> Middleware for On<M> {
    #[inline]
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        if request.action() == self.action { self.middleware.decide(request) } else { Ok(Then::Next) }
    }

    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        self.middleware.wait(request, next).await
    }
}
