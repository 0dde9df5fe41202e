#!/usr/bin/env bash
# Runs the simulated tracker (crates/gyre-core/tests/simulation) in many worlds, optimised and on all cores, and prints
# what happened in them.
#   scripts/simulate.sh               2,000 seeds: some minutes on two cores
#   scripts/simulate.sh --seeds N     N seeds
#   scripts/simulate.sh --from S      seeds from S on
#   scripts/simulate.sh --seed S      only seed S, as printed by a failure
#   scripts/simulate.sh --canaries    planted bugs, and the world in which each is found
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "$*" >&2
    exit 2
}

number() {
    [[ ${2-} =~ ^[0-9]+$ ]] || fail "$1 needs a number"
}

seeds=2000 features=() test=many_worlds_hold
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
