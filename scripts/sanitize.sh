#!/usr/bin/env bash
# Runs the tests under sanitizers. They find errors that neither the compiler nor Miri can: in rings with a real kernel,
# and between threads. Needs a nightly toolchain, and prints what it skips. Takes some ten minutes on two cores.
#
#     scripts/sanitize.sh [address] [thread]
#
# address: memory that is used after its end or beyond its bounds, and leaks; over all tests of the libraries, and over
#          whole trackers. It does not see writes of the kernel into buffers, but it does see code that uses such a
#          buffer after it was freed.
# thread:  data races; over what threads share: queues between workers, counters, doorbells, swapped tables, stores of
#          sessions, and trackers with several workers. The standard library is built with it too, otherwise its
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
    # C code of dependencies is not built with the sanitizer. The allocator in C would hide errors.
    CARGO_TARGET_DIR=$folder/sanitize-$sanitizer RUSTFLAGS=-Zsanitizer=$sanitizer \
        rustup run nightly cargo test --locked -p gyre-tracker -p gyre-core -p gyre-web --target "$HOST" "$@"
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
    # The program's allocator in C looks unsynchronised, and thousands of waiting requests take too long here.
    nightly thread -Zbuild-std --test tracker -- --skip the_program_serves_the_admin_listener \
        --skip the_number_of_waiting_requests_is_limited
}

(($#)) || set -- address thread
for sanitizer; do
    case $sanitizer in
        address | thread) "$sanitizer" ;;
        *) echo "sanitize: error: unknown sanitizer: $sanitizer; must be address or thread" >&2; exit 2 ;;
    esac
done
