//! Owns the doctor's part of the API.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Done, Watched, no_store};
use crate::doctor;
use crate::error::TrackerError;
use crate::limits::ADMIN_DOCTOR_INTERVAL_S;
use crate::web::HttpConnection;

/// `GET /api/doctor`: the output of `gyre doctor --json`.
pub(super) async fn examine(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let examine = async {
        let (done, findings) = oneshot::channel();
        let config = watched.config.clone();
        // The doctor blocks on samples and commands, which a worker must not do.
        let thread = std::thread::Builder::new().name("gyre-doctor".into());
        let examine = move || drop(done.send(doctor::to_json(&doctor::examine(&config, &[]))));
        thread.spawn(examine).map_err(TrackerError::internal)?;
        findings.await.map(Arc::from).map_err(TrackerError::internal)
    };
    let found = watched.findings.get(examine, |_| Duration::from_secs(ADMIN_DOCTOR_INTERVAL_S)).await?;
    no_store(connection)?;
    connection.set_content_type("application/json")?;
    connection.send(found.to_string()).await
}
