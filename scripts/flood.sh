#!/usr/bin/env bash
# Measures the effect of floods on well-behaved clients, and the cost of refusing a datagram compared to only receiving
# it.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
rounds=3 duration=5 warmup=1
capacity=0 train=16 rate=max
limits='--limit-connects 10:100 --limit-announces 20:500 --limit-scrapes 2:50'
kinds=(junk bad-magic bad-ids connects mad hash worker scrapes)
read_options 'flood.sh [KIND...]: floods gyre by UDP beside well-behaved clients

Five thousand clients send a tenth of the requests that gyre can answer, first alone, then beside each KIND of flood
(default: all; see gyre-load flood --help) at the maximum rate. One thread on one core sends both alternately: two programs
there would wait for each other, which would appear as latency of the server. The server has its own core. Then the cost of
refusing datagrams is measured: junk, a wrong protocol id and a wrong connection id, alternating with a server that only
receives.

  --capacity N          requests per second that gyre can answer [default: measured]
  --rate N|max          datagrams of a flood per second [default: max]
  --limits OPTIONS      rate limits of gyre as one word, for a second run of the floods that they limit [default: those for a
                        public tracker in docs/operating.md]; empty for no second run
  --train N             datagrams of one source per system call [default: 16]' "$@"
given=()
while ((${#words[@]})); do
    case ${words[0]} in
    --capacity) capacity=${words[1]?--capacity needs a number} && words=("${words[@]:2}") ;;
    --rate) rate=${words[1]?--rate needs a number} && words=("${words[@]:2}") ;;
    --train) train=${words[1]?--train needs a number} && words=("${words[@]:2}") ;;
    --limits) limits=${words[1]?--limits needs options} && words=("${words[@]:2}") ;;
    -*) die "unknown argument: ${words[0]}; see --help" ;;
    *) given+=("${words[0]}") && words=("${words[@]:1}") ;;
    esac
done
((${#given[@]} == 0)) || kinds=("${given[@]}")
prepare
command -v curl >/dev/null || die "curl is not installed"
print_machine

# Prints the server's CPU time and its counts of datagrams: taken, refused, answered, dropped because its sockets were
# full.
counts() {
    sleep 0.3 # workers publish their figures four times a second
    read_metrics
    echo "$(cpu_ticks) $(($(metric 'gyre_requests_total.*"udp"') + $(metric "$malformed")))" \
        "$(($(metric gyre_bad_requests_total) + $(metric gyre_limited_total)))" \
        "$(metric 'gyre_responses_total.*"udp"') $(metric 'gyre_drops_total.*receive-overrun')"
}

# Loads gyre with well-behaved clients, with or without a flood, and prints a row. $1: the name, $2: options of gyre,
# then those of the load.
beside() {
    local name=$1 json=$scratch/beside.json port options before after
    read -ra options <<<"$2"
    shift 2
    port=$(free_port)
    start_gyre "$port" --admin "127.0.0.1:$((port + 1000))" "${options[@]}"
    await_server udp "$port"
    before=$(counts)
    warmup=0 run_load udp "$port" "$json" --sources 5000 --mix connect:1,announce:8,scrape:1 --rate "$((capacity / 10))" "$@"
    after=$(counts)
    stop_server
    flood_figure() { local figure && figure=$(figure "$1" "$json") && echo "${figure:-0}"; }
    echo "$before $after $(figure requests "$json") $(figure lost "$json") $(figure p50_us "$json") $(figure p99_us "$json")" \
        "$(flood_figure sent_per_sec) $(flood_figure sent_bytes) $(flood_figure reply_bytes)" |
        awk -v name="$name" -v secs="$duration" '{
            cpu = ($6 - $1) / 100; taken = $7 - $2
            printf "%-16s %9.0f %9.0f %9.0f %9.0f %9.0f %7.3f %5.2f %8d %8d %8.3f %10s\n", name, $15, taken / secs,
                ($8 - $3) / secs, ($9 - $4) / secs, ($10 - $5) / secs, cpu * 1e6 / (taken + 1), cpu / secs, $13, $14,
                100 * $12 / ($11 + 1), ($16 > 0 ? sprintf("%.2f", $17 / $16) : "-")
        }'
}

# Prints the CPU time of a server per dropped datagram in us, its CPU use, and the datagrams per second. $1: the server
# (floor or gyre), $2: the kind.
refuse() {
    local port before after taken json=$scratch/refuse.json
    port=$(free_port)
    case $1 in
    floor)
        start_server "$GYRE_BIN/gyre-load" floor udp --silent --listen "127.0.0.1:$port" --core "${server_cores%%[,-]*}"
        until grep -q 'floor ready' "$scratch/server.log"; do
            kill -0 "$server" 2>/dev/null || die "$(cat "$scratch/server.log")"
            sleep 0.1
        done
        ;;
    gyre) start_gyre "$port" --no-admin && await_server udp "$port" ;;
    esac
    before=$(cpu_ticks)
    gyre_load flood "$2" --target "127.0.0.1:$port" --cores "$load_cores" --rate "$rate" --train "$train" \
        --duration "$duration" --warmup 0 --json "$json" --quiet
    after=$(cpu_ticks)
    taken=$(($(figure sent "$json") - $(dropped_at "$port")))
    stop_server
    awk "BEGIN { print ($after - $before) * 10000 / ($taken + 1), ($after - $before) / 100 / $duration, $taken / $duration }"
}

# Prints the number of datagrams that the kernel dropped because the receive buffers of a port were full.
dropped_at() {
    awk -v port="$(printf ':%04X$' "$1")" '$2 ~ port { sum += $NF } END { print sum + 0 }' /proc/net/udp
}

median() { sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

if ((capacity == 0)); then
    port=$(free_port)
    start_tracker udp gyre "$port"
    await_server udp "$port"
    run_load udp "$port" "$scratch/most.json"
    stop_server
    capacity=$(calculate "$(figure replies_per_sec "$scratch/most.json")")
fi
say "a tenth of $capacity requests/s, from 5000 clients, beside floods from 1000 addresses"
printf '%-16s %9s %9s %9s %9s %9s %7s %5s %8s %8s %8s %10s\n' \
    flood sent/s taken/s refused/s answers/s dropped/s 'CPU us' core 'p50 us' 'p99 us' 'lost %' 'bytes back'
beside none ''
for kind in "${kinds[@]}"; do
    flood=(--flood "$kind" --flood-rate "$rate" --flood-train "$train")
    beside "$kind" '' "${flood[@]}"
    if [ -n "$limits" ] && [[ $kind != @(junk|bad-*) ]]; then beside "$kind, limits" "$limits" "${flood[@]}"; fi
done

printf '\n%-10s %9s %9s %6s %12s %12s %10s\n' refusing 'floor us' 'gyre us' ratio 'floor core' 'gyre core' taken/s
for kind in junk bad-magic bad-ids; do
    for round in $(seq "$rounds"); do
        for server_name in floor gyre; do refuse $server_name "$kind" >>"$scratch/$server_name-$kind"; done
    done
    for column in 1 2 3; do
        for server_name in floor gyre; do cut -d ' ' -f $column "$scratch/$server_name-$kind" | median; done
    done | xargs | awk -v name="$kind" '{ printf "%-10s %9.3f %9.3f %6.2f %12.2f %12.2f %10.0f\n", name, $1, $2, ($1 > 0 ? $2 / $1 : 0), $3, $4, $6 }'
done
