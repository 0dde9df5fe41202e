//! Owns what is the process's alone: its limits and its randomness.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sees to it that the process may open so many descriptors, raising its limit if it can. Returns the limit that holds
/// if that is too low.
pub fn raise_descriptor_limit(needed: u64) -> Result<(), u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current.filter(|&current| current < needed) else {
        return Ok(());
    };
    // As root the hard limit can be raised too; else what it allows is taken.
    let both = Rlimit { current: Some(needed), maximum: maximum.map(|maximum| maximum.max(needed)) };
    if setrlimit(Resource::Nofile, both).is_ok() {
        return Ok(());
    }
    let most = maximum.unwrap_or(u64::MAX).max(current);
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }) {
        Ok(()) if most >= needed => Ok(()),
        Ok(()) => Err(most),
        Err(_) => Err(current),
    }
}

/// Bytes that nobody can guess.
///
/// # Errors
///
/// As `getrandom(2)`.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}
