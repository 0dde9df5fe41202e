//! Owns the writing of a worker's table to a file, on the runtime's ring, a slice at a time between the worker's turns.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::fs::File;

use super::{PanicGuard, Shared};
use crate::engine::SnapshotWriter;
use crate::limits::{SNAPSHOT_PAUSE_MS, SNAPSHOT_SLICE};
use crate::time::unix_secs;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The file's length.
    pub bytes: u64,
    /// For how long requests had to wait for a slice, at most.
    pub longest_slice: Duration,
}

/// Writes all of the table, or at the worker's end what is young of it, without a pause; returns once the disk has it.
pub(super) async fn save(
    shared: Rc<Shared>,
    file: std::fs::File,
    young_secs: Option<u32>,
) -> io::Result<Written> {
    let _guard = PanicGuard(shared.clone());
    let file = File::from_std(file);
    let (mut out, mut written) = (Vec::new(), Written::default());
    let mut writer = SnapshotWriter::start(young_secs, &mut out);
    while !writer.is_done() {
        let began = shared.clock.now();
        shared.engine.borrow().save_slice(&mut writer, SNAPSHOT_SLICE, unix_secs(), &mut out);
        written.longest_slice = written.longest_slice.max(shared.clock.now().since(began));
        if out.is_empty() {
            continue; // nothing young
        }
        shared.handover.unsubmitted.set(true);
        let (result, buffer) = file.write_all_at(out, written.bytes).await;
        result?;
        out = buffer;
        written.bytes += out.len() as u64;
        out.clear();
        if young_secs.is_none() && !writer.is_done() {
            tokio::time::sleep(Duration::from_millis(SNAPSHOT_PAUSE_MS)).await;
        }
    }
    shared.handover.unsubmitted.set(true);
    file.sync_all().await?;
    shared.handover.unsubmitted.set(true);
    file.close().await?;
    Ok(written)
}
