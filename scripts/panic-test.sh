#!/usr/bin/env bash
# Proves that a worker's panic ends the whole process in the programs that users get: the profiles `release` and `dist`
# abort. The program (tests/programs/panicking.rs) is built like gyre, but has a middleware that panics; gyre itself has no
# way to be made to. What a server does where panics unwind is tested by `cargo test`.
#
#     scripts/panic-test.sh [PROFILE...]   by default release and dist: minutes, unless their libraries are built
set -euo pipefail
cd "$(dirname "$0")/.."

(($#)) || set -- release dist
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for profile; do
    cargo build --locked --profile "$profile" --example panicking
    code=0
    # The outer redirection is for what bash says about a program that aborts.
    { (ulimit -c 0 && timeout 60 "${CARGO_TARGET_DIR:-target}/$profile/examples/panicking") >"$out" 2>&1 || code=$?; } 2>/dev/null
    if ((code != 134)) || ! grep -q "^thread 'gyre-0' .*panicked at" "$out" || ! grep -q "^a fault of the program's" "$out"; then
        echo "failed: with $profile it ends with $code instead of 134 (SIGABRT), and says:"
        cat "$out"
        exit 1
    fi
    echo "ok: with $profile a panic aborts"
done
