//! Owns the tasks of a worker's HTTP connections. They wait for operations of the worker's ring and for other workers,
//! and run between the turns, outside the runtime.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use futures_core::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;

/// The tasks.
pub(super) struct Tasks {
    tasks: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    woken: Arc<Woken>,
    waker: Waker,
}

/// Whether a task was woken since the last run.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Tasks {
    pub(super) fn new() -> Self {
        let woken = Arc::<Woken>::default();
        Self { tasks: FuturesUnordered::new(), waker: woken.clone().into(), woken }
    }

    /// Starts a task with the next run.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        self.woken.0.store(true, Ordering::Relaxed);
        self.tasks.push(Box::pin(task));
    }

    /// Runs the tasks that were woken. Returns true if some are ready again.
    pub(super) fn run_woken(&mut self) -> bool {
        // When all tasks were polled, the set wakes its waker without looking whether one is ready again. It looks in
        // the second round.
        for _ in 0..2 {
            if !self.woken.0.swap(false, Ordering::Relaxed) {
                return false;
            }
            let waker = self.waker.clone();
            self.run(&mut Context::from_waker(&waker));
        }
        self.woken.0.load(Ordering::Relaxed)
    }

    /// Runs the tasks that were woken, in a sleep within the runtime. The next one that is woken wakes the context.
    pub(super) fn run_in(&mut self, context: &mut Context<'_>) {
        self.run(context);
        self.woken.0.store(true, Ordering::Relaxed); // a task that is woken from now on does not set it
    }

    fn run(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = Pin::new(&mut self.tasks).poll_next(context) {}
    }
}
