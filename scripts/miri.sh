#!/usr/bin/env bash
# Runs the tests of the swarm table under Miri, which sees what the compiler can't: reads of memory that nothing was
# written to, overflow, bounds. Needs a nightly toolchain; without one it says so and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustup run nightly cargo --version >/dev/null 2>&1; then
    echo "no nightly toolchain: Miri is skipped"
    exit 0
fi
if ! rustup run nightly cargo miri --version >/dev/null 2>&1; then
    if ! rustup component add --toolchain nightly miri rust-src; then
        echo "this nightly has no Miri: skipped"
        exit 0
    fi
fi
# Those that an interpreter is through with in a minute or two. Property tests look at the environment: no isolation.
tests=(swarm::linear swarm::record swarm::ticks a_pool_counts agrees_with_the_oracle completed_counts_once leaps_add_up
    restored_downloads ids_are_kept)
MIRIFLAGS="-Zmiri-disable-isolation" rustup run nightly cargo miri test --locked -p gyre-core --lib -- "${tests[@]}"
