//! Owns a connection's socket and input while a handler or middleware answers a request step by step. Meanwhile the
//! handler's task checks whether the client is still there.
//!
//! Both run in a task of the runtime. A receive is in flight most of the time. Its bytes are kept for the handler; its
//! end shows that the client has closed the connection.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::future::LocalBoxFuture;
use tokio_uring::buf::BoundedBuf;

use super::Shared;
use super::connections::Phase;
use crate::limits::{WEB_INPUT_BYTES, WEB_KEEP_MAX_MS, WEB_KEEP_MS, WEB_READ_BYTES_PER_SECOND};
use crate::ring::TcpStream;
use crate::time::Timestamp;
use crate::web::transport::{FileReader, Transport};

/// A connection's socket while a handler or middleware has it.
pub(super) struct Stream {
    shared: Rc<Shared>,
    socket: Rc<TcpStream>,
    /// The connection's place in the list.
    key: usize,
    peer: IpAddr,
    input: RefCell<Vec<u8>>,
    /// Wakes the future that waits for more input.
    reader: Cell<Option<Waker>>,
    /// Wakes the future that waits for the client to close the connection.
    abort_waiter: Cell<Option<Waker>>,
    aborted: Rc<Cell<bool>>,
    /// A write is in flight or was given up. How much of it was sent is not known.
    writing: Cell<bool>,
    /// What the connection waits for when it does not write.
    phase: Cell<Phase>,
    keep: Cell<Duration>,
    /// When bytes were last written, plus the time that the bytes read since then have earned.
    touched: Cell<Timestamp>,
}

impl Stream {
    /// Takes the connection's input over.
    pub(super) fn new(
        shared: &Rc<Shared>,
        socket: &Rc<TcpStream>,
        key: usize,
        peer: IpAddr,
        input: &[u8],
    ) -> Rc<Self> {
        Rc::new(Self {
            shared: shared.clone(),
            socket: socket.clone(),
            key,
            peer,
            input: RefCell::new(input.to_vec()),
            reader: Cell::new(None),
            abort_waiter: Cell::new(None),
            aborted: Rc::new(Cell::new(false)),
            writing: Cell::new(false),
            phase: Cell::new(Phase::Handler),
            keep: Cell::new(Duration::from_millis(WEB_KEEP_MS)),
            touched: Cell::new(shared.clock.now()),
        })
    }

    /// Returns the input.
    pub(super) fn give_back(&self) -> Vec<u8> {
        self.input.take()
    }

    /// Returns the flag that becomes true when the client closes the connection.
    pub(super) fn aborted(&self) -> &Rc<Cell<bool>> {
        &self.aborted
    }

    /// Runs the future that answers the request, and watches the client meanwhile. `None`: nothing was read or written
    /// for as long as [`Transport::keep`] allows.
    pub(super) async fn run<T>(&self, answering: impl Future<Output = T>) -> Option<T> {
        self.enter(Phase::Handler);
        let mut answering = pin!(answering);
        let mut keep = self.keep.get();
        let mut timer = pin!(tokio::time::sleep(keep));
        poll_fn(|context| {
            loop {
                if let Poll::Ready(answered) = answering.as_mut().poll(context) {
                    return Poll::Ready(Some(answered));
                }
                self.shared.handover.unsubmitted.set(true); // it may have queued something on the runtime's ring
                if !self.watch(context) {
                    break;
                }
            }
            while keep != self.keep.get() || timer.as_mut().poll(context).is_ready() {
                keep = self.keep.get();
                let quiet = self.shared.clock.now().since(self.touched.get());
                match keep.checked_sub(quiet) {
                    None | Some(Duration::ZERO) => return Poll::Ready(None),
                    Some(left) => timer.set(tokio::time::sleep(left)),
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Reads ahead. True: the client has closed the connection, which the request's future must see at once.
    fn watch(&self, context: &mut Context<'_>) -> bool {
        while !self.aborted.get() && self.input.borrow().len() < WEB_INPUT_BYTES {
            let Poll::Ready(result) = self.poll_read(context) else { return false };
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
            if !matches!(result, Ok(true)) {
                if let Some(abort_waiter) = self.abort_waiter.take() {
                    abort_waiter.wake();
                }
                return true;
            }
        }
        false
    }

    fn poll_read(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.aborted.get() {
            return Poll::Ready(Ok(false));
        }
        let Poll::Ready(result) = self.socket.poll_receive(context) else { return Poll::Pending };
        let received = result.as_ref().map_or(0, Vec::len);
        // Each byte earns some time, so that a byte now and then does not keep a handler for ever.
        let earned = Duration::from_secs(received as u64) / WEB_READ_BYTES_PER_SECOND;
        self.touched.set((self.touched.get() + earned).min(self.shared.clock.now()));
        self.aborted.set(received == 0);
        Poll::Ready(result.map(|bytes| {
            self.input.borrow_mut().extend_from_slice(&bytes);
            self.shared.streams.give_buffer(bytes);
            received > 0
        }))
    }

    fn enter(&self, phase: Phase) {
        let now = self.shared.clock.now();
        self.touched.set(now);
        self.shared.connections.borrow_mut().enter(now, self.key, phase);
    }
}

impl Transport for Stream {
    fn input(&self) -> &RefCell<Vec<u8>> {
        &self.input
    }

    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.reader.set(Some(context.waker().clone()));
        self.poll_read(context)
    }

    fn write(&self, bytes: Vec<u8>) -> LocalBoxFuture<'_, (io::Result<()>, Vec<u8>)> {
        Box::pin(async move {
            if self.aborted.get() || self.writing.replace(true) {
                return (Err(io::ErrorKind::BrokenPipe.into()), bytes);
            }
            self.enter(Phase::Write);
            self.socket.send(bytes);
            let (result, bytes) = self.socket.sent().await;
            self.writing.set(false);
            self.enter(self.phase.get());
            if result.is_err() {
                self.aborted.set(true);
            }
            (result, bytes)
        })
    }

    fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> bool {
        self.abort_waiter.set(Some(context.waker().clone()));
        self.aborted.get()
    }

    fn keep(&self, timeout: Duration) {
        self.keep.set(timeout.min(Duration::from_millis(WEB_KEEP_MAX_MS)));
    }

    fn set_endless(&self) {
        self.phase.set(Phase::Endless);
        self.enter(Phase::Endless);
    }

    fn peer(&self) -> IpAddr {
        self.peer
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn open(&self, file: File) -> Box<dyn FileReader> {
        Box::new(RingFile(tokio_uring::fs::File::from_std(file)))
    }

    /// A task that yields stays ready, and the runtime submits what others have queued on its ring only when no task is
    /// ready.
    fn pause(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async { drop(tokio_uring::no_op().await) })
    }
}

/// A file that is read on the runtime's ring.
struct RingFile(tokio_uring::fs::File);

impl FileReader for RingFile {
    fn read_at(
        &self,
        mut buffer: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> LocalBoxFuture<'_, (io::Result<usize>, Vec<u8>)> {
        buffer.clear();
        buffer.reserve_exact(length);
        Box::pin(async move {
            let (result, slice) = self.0.read_at(buffer.slice(..length), offset).await;
            (result, slice.into_inner())
        })
    }

    fn close(self: Box<Self>) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(self.0.close())
    }
}
