#!/usr/bin/env bash
# What gyre makes of clients that abuse HTTP by the thousand, each kind against a tracker of its own, beside well-behaved
# clients at a low rate: memory, connections, and how the well-behaved fare.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
kinds=(none slow silent unread page pipeline oversize hoard)
connections=10000
limit=15000
hoarded=5000
rate=300
read_options "abuse.sh [--connections N] [--limit N] [KIND...]: abuses gyre by HTTP with N connections (10000) where N (15000)
are the most that it holds (half of them for hoard: $hoarded), in each of these ways, or in all: ${kinds[*]}.
  none      nobody but the well-behaved: the figures to compare with
  slow      a head, of which each sends a byte a second
  silent    connected, and no more
  unread    pipelined announces with long replies, which nobody reads
  page      the same of the admin's page, at its own listener
  pipeline  100,000 requests in one write, a hundredth of the connections
  oversize  heads, queries, bodies, chunks and forms that are too long, a fiftieth of the connections
  hoard     one request, and the connection kept, twice as many as there may be
The well-behaved make a connection for each announce, 300 a second. Needs python3, and descriptors (ulimit -n) for all." "$@"
asked=()
while ((${#words[@]})); do
    case ${words[0]} in
    --connections | --limit)
        [[ ${words[1]-} =~ ^[1-9][0-9]{0,5}$ ]] || die "${words[0]} needs a number"
        [ "${words[0]}" = --limit ] && limit=${words[1]} || connections=${words[1]}
        words=("${words[@]:2}")
        ;;
    *)
        [[ " ${kinds[*]} " = *" ${words[0]} "* ]] || die "what is ${words[0]}? See --help"
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
echo "                                    MiB resident          kernel   evicted                            well-behaved"
echo "kind        opened   held   open before   most  after MiB TCP  clients refused accept bad-http  p99 ms  lost% refused  statuses"
for kind in "${kinds[@]}"; do
    port=$(free_port)
    count=$connections
    most=$limit
    case $kind in
    pipeline) count=$((connections / 100 + 1)) ;;
    oversize) count=$((connections / 50 + 1)) ;;
    page) count=120 ;; # its listener takes 128, and the figures are asked for there
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
