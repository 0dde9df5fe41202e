//! Owns the takeover from a running tracker, on the side of the new one. The messages are in `passing`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::Socket;

use super::control::Control;
use super::orders::Orders;
use super::passing::{Channel, Message, VERSION, Welcome, unexpected};
use super::state::{HANDOVER, StateDirectory};
use crate::error::ServerError;
use crate::limits::{HANDOVER_ANSWER_MS, HANDOVER_TABLES_S};
use crate::owner::Owners;
use crate::time::{Clock, Timestamp};

const ANSWER: Duration = Duration::from_millis(HANDOVER_ANSWER_MS);
const TABLES: Duration = Duration::from_secs(HANDOVER_TABLES_S);

/// The running tracker to take over from.
pub(super) struct Predecessor {
    state_dir: PathBuf,
    channel: Channel,
    welcome: Welcome,
    /// Started when the `Welcome` arrived.
    heard: Clock,
    lock: File,
    listener: Socket,
}

impl Predecessor {
    /// Connects to the tracker that is running with this state directory, and returns its sockets. Returns `None` if no
    /// tracker is running.
    pub(super) fn connect(state_dir: &Path) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let channel = match Channel::connect(&state_dir.join(HANDOVER)) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            channel => channel?,
        };
        channel.send(&Message::Hello { version: VERSION }, &[])?;
        let welcome = match channel.receive(ANSWER)?.0 {
            Message::Welcome(welcome) => welcome,
            other => return Err(unexpected(&other)),
        };
        let heard = Clock::start();
        let mut descriptors = Vec::new();
        while descriptors.len() < welcome.descriptors {
            match channel.receive(ANSWER)? {
                (Message::Descriptors, received) if !received.is_empty() => descriptors.extend(received),
                (other, _) => return Err(unexpected(&other)),
            }
        }
        let mut descriptors = descriptors.into_iter();
        let (Some(lock), Some(listener)) = (descriptors.next(), descriptors.next()) else {
            return Err(io::Error::other("no descriptors were received"));
        };
        let (lock, listener, state_dir) = (File::from(lock), Socket::from(listener), state_dir.to_owned());
        Ok(Some((Self { state_dir, channel, welcome, heard, lock, listener }, descriptors.collect())))
    }

    pub(super) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    pub(super) fn workers(&self) -> usize {
        self.welcome.workers
    }

    pub(super) fn owner_key(&self) -> [u32; 3] {
        self.welcome.owner_key
    }

    /// Returns the current time on the time scale of that tracker, so that connection ids expire at the same moment in
    /// both.
    pub(super) fn unix_time(&self) -> Duration {
        Duration::from_micros(self.welcome.unix_micros) + self.heard.now().since(Timestamp::default())
    }

    /// Returns the state directory, after the old tracker has written a new snapshot.
    pub(super) fn state(&self) -> Result<StateDirectory, ServerError> {
        let asked = self.channel.send(&Message::Save, &[]).and_then(|()| self.channel.receive(TABLES));
        match asked.map_err(ServerError::TakeOver)?.0 {
            Message::Saved => {}
            other => return Err(ServerError::TakeOver(unexpected(&other))),
        }
        let copies = self.lock.try_clone().and_then(|lock| Ok((lock, self.listener.try_clone()?)));
        let (lock, listener) = copies.map_err(ServerError::TakeOver)?;
        Ok(StateDirectory::inherited(&self.state_dir, lock, listener))
    }

    /// Tells the old tracker to end, since the new workers serve, and loads the changes that it received meanwhile.
    pub(super) fn shut_down(
        self,
        state: Weak<StateDirectory>,
        owners: Owners,
        orders: Orders,
        control: Arc<Control>,
    ) -> Result<(), ServerError> {
        // If the service manager saw the old process end first, it would consider the service ended.
        if let Err(error) = sd_notify::notify(&[NotifyState::MainPid(std::process::id())]) {
            tracing::warn!("can't notify the service manager of the new process: {error}");
        }
        self.channel.send(&Message::Serving, &[]).map_err(ServerError::TakeOver)?;
        let enter = move || {
            match self.channel.receive(TABLES) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                _ => tracing::error!("the old tracker does not end"),
            }
            let Some(state) = state.upgrade() else { return };
            match state.load_late(&owners, &orders) {
                Ok(files) => tracing::info!("taken over; loaded late changes from {files} files"),
                Err(error) => tracing::error!("changes during the takeover are lost: {error}"),
            }
            control.resume_snapshots();
        };
        let spawned = thread::Builder::new().name("gyre-takeover".into()).spawn(enter);
        spawned.map(drop).map_err(|source| ServerError::System { what: "can't start a thread", source })
    }
}
