#!/usr/bin/env bash
# Abuses gyre by HTTP with thousands of clients, each kind with a new tracker, beside well-behaved clients at a low
# rate. Prints memory, connections, and the results of the well-behaved clients.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
kinds=(none slow silent unread page pipeline oversize hoard)
connections=10000
limit=15000
rate=300
read_options "abuse.sh [--connections N] [--limit N] [KIND...]: abuses gyre by HTTP with N connections (10000), where its
limit is N connections (15000, but half of --connections for hoard). Runs each KIND, by default all: ${kinds[*]}.
  none      only the well-behaved clients, for comparison
  slow      sends one byte of a request per second
  silent    connects and sends nothing
  unread    sends pipelined announces with long replies and reads nothing
  page      like unread, but requests the page of the admin listener
  pipeline  sends 100,000 requests at once, with a hundredth of the connections
  oversize  sends heads, queries, bodies, chunks and forms that are too long, with a fiftieth of the connections
  hoard     sends one request and keeps the connection, with twice as many connections as the limit
The well-behaved clients open a connection for each announce, 300 per second. Needs python3, and enough descriptors (see
ulimit -n)." "$@"
asked=()
while ((${#words[@]})); do
    case ${words[0]} in
    --connections | --limit)
        [[ ${words[1]-} =~ ^[1-9][0-9]{0,5}$ ]] || die "${words[0]} needs a number"
        [ "${words[0]}" = --limit ] && limit=${words[1]} || connections=${words[1]}
        words=("${words[@]:2}")
        ;;
    *)
        [[ " ${kinds[*]} " = *" ${words[0]} "* ]] || die "unknown argument: ${words[0]}; see --help"
        asked+=("${words[0]}")
        words=("${words[@]:1}")
        ;;
    esac
done
[ ${#asked[@]} -gt 0 ] && kinds=("${asked[@]}")
ulimit -n "$(ulimit -Hn)"
prepare
print_machine
hoarded=$((connections / 2))
echo "                                    MiB resident          kernel   evicted                            well-behaved clients"
echo "kind        opened   held   open before   most  after MiB TCP  clients refused accept bad-http  p99 ms  lost% refused  statuses"
for kind in "${kinds[@]}"; do
    port=$(free_port)
    count=$connections
    most=$limit
    case $kind in
    pipeline) count=$((connections / 100 + 1)) ;;
    oversize) count=$((connections / 50 + 1)) ;;
    page) count=120 ;; # its listener takes 128 connections, and some are needed for the metrics
    hoard) most=$hoarded ;;
    esac
    start_server "$GYRE_BIN/gyre" serve --allow-root --udp "127.0.0.1:$port" --http "127.0.0.1:$port" --stats-interval 0 \
        --admin 127.0.0.1:0 --cores "$server_cores" --http-connections "$most" --max-peers 200
    await_server http "$port"
    taskset -c "$load_cores" python3 scripts/lib/abuse.py "$kind" --target "127.0.0.1:$port" --admin "$(admin_address)" \
        --pid "$server" --connections "$count" --figures "$scratch/good.json" -- \
        "$GYRE_BIN/gyre-load" http --target "127.0.0.1:$port" --cores "$load_cores" --close --rate "$rate" --quiet \
        --duration "$duration" --warmup "$warmup" --timeout 2000 --sources 8 --json "$scratch/good.json"
    stop_server
done
