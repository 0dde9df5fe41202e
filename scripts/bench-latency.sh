#!/usr/bin/env bash
# Measures UDP latency in an open loop at 50, 70 and 90 % of the measured maximum, with a full table that is swept.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
peers=1000000
read_options 'bench-latency.sh [--peers N]: measures the UDP latency of gyre at 50, 70 and 90 % of its maximum rate, with N
peers (default: a million) in the table and the sweep running' "$@"
while ((${#words[@]})); do
    case ${words[0]} in
    --peers) peers=${words[1]?--peers needs a number} && words=("${words[@]:2}") ;;
    *) die "unknown argument: ${words[0]}; see --help" ;;
    esac
done
prepare
print_machine
load=(--peers "$peers" --mix 'connect:1,announce:10' --sources 32 --fill)
port=$(free_port)
start_tracker udp gyre "$port"
await_server udp "$port"
run_load udp "$port" "$scratch/max.json" "${load[@]}" --pipeline 8
most=$(calculate "$(figure replies_per_sec "$scratch/max.json")")
say "maximum rate, in a closed loop: $most replies/s"
files=()
for percent in 50 70 90; do
    for round in $(seq "$rounds"); do
        run_load udp "$port" "$scratch/$percent-$round.json" "${load[@]}" --rate $((most * percent / 100))
        files+=("at-$percent%=$scratch/$percent-$round.json")
    done
done
stop_server
gyre_load compare "${files[@]}"
