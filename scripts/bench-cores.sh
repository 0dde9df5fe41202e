#!/usr/bin/env bash
# Measures how gyre scales with its workers: 1, 2, 4 ... up to all cores of --server-cores.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'bench-cores.sh [--http]: measures gyre with 1, 2, 4 ... workers on the first cores of --server-cores. Use many
more --load-cores, otherwise the load generator is the bottleneck' "$@"
protocol=udp
for word in ${words[@]+"${words[@]}"}; do
    [ "$word" = --http ] || die "unknown option: $word; see --help"
    protocol=http
done
prepare
print_machine
cores=()
for part in ${server_cores//,/ }; do
    for core in $(seq "${part%-*}" "${part#*-}"); do cores+=("$core"); done
done
counts=()
for ((count = 1; count < ${#cores[@]}; count *= 2)); do counts+=("$count"); done
files=()
for round in $(seq "$rounds"); do
    for count in "${counts[@]}" "${#cores[@]}"; do
        server_cores=$(IFS=, && echo "${cores[*]:0:count}")
        port=$(free_port)
        start_tracker "$protocol" gyre "$port"
        await_server "$protocol" "$port"
        run_load "$protocol" "$port" "$scratch/$count-$round.json"
        stop_server
        files+=("$count-workers=$scratch/$count-$round.json")
    done
done
gyre_load compare "${files[@]}"
