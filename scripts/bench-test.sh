#!/usr/bin/env bash
# Tests the bench scripts with short runs: each prints its table, ends its processes, and rejects invalid input. The
# figures of these runs mean nothing. Takes half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# expect PATTERN SCRIPT OPTIONS...: the script must succeed and print a line that matches PATTERN.
expect() {
    local pattern=$1
    shift
    if ! "scripts/$1" "${@:2}" >"$scratch/out" 2>"$scratch/err" || ! grep -Eq "$pattern" "$scratch/out"; then
        printf 'failed: %s\n' "$*"
        cat "$scratch/out" "$scratch/err"
        exit 1
    fi
    printf 'ok: %s\n' "$*"
}

# fail PATTERN SCRIPT OPTIONS...: the script must exit with 1 and print a line that matches PATTERN.
fail() {
    local pattern=$1 code=0
    shift
    "scripts/$1" "${@:2}" >"$scratch/out" 2>"$scratch/err" || code=$?
    if [ "$code" != 1 ] || ! grep -Eq "$pattern" "$scratch/out"; then
        printf 'failed: %s: exit %s\n' "$*" "$code"
        cat "$scratch/out" "$scratch/err"
        exit 1
    fi
    printf 'ok: %s fails\n' "$*"
}

# refuse PATTERN SCRIPT OPTIONS...: the script must exit with 2 and print a single line, which matches PATTERN.
refuse() {
    local pattern=$1 code=0
    shift
    "scripts/$1" "${@:2}" >"$scratch/out" 2>"$scratch/err" || code=$?
    if [ "$code" != 2 ] || [ "$(wc -l <"$scratch/err")" != 1 ] || ! grep -Eq "$pattern" "$scratch/err"; then
        printf 'failed: %s: exit %s\n' "$*" "$code"
        cat "$scratch/out" "$scratch/err"
        exit 1
    fi
    printf 'ok: %s is refused\n' "$*"
}

short=(--rounds 1 --duration 0.3 --warmup 0.1)
small=(-- --peers 500 --torrents 50)
own="${GYRE_BIN:-$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/dist}"
expect '^gyre +1 +[0-9]+ +[0-9.]+ ' bench-udp.sh "${short[@]}" "${small[@]}"
expect '^gyre +1 +[0-9]+ +[0-9.]+ ' bench-http.sh "${short[@]}" "${small[@]}"
expect '^mine +1 +[0-9]+ +[0-9.]+ ' bench-compare.sh --http-close gyre \
    "mine=$own/gyre serve --no-admin --allow-root --udp 127.0.0.1:{port} --http 127.0.0.1:{port} --cores {cores}" "${short[@]}" "${small[@]}"
expect '^ +1000 gyre +[0-9.]+ +[0-9.]+ ' bench-rates.sh --udp --rates 1000 --only floor,gyre "${short[@]}" "${small[@]}"
expect '^at-90% +1 ' bench-latency.sh --peers 2000 "${short[@]}"
expect '^1-workers +1 ' bench-cores.sh "${short[@]}" "${small[@]}"
expect ' bytes a peer$' bench-memory.sh --peers 20000 --torrents 500 --duration 0.3 --warmup 0
expect '^slow +100 ' abuse.sh slow --connections 100 "${short[@]}"
expect '^kill: 1 times ' faults.sh kill "${short[@]}"
expect '^bad-ids +[0-9.]+ +[0-9.]+ +[0-9.]+ ' flood.sh --capacity 2000 --rate 20000 mad "${short[@]}" "${small[@]}"
soak=(--minutes 0.07 --every 0.5 --peers 5000 --rate 500 --costlier 1000 --slower 1000)
expect '^ok +peers: ' soak.sh "${soak[@]}" --growth 1000
fail '^FAIL +resident MiB: ' soak.sh "${soak[@]}" --growth -90
refuse 'at least 8 are required' soak.sh --minutes 1 --every 10
refuse 'unknown argument: nonsense' bench-udp.sh nonsense
refuse 'needs a value' bench-http.sh --duration
refuse 'not x$' bench-udp.sh --rounds x
refuse 'name the trackers' bench-compare.sh
refuse 'unknown tracker: no_such' bench-compare.sh no_such
refuse 'unknown tracker: no_such' bench-rates.sh --only gyre,no_such
refuse 'not fast$' bench-rates.sh --rates 1000,fast

if pgrep -f "$own/gyre(-load)? " >/dev/null; then
    echo "failed: a program that the scripts started is still running"
    exit 1
fi
