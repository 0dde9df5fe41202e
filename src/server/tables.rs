//! Owns the initial state of the workers: the rule of ownership, an engine for each with its part of the last snapshot,
//! and the lists.

use std::time::Duration;

use super::control::ControlSetup;
use super::lists::ListFiles;
use super::state::{Loaded, StateDirectory};
use super::takeover::Predecessor;
use crate::config::Config;
use crate::connection_id::ConnectionIds;
use crate::engine::{Engine, Policy, Seeds};
use crate::error::ServerError;
use crate::limits::{
    DEFAULT_MEMORY_DIVISOR, PROCESS_BYTES, TABLE_MIN_BYTES, TABLE_OVERHEAD_PERCENT, WORKER_BYTES,
};
use crate::owner::Owners;
use crate::sys;
use crate::time::{Clock, Timestamp, unix_time};
use crate::types::WorkerId;

/// The initial state of the workers, and what the control thread needs.
pub(super) struct Tables {
    pub(super) owners: Owners,
    pub(super) engines: Vec<Engine>,
    pub(super) control_setup: ControlSetup,
    /// When the clock was started, on the time scale of the connection ids.
    pub(super) started_unix: Duration,
}

impl Tables {
    pub(super) fn prepare(
        config: &Config,
        workers: usize,
        clock: Clock,
        predecessor: Option<&Predecessor>,
    ) -> Result<Self, ServerError> {
        let table_bytes = table_bytes(config, workers)?;
        let own_lists = config.state_dir.as_deref().map(StateDirectory::own_lists);
        let lists = ListFiles::open(&config.lists, own_lists.clone(), clock)?;
        let known = lists.access();
        let state = match predecessor {
            Some(predecessor) => Some(predecessor.state()?),
            None => config.state_dir.as_deref().map(StateDirectory::open).transpose()?,
        };
        let secret = state.as_ref().map_or_else(random, StateDirectory::secret)?;
        let since_start = clock.now().since(Timestamp::default());
        let started_unix = predecessor.map_or_else(unix_time, Predecessor::unix_time) - since_start;
        let ids = ConnectionIds::new(secret, config.connection_id_window_secs, started_unix);
        let owner_key = match predecessor {
            Some(predecessor) => predecessor.owner_key(),
            None => [random()?, random()?, random()?].map(u32::from_ne_bytes),
        };
        let owners = Owners::new(workers, owner_key);
        let mut engines = engines(config, owners, table_bytes, ids)?;
        if let Some(state) = &state {
            let started = clock.now();
            let Loaded { files, peers } = state.load(started, &owners, &mut engines)?;
            let took = clock.now().since(started).as_secs_f64();
            tracing::info!("loaded {peers} peers from {files} files of the last snapshot in {took:.1} s");
        }
        engines.iter_mut().for_each(|engine| engine.set_access(known.clone()));
        let interval = Duration::from_secs(config.snapshot_interval_secs.into());
        let paused = predecessor.is_some();
        let control_setup = ControlSetup { lists, known, own_lists, state, interval, paused, clock };
        Ok(Self { owners, engines, control_setup, started_unix })
    }
}

/// Returns the memory limit of each worker's table in bytes.
pub(crate) fn table_bytes(config: &Config, workers: usize) -> Result<usize, ServerError> {
    let most = config.max_memory_bytes.unwrap_or_else(default_memory_bytes);
    let workers = workers as u64;
    let tables = most.saturating_sub(PROCESS_BYTES + workers * WORKER_BYTES);
    let each = tables / workers * 100 / (100 + TABLE_OVERHEAD_PERCENT);
    if each < TABLE_MIN_BYTES {
        let table = TABLE_MIN_BYTES * (100 + TABLE_OVERHEAD_PERCENT) / 100;
        let needed = PROCESS_BYTES + workers * (WORKER_BYTES + table);
        return Err(ServerError::Memory { most, workers, needed_mib: needed.div_ceil(1 << 20) });
    }
    Ok(each as usize)
}

/// Returns the default memory limit of the process in bytes.
pub(crate) fn default_memory_bytes() -> u64 {
    sys::memory_bytes() / DEFAULT_MEMORY_DIVISOR
}

/// Returns the engines' part of the configuration.
pub(super) fn policy(config: &Config, table_bytes: usize) -> Policy {
    Policy {
        announce_interval_secs: config.announce_interval_secs,
        min_interval_secs: config.min_interval_secs,
        max_peers: config.max_peers,
        peer_timeout_secs: config.peer_timeout_secs,
        table_bytes,
    }
}

/// Creates an engine for each worker.
fn engines(
    config: &Config,
    owners: Owners,
    table_bytes: usize,
    ids: ConnectionIds,
) -> Result<Vec<Engine>, ServerError> {
    let policy = policy(config, table_bytes);
    let engine = |number: usize| {
        let seeds = Seeds { table: random()?, random: u64::from_ne_bytes(random()?) };
        let mut engine = Engine::new(WorkerId(number as u16), owners, policy, ids, seeds);
        engine.set_source_limits(&config.source_limits);
        Ok(engine)
    };
    (0..owners.workers()).map(engine).collect()
}

fn random<const N: usize>() -> Result<[u8; N], ServerError> {
    sys::random().map_err(|source| ServerError::System { what: "can't get random numbers", source })
}
