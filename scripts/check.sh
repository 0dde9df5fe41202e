#!/usr/bin/env bash
# Everything that must hold before a change lands, and all that CI runs: formatting, lints, tests, documentation, and
# files really transferred between real clients. Installs what it needs. Takes some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

# need COMMAND PACKAGE: installs a Debian package if its command isn't there.
need() {
    command -v "$1" >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends "$2"; }
}

for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done

step "formatting"
cargo fmt --check

step "lints"
cargo clippy --locked --all-targets --features canary -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "tests (the README's command)"
need curl curl
cargo test --locked

step "shell scripts"
need shellcheck shellcheck
shellcheck -x .ci/* scripts/*.sh scripts/lib/*.sh tuning/*.sh

step "the tuning, applied and reverted"
need nft nftables
need ethtool ethtool
need ip iproute2
scripts/tuning-test.sh

# Links for minutes on one core, beside what follows; load doesn't change what it counts.
count=(cargo bench --locked --no-default-features --bench instructions)
"${count[@]}" --no-run &
counter=$!
trap 'kill "$counter" 2>/dev/null || true' EXIT

step "the swarm table under Miri"
scripts/miri.sh

step "fuzz targets: seeds, regressions, and a second each"
need c++ g++
scripts/fuzz.sh --smoke

step "licences and duplicates of the dependencies"
scripts/deny.sh

step "instructions of the hot functions"
need valgrind valgrind
wait "$counter"
trap - EXIT # its number may be another program's by now
"${count[@]}"

# What follows tries the programs that the tests were run with: a release takes minutes to link.
GYRE_BIN=$(realpath "${CARGO_TARGET_DIR:-target}/debug")
export GYRE_BIN GYRE=$GYRE_BIN/gyre DEB_PROFILE=test

step "the bench scripts, for a second each"
scripts/bench-test.sh

step "the live page in a real browser"
scripts/page-test.sh

step "the Debian package, installed and purged"
need man man-db
need systemd-analyze systemd
scripts/deb-test.sh

step "transfers between real clients"
scripts/interop.sh
