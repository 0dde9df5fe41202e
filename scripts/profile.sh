#!/usr/bin/env bash
# Profiles gyre under load with perf.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'profile.sh [--http|--http-close] [--flame FILE.svg]: profiles gyre under load with perf, and with --flame draws
a flame graph (requires inferno: cargo install inferno)' "$@"
protocol=udp options=() flame=
while ((${#words[@]})); do
    case ${words[0]} in
    --http) protocol=http options=(--keep-alive) ;;
    --http-close) protocol=http options=(--close) ;;
    --flame)
        flame=${words[1]?--flame needs a file}
        words=("${words[@]:1}")
        ;;
    *) die "unknown argument: ${words[0]}; see --help" ;;
    esac
    words=("${words[@]:1}")
done
command -v perf >/dev/null || die "perf is not installed (Debian: linux-perf)"
if [ -n "$flame" ]; then
    command -v inferno-collapse-perf >/dev/null || die "inferno is not installed: cargo install inferno"
fi
prepare
print_machine
port=$(free_port)
start_tracker "$protocol" gyre "$port"
await_server "$protocol" "$port"
# Without hardware counters (in virtual machines), samples are taken by the kernel's clock.
event=cycles
if [[ $(perf stat -e cycles true 2>&1) = *'<not supported>'* ]]; then event=cpu-clock; fi
perf record -q -e "$event" -g -p "$server" -o "$scratch/perf.data" -- sleep "$duration" &
recorder=$!
duration=$((duration + 2)) run_load "$protocol" "$port" "$scratch/load.json" "${options[@]}"
wait "$recorder" || true
stop_server
if [ -n "$flame" ]; then
    perf script -i "$scratch/perf.data" | inferno-collapse-perf | inferno-flamegraph >"$flame"
    say "flame graph: $flame"
else
    perf report -i "$scratch/perf.data" --stdio --no-children -g none --percent-limit 0.5 2>/dev/null | grep -v '^$'
fi
gyre_load compare "gyre=$scratch/load.json"
