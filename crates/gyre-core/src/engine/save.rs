//! Owns the slices in which a worker writes its table to a snapshot. The worker runs turns between the slices.

use crate::engine::Engine;
use crate::snapshot::{file_head, put_block, put_slice};
use crate::swarm::Position;

/// The progress of writing a worker's part of a snapshot.
#[derive(Debug)]
pub struct SnapshotWriter {
    /// Where the next slice begins; `None` at the end of the table.
    position: Option<Position>,
    /// Peers whose last announce is older are left out.
    young_secs: Option<u32>,
}

impl SnapshotWriter {
    /// Starts a snapshot: appends the head of the file to `out`. With `young_secs`, peers whose last announce is older
    /// are left out.
    pub fn start(young_secs: Option<u32>, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&file_head());
        Self { position: Some(Position::default()), young_secs }
    }

    /// Returns whether the snapshot is complete.
    pub fn is_done(&self) -> bool {
        self.position.is_none()
    }
}

impl Engine {
    /// Appends the next slice of the table to `out`: at least `pieces` swarms and peers, up to the end of a bucket.
    /// After the last slice it appends the end of the file.
    pub fn save_slice(&self, writer: &mut SnapshotWriter, pieces: usize, unix_secs: u64, out: &mut Vec<u8>) {
        let Some(from) = writer.position else { return };
        writer.position = put_slice(out, self.save(from), pieces, unix_secs, writer.young_secs);
        if writer.is_done() {
            put_block(out, unix_secs, []);
        }
    }
}
