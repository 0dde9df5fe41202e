#!/usr/bin/env bash
# Compares the instruction counts of the hot functions (benches/instructions, profile bench) with those of another
# revision, built with the same compiler. Exits with 1 if one has risen by more than 1 %.
#
#     scripts/instructions.sh --base REV [CASE...]   with those of a revision; takes some minutes on two cores
#     scripts/instructions.sh [CASE...]              with those noted in benches/instructions/main.rs
#
# CASE is a part of a case's name. Needs valgrind. The program of a revision is kept in target/instructions.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "instructions: error: $*" >&2
    exit 2
}

# built FOLDER: builds the counter of the tree in a folder, prints where it is.
built() {
    local options=(--no-default-features)
    [[ ! -d $1/crates/gyre-core ]] || options=(-p gyre-core)
    (cd "$1" && cargo bench --locked "${options[@]}" --bench instructions --no-run --message-format json) |
        sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p'
}

base='' cases=()
while (($#)); do
    case $1 in
    --base) base=${2?--base needs a revision} && shift ;;
    -*) die "there is no option $1; see the head of this file" ;;
    *) cases+=("$1") ;;
    esac
    shift
done
command -v valgrind >/dev/null || die "valgrind is not installed"

options=(--strict)
if [[ $base ]]; then
    commit=$(git rev-parse --verify --quiet "$base^{commit}") || die "there is no revision $base"
    folder=$(realpath -m "${CARGO_TARGET_DIR:-target}/instructions")
    before=$folder/${commit:0:12}-$(rustc -vV | sha256sum | cut -c 1-12)
    if [[ ! -x $before ]]; then
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        git archive "$commit" | tar -x -C "$scratch"
        program=$(CARGO_TARGET_DIR=$folder/build built "$scratch")
        cp "$program" "$before"
    fi
    options=("--base=$before")
else
    noted=$(sed -n 's/.*with Rust \([0-9.]*\)\.$/\1/p' benches/instructions/main.rs)
    [[ $(rustc --version) == "rustc $noted."* ]] || echo "the counts were noted with Rust $noted, this is $(rustc --version)"
fi
"$(built .)" --bench "${options[@]}" "${cases[@]}"
