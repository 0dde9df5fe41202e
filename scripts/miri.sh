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
# Property tests write their failures down, and look at the environment for that.
MIRIFLAGS="-Zmiri-disable-isolation" rustup run nightly cargo miri test --locked --lib -- swarm:: "$@"
