#!/usr/bin/env bash
# Runs the tests under sanitizers, which see what neither the compiler nor Miri can: rings with a real kernel, and
# threads. Needs a nightly toolchain; says what it skips. Takes some ten minutes on two cores.
#
#     scripts/sanitize.sh [address] [thread]
#
# address: memory that is used after its end or beyond its bounds, and leaks; over all tests of the libraries, and over
#          trackers with all that they do. The kernel writes into buffers of ours, which it does not see; but whoever
#          uses such a buffer after its end, it does.
# thread:  data races; over what threads share: queues between workers, counters, doorbells, tables that are swapped,
#          stores of sessions, and trackers of several workers. The standard library is built with it, or its own
#          synchronisation would look like races.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustup run nightly cargo --version >/dev/null 2>&1; then
    echo "no nightly toolchain: sanitizers are skipped"
    exit 0
fi
HOST=$(rustc -vV | sed -n 's/^host: //p')
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")

# nightly SANITIZER FLAGS ARGUMENTS of cargo test ...
nightly() {
    local sanitizer=$1
    shift
    # C code of dependencies is not built with it; an allocator of their own would hide what it looks for.
    CARGO_TARGET_DIR=$folder/sanitize-$sanitizer RUSTFLAGS=-Zsanitizer=$sanitizer \
        rustup run nightly cargo test --locked -p gyre-tracker -p gyre-core -p gyre-web --target "$HOST" \
        "$@"
}

address() {
    nightly address --lib --test tracker --test web
}

thread() {
    if ! rustup component list --toolchain nightly | grep -q '^rust-src.*(installed)' &&
        ! rustup component add --toolchain nightly rust-src; then
        echo "this nightly's standard library has no source here: ThreadSanitizer is skipped"
        return
    fi
    nightly thread -Zbuild-std --lib -- mesh counters doorbell session worker ring
    # The program has an allocator in C, which is not seen to synchronise; and thousands that wait take too long here.
    nightly thread -Zbuild-std --test tracker -- --skip the_program_serves_it --skip only_so_many_wait
}

(($#)) || set -- address thread
for sanitizer; do
    case $sanitizer in
        address | thread) "$sanitizer" ;;
        *) echo "sanitize: error: there is no sanitizer $sanitizer; these are: address, thread" >&2; exit 2 ;;
    esac
done
