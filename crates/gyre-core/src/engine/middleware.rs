//! Owns middleware: functions that run in order before a request reaches the swarm. They inspect the request,
//! change it, answer it or refuse it.
//!
//! ```text
//! request ──► decide ──► decide ──► ... ──► swarm ──► response        at once, on the stack, no allocation
//!                │ Then::Wait
//!                └─────► wait ──► next.run ──► ... ──► swarm
//!                          ◄────────────────────────────┘               in a task: the response can still be changed
//! ```
//!
//! A plain function is a middleware. [`from_async`] makes one from an async function. A middleware that can decide
//! often but not always at once (a cache before a database) implements [`Middleware`] itself.

use std::fmt::Debug;

use futures_core::future::LocalBoxFuture;

use crate::engine::context::{Action, RequestContext};
#[cfg(doc)]
use crate::error::Code;
use crate::error::TrackerError;

/// The next step of a request.
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
///         false => Err(TrackerError::new(Code::AccessDenied, "only from this machine")),
///     }
/// }
/// # fn is_middleware(_: impl gyre::engine::middleware::Middleware) {}
/// # is_middleware(guard);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The request goes on to the next middleware, and after the last one to the swarm, unless a response was sent.
    Next,
    /// No other middleware gets it. The response is what was sent. If nothing was sent, UDP sends nothing and HTTP a
    /// 403.
    Stop,
    /// [`Middleware::wait`] continues with the request in a task.
    Wait,
}

/// The decision of a middleware. An error refuses the request: `failure reason` (BEP 3) or an error packet (BEP 15).
pub type Flow = Result<Then, TrackerError>;

/// Runs before a request reaches the swarm. Each worker has its own clone, which `decide` and `wait` share. A clone can
/// keep data in a [`RefCell`](std::cell::RefCell), such as a cache. It belongs to one worker and needs no lock.
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
///         // ... query a database here ...
///         next.run(request).await
///     }
/// }
/// ```
pub trait Middleware: Clone + 'static {
    /// Whether there is no middleware at all.
    #[doc(hidden)]
    const IS_NONE: bool = false;
    /// Number of middlewares that it consists of.
    #[doc(hidden)]
    const STEPS: usize = 1;

    /// Decides about a request at once, before the swarm sees it.
    ///
    /// # Errors
    ///
    /// Refuses the request.
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow;

    /// Continues with a request for which [`decide`](Self::decide) returned [`Then::Wait`]. The worker processes other
    /// requests meanwhile. `next.run` runs the next middlewares and the swarm. After it,
    /// [`response_mut`](RequestContext::response_mut) returns their response.
    ///
    /// # Errors
    ///
    /// Refuses the request, if no response was sent.
    fn wait(
        &self,
        request: &mut RequestContext<'_>,
        next: Next<'_>,
    ) -> impl Future<Output = Result<(), TrackerError>> {
        next.run(request)
    }

    /// Runs the middlewares in order until one doesn't return [`Then::Next`]. Adds the number of those that did to
    /// `passed`.
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

/// The rest of the chain.
#[doc(hidden)]
pub trait Rest {
    fn run<'a>(&'a self, request: &'a mut RequestContext<'_>)
    -> LocalBoxFuture<'a, Result<(), TrackerError>>;
}

/// The middlewares after the current one, with the swarm at the end.
pub struct Next<'a>(&'a dyn Rest);

impl Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Next")
    }
}

impl Next<'_> {
    /// Runs the next middlewares and the swarm. If a response was sent already, the swarm is skipped.
    ///
    /// # Errors
    ///
    /// A middleware refuses the request, or the swarm is not available at the moment ([`Code::Unavailable`]).
    pub async fn run(self, request: &mut RequestContext<'_>) -> Result<(), TrackerError> {
        self.0.run(request).await
    }
}

/// No middleware: requests go to the swarm unchanged, at no cost.
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
            Ok(Then::Wait) => Err(TrackerError::internal("a plain function can't return Then::Wait")),
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
/// // Like `.middleware(first).middleware(second)`.
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
    /// Creates a chain of two middlewares.
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

/// A middleware and the rest of the chain after it.
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

/// The middleware that [`from_async`] returns.
#[derive(Clone, Copy, Debug)]
pub struct Async<F>(F);

/// Makes a middleware from an async function of the request and the rest of the chain. Each request needs a task and
/// its memory while the function waits. At most [`MAX_WAITING`](crate::limits::MAX_WAITING) requests of a worker wait
/// at a time, each for at most [`WAIT_DEADLINE_MS`](crate::limits::WAIT_DEADLINE_MS). Beyond these limits an HTTP
/// client gets status 503, and a UDP request is dropped.
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

/// The middleware that [`on`] returns.
#[derive(Clone, Copy, Debug)]
pub struct On<M> {
    action: Action,
    middleware: M,
}

/// Makes a middleware that runs only for requests of one action. Other requests go on to the next middleware.
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
