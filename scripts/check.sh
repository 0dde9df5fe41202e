#!/usr/bin/env bash
# Everything that must hold before a change lands, and all that CI runs: formatting, lints, tests, documentation, and
# files really transferred between real clients. Installs what it needs. Takes some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done

step "formatting"
cargo fmt --check

step "lints"
cargo clippy --locked --all-targets -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "tests (the README's command)"
cargo test --locked

step "the swarm table under Miri"
scripts/miri.sh

step "instructions of the hot functions"
if ! command -v valgrind >/dev/null; then
    apt-get update -q && apt-get install -q -y --no-install-recommends valgrind
fi
cargo bench --locked --bench instructions

step "transfers between real clients"
cargo build --locked --release
scripts/interop.sh
