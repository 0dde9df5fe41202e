//! Owns the keyed hash for tables whose keys are chosen by clients.

use std::hash::Hasher;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

/// A hash with secret seeds, so that an attacker can't choose keys that collide in one bucket.
pub(crate) struct KeyedHash {
    seed: u64,
    shared_seed: SharedSeed,
}

impl KeyedHash {
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self { seed: key[0], shared_seed: SharedSeed::from_u64(key[1]) }
    }

    #[inline(always)]
    pub(crate) fn of(&self, bytes: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared_seed);
        hasher.write(bytes);
        hasher.finish()
    }
}
