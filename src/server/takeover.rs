//! Owns the taking over from a tracker that runs, on the side of the new one. What is said is in `passing`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::Socket;

use super::control::{Control, Orders};
use super::passing::{Channel, Message, VERSION, Welcome, unexpected};
use super::state::{HANDOVER, StateDirectory};
use crate::error::ServerError;
use crate::limits::{HANDOVER_ANSWER_MS, HANDOVER_TABLES_S};
use crate::owner::Owners;
use crate::time::{Clock, Timestamp};

const ANSWER: Duration = Duration::from_millis(HANDOVER_ANSWER_MS);
const TABLES: Duration = Duration::from_secs(HANDOVER_TABLES_S);

/// A tracker that runs, as the one sees it that is to take over.
pub(super) struct Predecessor {
    state_dir: PathBuf,
    channel: Channel,
    welcome: Welcome,
    /// Started when it said so.
    heard: Clock,
    lock: File,
    listener: Socket,
}

impl Predecessor {
    /// Asks the tracker with this state directory for what it has; returns the sockets that it serves at. `None`: there
    /// is none.
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
            return Err(io::Error::other("nothing was handed over"));
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

    /// The time of day as that tracker reckons it, so that connection ids end at the same moment in both.
    pub(super) fn unix_time(&self) -> Duration {
        Duration::from_micros(self.welcome.unix_micros) + self.heard.now().since(Timestamp::default())
    }

    /// The state directory, with a snapshot that was written just now.
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

    /// Lets the other tracker end, since our workers serve, and has them enter what came to it meanwhile.
    pub(super) fn relieve(
        self,
        state: Weak<StateDirectory>,
        owners: Owners,
        orders: Orders,
        control: Arc<Control>,
    ) -> Result<(), ServerError> {
        // If the service manager saw that one end first, it would take the service for ended.
        if let Err(error) = sd_notify::notify(&[NotifyState::MainPid(std::process::id())]) {
            tracing::warn!("the service manager can't be told of the new process: {error}");
        }
        self.channel.send(&Message::Serving, &[]).map_err(ServerError::TakeOver)?;
        let enter = move || {
            match self.channel.receive(TABLES) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                _ => tracing::error!("the tracker that was taken over from does not end"),
            }
            let Some(state) = state.upgrade() else { return };
            match state.load_late(&owners, &orders) {
                Ok(files) => tracing::info!("taken over, with {files} files of what came meanwhile"),
                Err(error) => tracing::error!("what came while it was taken over is lost: {error}"),
            }
            control.resume_snapshots();
        };
        let spawned = thread::Builder::new().name("gyre-takeover".into()).spawn(enter);
        spawned.map(drop).map_err(|source| ServerError::System { what: "a thread can't be started", source })
    }
}
