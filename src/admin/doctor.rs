//! Owns the doctor over HTTP: one examination at a time, kept for a while.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};

use super::{Done, Watched, no_store};
use crate::doctor;
use crate::error::TrackerError;
use crate::limits::ADMIN_DOCTOR_INTERVAL_S;
use crate::time::{Clock, Timestamp};
use crate::web::HttpConnection;

/// Where it is asked.
pub(super) struct Office {
    /// What was found last, and until when that holds.
    found: Mutex<(Option<Arc<str>>, Timestamp)>,
    clock: Clock,
}

impl Default for Office {
    fn default() -> Self {
        Self { found: Mutex::default(), clock: Clock::start() }
    }
}

/// `GET /api/doctor`: what `gyre doctor --json` says.
pub(super) async fn examine(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let Office { found, clock } = &watched.doctor;
    let text = {
        let mut found = found.lock().await; // who comes meanwhile waits for the same
        match &mut *found {
            (Some(text), until) if clock.now() < *until => text.clone(),
            (text, until) => {
                let (done, findings) = oneshot::channel();
                let config = watched.config.clone();
                // It waits for samples and commands, which no worker may.
                let thread = std::thread::Builder::new().name("gyre-doctor".into());
                let examine = move || drop(done.send(doctor::to_json(&doctor::examine(&config, &[]))));
                thread.spawn(examine).map_err(TrackerError::internal)?;
                let new: Arc<str> = findings.await.map_err(TrackerError::internal)?.into();
                *until = clock.now() + Duration::from_secs(ADMIN_DOCTOR_INTERVAL_S);
                text.insert(new).clone()
            }
        }
    };
    no_store(connection)?;
    connection.set_content_type("application/json")?;
    connection.send(text.to_string()).await
}
