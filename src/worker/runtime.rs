//! Owns the runtime of a worker. It runs the tasks of the program that serves: handlers, middleware that waits, and
//! files. These may use tokio and tokio-uring.
//!
//! A worker without such tasks never enters the runtime and sleeps in its own ring. While there are any, also those
//! that handlers have spawned themselves, the worker has its turns within the runtime and sleeps there, so that timers
//! and the runtime's own ring work as usual. Its ring then wakes it by an eventfd.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::LocalBoxFuture;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::{Driver, Shared};
use crate::engine::middleware::Middleware;
use crate::limits::RUNTIME_RING_ENTRIES;
use crate::ring::{Receive, Ring};
use crate::sys::Notifier;

/// What the worker's tasks hand to the runtime.
#[derive(Default)]
pub(super) struct Handover {
    /// Tasks that are not in the runtime yet.
    spawned: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    /// An operation may be queued on the runtime's ring, which submits only when the thread is about to sleep.
    pub(super) unsubmitted: Cell<bool>,
}

impl Handover {
    /// Whether there are tasks that are not in the runtime yet.
    pub(super) fn has_spawned(&self) -> bool {
        !self.spawned.borrow().is_empty()
    }
}

impl Shared {
    /// Starts a task in the runtime.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.handover.spawned.borrow_mut().push(Box::pin(task));
    }

    /// Runs a future in the runtime. `None`: it panicked.
    pub(super) async fn in_runtime<T: 'static>(
        &self,
        future: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.spawn(async move { drop(done.send(future.await)) });
        result.await.ok()
    }
}

/// The runtime and its tasks.
pub(super) struct Runtime {
    tasks: LocalSet,
    /// There are no tasks.
    is_empty: bool,
    notifier: Notifier,
    /// A no-op in flight. It completes once everything that tasks queued on the runtime's ring before it is submitted.
    submission: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
    runtime: Rc<tokio_uring::Runtime>,
}

impl Runtime {
    /// Creates a runtime that is woken by the ring.
    pub(super) fn new(ring: &mut Ring) -> io::Result<Self> {
        let mut rings = tokio_uring::uring_builder();
        rings.setup_coop_taskrun();
        let mut builder = tokio_uring::builder();
        let runtime = tokio_uring::Runtime::new(builder.entries(RUNTIME_RING_ENTRIES).uring_builder(&rings))?;
        let notifier = runtime.block_on(async { Notifier::new() })?;
        ring.register_notifier(&notifier)?;
        Ok(Self {
            tasks: LocalSet::new(),
            is_empty: true,
            notifier,
            submission: None,
            runtime: Rc::new(runtime),
        })
    }

    /// Returns the runtime. The tasks run only in a future that [polls](Self::poll_tasks) them.
    pub(super) fn handle(&self) -> Rc<tokio_uring::Runtime> {
        self.runtime.clone()
    }

    /// Takes new tasks over. Returns true if there are any tasks.
    pub(super) fn take_spawned(&mut self, handover: &Handover) -> bool {
        for task in handover.spawned.borrow_mut().drain(..) {
            self.tasks.spawn_local(task);
            self.is_empty = false;
        }
        !self.is_empty
    }

    /// Runs some of the tasks that are ready.
    fn poll_tasks(&mut self, context: &mut Context<'_>) {
        self.is_empty = Pin::new(&mut self.tasks).poll(context).is_ready();
    }

    /// Runs some of the tasks that are ready, lets the runtime look for events, and comes back.
    ///
    /// tokio-uring submits when its thread is about to sleep because no task is ready. A worker that yields stays
    /// ready, so tasks would starve while datagrams keep the worker busy. If a task has queued an operation, the worker
    /// queues a no-op behind it and waits for its completion instead of yielding. The runtime then sleeps, submits, and
    /// is woken by the completion. Tasks that become ready in between run first, and the worker has its turns between
    /// them.
    pub(super) async fn pass(&mut self, handover: &Handover) -> io::Result<()> {
        let tasks = |context: &mut Context<'_>| {
            self.poll_tasks(context);
            Poll::Ready(())
        };
        poll_fn(tasks).await;
        if self.submission.is_none() && handover.unsubmitted.replace(false) {
            self.submission = Some(Box::pin(tokio_uring::no_op()));
        }
        let Some(submission) = &mut self.submission else {
            tokio::task::yield_now().await;
            return Ok(());
        };
        let mut passed = false;
        let submitted = poll_fn(|context| match (submission.as_mut().poll(context), passed) {
            (Poll::Ready(result), _) => Poll::Ready(Some(result)),
            (Poll::Pending, true) => Poll::Ready(None),
            (Poll::Pending, false) => {
                passed = true;
                Poll::Pending
            }
        });
        if let Some(result) = submitted.await {
            self.submission = None;
            result?;
        }
        Ok(())
    }
}

impl<M: Middleware> Driver<M> {
    /// Serves in the runtime, as long as it has tasks.
    pub(super) fn serve_in_runtime(&mut self) -> io::Result<()> {
        let runtime = self.runtime.handle();
        runtime.block_on(async {
            while !self.shutdown.stopping() && self.runtime.take_spawned(&self.app.shared.handover) {
                if self.step()? {
                    self.ring.enter(Receive::Now, None)?;
                    self.runtime.pass(&self.app.shared.handover).await?;
                } else {
                    self.sleep_in_runtime(self.until_due(self.app.shared.clock.now())).await?;
                }
            }
            Ok(())
        })
    }

    /// Sleeps in the runtime until there is something to do or the time has passed.
    pub(super) async fn sleep_in_runtime(&mut self, at_most: Duration) -> io::Result<()> {
        let app = self.app.clone();
        let shared = &*app.shared;
        self.ring.enter(Receive::WhenReadable, None)?;
        let falls_asleep = shared.mesh.borrow().fall_asleep();
        if !falls_asleep || !self.ring.notify() {
            shared.mesh.borrow().wake_up();
            return self.runtime.pass(&shared.handover).await;
        }
        let mut due = std::pin::pin!(tokio::time::sleep(at_most));
        let slept = poll_fn(|context| {
            self.runtime.poll_tasks(context);
            self.http.run_in(context);
            let more = self.runtime.is_empty || shared.streams.has_queued() || shared.handover.has_spawned();
            match self.runtime.notifier.poll_notified(context) {
                Poll::Pending if !more => due.as_mut().poll(context).map(Ok),
                Poll::Pending => Poll::Ready(Ok(())),
                notified => notified,
            }
        });
        let slept = slept.await;
        self.ring.be_silent();
        shared.mesh.borrow().wake_up();
        slept
    }
}
