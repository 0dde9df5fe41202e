//! Owns the transport of the web's tests: the client's input is a script, and the output is kept.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gyre_core::time::Timestamp;

use super::transport::{FileReader, LocalFuture, Transport};

/// A client that sends one chunk of its script each second time that it is polled, and then closes its side.
pub(crate) struct TestTransport {
    input: RefCell<Vec<u8>>,
    script: RefCell<VecDeque<Vec<u8>>>,
    waited: Cell<bool>,
    written: RefCell<Vec<u8>>,
    broken: Cell<bool>,
}

impl TestTransport {
    /// Creates a client that has sent `sent` and will send the chunks of `script`.
    pub(crate) fn new(sent: &[u8], script: impl IntoIterator<Item = Vec<u8>>) -> Rc<Self> {
        Rc::new(Self {
            input: RefCell::new(sent.to_vec()),
            script: RefCell::new(script.into_iter().collect()),
            waited: Cell::new(false),
            written: RefCell::default(),
            broken: Cell::new(false),
        })
    }

    /// Makes the connection break at the end of the script.
    pub(crate) fn break_off(&self) {
        self.broken.set(true);
    }

    /// Returns the bytes that were written to the client.
    pub(crate) fn written(&self) -> Vec<u8> {
        self.written.borrow().clone()
    }
}

impl Transport for TestTransport {
    fn input(&self) -> &RefCell<Vec<u8>> {
        &self.input
    }

    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.waited.replace(true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited.set(false);
        match self.script.borrow_mut().pop_front() {
            Some(chunk) => self.input.borrow_mut().extend_from_slice(&chunk),
            None if self.broken.get() => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => return Poll::Ready(Ok(false)),
        }
        Poll::Ready(Ok(true))
    }

    fn write(&self, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)> {
        self.written.borrow_mut().extend_from_slice(&bytes);
        Box::pin(async { (Ok(()), bytes) })
    }

    fn is_aborted(&self) -> bool {
        self.broken.get() && self.script.borrow().is_empty()
    }

    fn poll_gone(&self, _: &mut Context<'_>) -> bool {
        self.is_aborted()
    }

    fn keep(&self, _timeout: Duration) {}

    fn set_endless(&self) {}

    fn peer(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn open(&self, file: File) -> Box<dyn FileReader> {
        Box::new(TestFile(file))
    }

    fn pause(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A file that is read with blocking calls.
struct TestFile(File);

impl FileReader for TestFile {
    fn read_at(
        &self,
        mut buffer: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> LocalFuture<'_, (io::Result<usize>, Vec<u8>)> {
        buffer.resize(length, 0);
        let result = FileExt::read_at(&self.0, &mut buffer, offset);
        buffer.truncate(*result.as_ref().unwrap_or(&0));
        Box::pin(async { (result, buffer) })
    }

    fn close(self: Box<Self>) -> LocalFuture<'static, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// Polls a future until it is ready.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    const POLLS: usize = 10_000_000;
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..POLLS {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("the future is still pending after {POLLS} polls");
}
