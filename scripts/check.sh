#!/usr/bin/env bash
# All checks that a change must pass before it lands, and all that CI runs: formatting, lints, documentation, tests, and
# short runs of the tools. Installs what it needs, and prints the seconds of each step at the end. Takes at most 12 minutes
# on two cores, all builds included. scripts/check-all.sh runs what takes longer, or needs large programs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=lib/steps.sh
. scripts/lib/steps.sh
counter=
end() {
    local code=$?
    [[ -z $counter ]] || kill "$counter" 2>/dev/null || true
    end_steps $code
}
trap end EXIT

step "tools"
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done
install curl=curl shellcheck=shellcheck nft=nftables ethtool=ethtool ip=iproute2 c++=g++ valgrind=valgrind \
    python3=python3 pip3=python3-pip pgrep=procps

step "formatting"
cargo fmt --check
cargo fmt --check --manifest-path fuzz/Cargo.toml

step "shell scripts"
shellcheck -x .ci/* scripts/*.sh scripts/lib/*.sh tuning/*.sh

step "lints"
cargo clippy --locked --all-targets --features gyre-core/canary -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "tests (the README's command)"
cargo test --locked

# The same features as above, so that nothing but the core is built again.
step "planted bugs are found"
cargo test --locked --features gyre-core/canary --test simulation -- each_planted_bug_is_found

step "the tuning, applied and reverted"
scripts/tuning-test.sh

step "the bench scripts, for a second each"
GYRE_BIN=$(realpath "${CARGO_TARGET_DIR:-target}/debug") scripts/bench-test.sh

# Links on one core, beside what follows; load doesn't change what it counts.
count=(cargo bench --locked -p gyre-core --bench instructions)
"${count[@]}" --no-run &
counter=$!

step "the swarm table under Miri"
scripts/miri.sh

step "fuzz targets: seeds, regressions, and a second each"
scripts/fuzz.sh --smoke

step "licences and duplicates of the dependencies"
scripts/deny.sh

step "instructions of the hot functions"
wait "$counter"
counter= # its number may be another program's by now
"${count[@]}"
