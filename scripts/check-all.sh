#!/usr/bin/env bash
# Everything: scripts/check.sh, then what takes long or needs large programs: the programs as users get them, a browser,
# real BitTorrent clients, sanitizers, thousands of simulated worlds, all fuzz targets, floods. Goes on after a step that
# fails, and exits with 1 at the end then. Installs what it needs. Takes an hour or so on two cores; run it before an issue
# is called done.
#
#     scripts/check-all.sh [--from NAME]   from the step whose name begins so
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=lib/steps.sh
. scripts/lib/steps.sh

from=''
case ${1-} in
'') ;;
--from) from=${2?--from needs the beginning of a step\'s name} ;;
*) echo "check-all: error: what is $1? See the head of this file" >&2 && exit 2 ;;
esac
failed=()
trap 'end_steps $?' EXIT

# run NAME COMMAND...: a step.
run() {
    [[ $1 == "$from"* ]] || return 0
    from=''
    step "$1"
    "${@:2}" || { failed+=("$1") && fail_step; }
}

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
jobs=$(nproc)

run "check.sh" scripts/check.sh
run "a release, as the README's command builds it" cargo build --locked --release --bin gyre
run "gyre and gyre-load, as they are packed and measured" cargo build --locked --profile dist --bins
run "a panic aborts" scripts/panic-test.sh release dist

# What follows tries the programs that were built.
export GYRE_BIN=$target/dist GYRE=$target/dist/gyre
[[ $from ]] || install man=man-db systemd-analyze=systemd
run "the Debian package, installed and purged" scripts/deb-test.sh
run "the live page in a real browser" scripts/page-test.sh
run "transfers between real clients" scripts/interop.sh
run "faults under load" scripts/faults.sh --rounds 5 --stop 5
run "abuse by HTTP" scripts/abuse.sh --connections 1000 --limit 1500 --duration 3 --warmup 1
run "floods by UDP" scripts/flood.sh --rounds 1 --duration 2
run "a soak of two minutes" scripts/soak.sh --minutes 2 --every 5 --peers 20000 --rate 2000
run "simulated worlds" scripts/simulate.sh --seeds 500
run "planted bugs" scripts/simulate.sh --canaries
run "fuzz targets, five seconds each" scripts/fuzz.sh --seconds 5 --jobs "$jobs"
run "sanitizers" scripts/sanitize.sh
run "instruction counts at 1 %" scripts/instructions.sh

[[ ! $from ]] || { echo "check-all: error: no step begins with \"$from\"" >&2 && exit 2; }
exit $((${#failed[@]} > 0))
