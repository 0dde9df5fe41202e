//! Owns what the workers begin with: the rule of ownership, an engine for each with its part of the last snapshot, and
//! the lists.

use std::time::Duration;

use super::control::Charge;
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

/// What the workers begin with, and what is looked after while they run.
pub(super) struct Tables {
    pub(super) owners: Owners,
    pub(super) engines: Vec<Engine>,
    pub(super) charge: Charge,
    /// When the clock was started, as the connection ids reckon.
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
            tracing::info!("{peers} peers from {files} files of the last snapshot, in {took:.1} s");
        }
        engines.iter_mut().for_each(|engine| engine.set_access(known.clone()));
        let interval = Duration::from_secs(config.snapshot_interval_secs.into());
        let paused = predecessor.is_some();
        let charge = Charge { lists, known, own_lists, state, interval, paused, clock };
        Ok(Self { owners, engines, charge, started_unix })
    }
}

/// What of the process's memory each worker's table may take.
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

/// What the process may take if nobody says it.
pub(crate) fn default_memory_bytes() -> u64 {
    sys::memory_bytes() / DEFAULT_MEMORY_DIVISOR
}

/// What the engines are told of the configuration.
pub(super) fn policy(config: &Config, table_bytes: usize) -> Policy {
    Policy {
        announce_interval_secs: config.announce_interval_secs,
        min_interval_secs: config.min_interval_secs,
        max_peers: config.max_peers,
        peer_timeout_secs: config.peer_timeout_secs,
        table_bytes,
    }
}

/// An engine for each worker.
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
    sys::random().map_err(|source| ServerError::System { what: "random numbers can't be had", source })
}
