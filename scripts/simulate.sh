#!/usr/bin/env bash
# Runs the simulation of the tracker (crates/gyre-core/tests/simulation) for many seeds, optimised and on all cores, and
# prints how often each kind of event occurred.
#   scripts/simulate.sh               2,000 seeds, a few minutes on two cores
#   scripts/simulate.sh --seeds N     N seeds
#   scripts/simulate.sh --from S      N seeds, starting with S
#   scripts/simulate.sh --seed S      only seed S, as printed after a failure
#   scripts/simulate.sh --canaries    plant each known bug and check that it is found
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "$*" >&2
    exit 2
}

number() {
    [[ ${2-} =~ ^[0-9]+$ ]] || fail "$1 needs a number"
}

seeds=2000 features=() test=all_seeds_pass
while [ $# -gt 0 ]; do
    case $1 in
    --seeds) number "$@" && seeds=$2 && shift ;;
    --from) number "$@" && export GYRE_SIM_FROM=$2 && shift ;;
    --seed) number "$@" && export GYRE_SIM_SEED=$2 && shift ;;
    --canaries) features=(--features canary) test=each_planted_bug_is_found ;;
    *) fail "unknown option: $1; the options are --seeds N, --from S, --seed S and --canaries" ;;
    esac
    shift
done
export GYRE_SIM_SEEDS=$seeds
exec cargo test --locked -p gyre-core "${features[@]}" --profile simulation --test simulation -- \
    --nocapture "$test"
