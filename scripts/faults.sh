#!/usr/bin/env bash
# Slow fault tests under load: a tracker that is killed repeatedly, and one that is stopped for a while. Quick ones are
# in tests/programs/faults.rs.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
rounds=20
stop=30
read_options "faults.sh [--stop S] [kill] [stop]: runs one of these fault tests on gyre under load, or both.
  kill  kill -9, --rounds times (20): the content of the last complete snapshot is restored, and no file is damaged
  stop  SIGSTOP for S seconds (30), then SIGCONT: all requests are answered again, and no peer has expired
Exits with 1 if a test fails. Needs curl." "$@"
kinds=()
while ((${#words[@]})); do
    case ${words[0]} in
    --stop)
        [[ ${words[1]-} =~ ^[1-9][0-9]{0,2}$ ]] || die "--stop needs a number of seconds"
        stop=${words[1]}
        words=("${words[@]:2}")
        ;;
    kill | stop)
        kinds+=("${words[0]}")
        words=("${words[@]:1}")
        ;;
    *) die "unknown argument: ${words[0]}; see --help" ;;
    esac
done
[ ${#kinds[@]} -gt 0 ] || kinds=(kill stop)
prepare
load=
trap 'end_load; stop_server; rm -rf "$scratch"' EXIT
port=$(free_port)
state=$scratch/state

fail() { say "failed: $*" && tail -n 5 "$scratch/server.log" >&2 && exit 1; }

start() {
    start_server "$GYRE_BIN/gyre" serve --allow-root --udp "127.0.0.1:$port" --http "127.0.0.1:$port" --stats-interval 0 \
        --admin 127.0.0.1:0 --cores "$server_cores" --state-dir "$state" --snapshot-interval 1
    await_server http "$port"
}

# Loads the tracker by UDP in the background and ignores errors. $1: duration in seconds.
start_load() {
    gyre_load udp --target "127.0.0.1:$port" --cores "$load_cores" --rate 2000 --peers 20000 --torrents 2000 \
        --duration "$1" --warmup 0 --timeout 2000 --quiet --json "$scratch/load.json" >/dev/null 2>&1 &
    load=$!
}

end_load() {
    [ -n "$load" ] || return 0
    kill "$load" 2>/dev/null || true
    wait "$load" 2>/dev/null || true
    load=
}

# Prints the sum of a metric's values. $1: start of its lines.
metric() { curl -sf "http://$(admin_address)/metrics" | awk -v name="$1" 'index($0, name) == 1 { sum += $NF } END { print sum + 0 }'; }

# Prints a different info-hash for each round: twenty characters.
mark() { printf 'gyre-marker-%08d' "$1"; }

# Waits until a snapshot that started after this call is complete. Each snapshot is a new directory.
await_snapshot() {
    local last seen=0
    last=$(stat -c %i "$state/snapshot" 2>/dev/null || true)
    for _ in $(seq 600); do
        if [ "$(stat -c %i "$state/snapshot" 2>/dev/null || true)" != "$last" ]; then
            last=$(stat -c %i "$state/snapshot" 2>/dev/null || true)
            seen=$((seen + 1))
            [ "$seen" = 2 ] && return
        fi
        sleep 0.05
    done
    fail "no snapshot was written"
}

try_kill() {
    local round marked lost=0 peers
    start
    start_load $((rounds * 60))
    for round in $(seq "$rounds"); do
        curl -sf "http://127.0.0.1:$port/announce?info_hash=$(mark "$round")&peer_id=-GT0001-faults------&port=1&left=1" \
            | grep -aq 8:interval || fail "round $round: an announce is not answered"
        await_snapshot
        sleep "0.$((RANDOM % 10))" # at a random moment of the next one
        kill -KILL "$server"
        wait "$server" 2>/dev/null || true
        start
        for marked in $(seq "$round"); do
            curl -sf "http://127.0.0.1:$port/scrape?info_hash=$(mark "$marked")" | grep -aq incompletei1e || lost=$((lost + 1))
        done
        [ "$lost" = 0 ] || fail "round $round: $lost of $round marked peers are lost"
        [ ! -e "$state/damaged" ] || fail "round $round: $(ls "$state/damaged")"
        peers=$(metric gyre_peers)
    done
    end_load
    stop_server
    echo "kill: $rounds times under load; all marked peers were restored each time, $peers peers at the end; no file was damaged"
}

try_stop() {
    local before after expired line
    start
    start_load 10
    wait "$load" || true
    before=$(metric gyre_peers)
    start_load $((stop + 60))
    kill -STOP "$server"
    sleep "$stop"
    kill -CONT "$server"
    await_server udp "$port"
    end_load
    gyre_load udp --target "127.0.0.1:$port" --cores "$load_cores" --rate 1000 --peers 20000 --torrents 2000 --duration 5 \
        --warmup 1 --timeout 2000 --quiet --json "$scratch/after.json"
    line=$(tr -d ' \n' <"$scratch/after.json" | grep -o '"lost":[0-9]*' | head -n 1)
    after=$(metric gyre_peers)
    expired=$(metric 'gyre_removed_peers_total{cause="expired"')
    [ "$line" = '"lost":0' ] || fail "after a stop of $stop s: $line"
    [ "$expired" = 0 ] || fail "$expired peers have expired"
    [ "${after%.*}" -ge "${before%.*}" ] || fail "$before peers became $after"
    echo "stop: $stop s under load; no request was lost after it, no peer expired ($before before, $after after)," \
        "$(metric 'gyre_drops_total{cause="receive-overrun"') datagrams were dropped during the stop"
    stop_server
}

for kind in "${kinds[@]}"; do "try_$kind"; done
