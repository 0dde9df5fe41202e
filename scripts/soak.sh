#!/usr/bin/env bash
# A long run of mixed load with peers that come and go. Memory, latency and CPU time must stay constant, and every loss
# must be counted. Prints a line for each interval and a verdict. Exits with 1 if a check fails.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
server_cores=${allowed[0]}-${allowed[-1]} # several workers, so that requests cross between them
torrents=1000000
minutes=60 every=60 peers=5000000 rate=20000 growth=3 costlier=1.5 slower=4
read_options 'soak.sh: an hour of mixed load with 5 million peers that come and go

By UDP: connects, announces and scrapes of 2000 clients, beside announces with invalid ids and junk. By HTTP: persistent
connections, and one for each request. Gyre reloads its lists twelve times during the run, and another process takes over
early in it. At the end the last quarter is compared with the second one. The first quarter is skipped, since the table
fills in it and peers that left without a stop expire only after it.

  --minutes N           duration in minutes [default: 60]
  --every S             length of an interval in seconds [default: 60]; at least 8 intervals are required
  --peers N             number of peers, of a fifth as many torrents [default: 5000000]
  --rate N              UDP requests per second [default: 20000]
  --growth PERCENT      maximum growth of the medians of memory and of peers [default: 3, because a snapshot takes memory
                        while it is written, and the number of peers that left without a stop varies]
  --costlier FACTOR     maximum growth of the median CPU time per request [default: 1.5, because other programs share the
                        caches]
  --slower FACTOR       maximum growth of the medians of p50 and p99 [default: 4, because other programs affect them as much;
                        searching a leak would make them grow without end]' "$@"
while ((${#words[@]})); do
    value=${words[1]-}
    [[ $value =~ ^-?[0-9]+([.][0-9]+)?$ ]] || die "${words[0]} needs a number; see --help"
    case ${words[0]} in
    --minutes) minutes=$value ;;
    --every) every=$value ;;
    --peers) peers=$value torrents=$((value / 5)) ;;
    --rate) rate=$value ;;
    --growth) growth=$value ;;
    --costlier) costlier=$value ;;
    --slower) slower=$value ;;
    *) die "unknown argument: ${words[0]}; see --help" ;;
    esac
    words=("${words[@]:2}")
done
intervals=$(calculate "int($minutes * 60 / $every)")
((intervals >= 8)) || die "--minutes $minutes: only $intervals intervals of $every s; at least 8 are required"
seconds=$(calculate "$intervals * $every")

prepare
command -v curl >/dev/null || die "curl is not installed"
print_machine
# Eight of ten requests are announces. Each peer announces once in a cycle, which is also the announce interval.
cycle=$(calculate "$peers / $rate * 10 / 8 + 5")
state=$scratch/state list=$scratch/lists/denied
port=$(free_port)
mkdir "$scratch/lists"
echo 0000000000000000000000000000000000000000 >"$list"
start_gyre "$port" --admin "127.0.0.1:$((port + 1000))" --state-dir "$state" --deny-hashes "$list" \
    --snapshot-interval "$(calculate "$seconds / 12 + 1")" --announce-interval "$cycle" --peer-timeout "$((cycle * 3 / 2))"
await_server udp "$port"
until grep -q '^gyre: ready' "$scratch/server.log"; do sleep 0.1; done # the admin listener is ready, too
say "$peers peers announce every $cycle s and expire after $((cycle * 3 / 2)) s; $intervals intervals of $every s"

# In steps, so that the generator shares its core with other programs, such as a worker.
target=(--target "127.0.0.1:$port" --cores "$load_cores" --step 2 --quiet --warmup 0)
patience=(--timeout 2000)
generators=()
# Like the trap of the other scripts, but also ends the load generators.
trap 'for pid in "${generators[@]}"; do kill "$pid" 2>/dev/null || true; done; stop_server; rm -rf "$scratch"' EXIT
generate() {
    local name=$1
    shift
    gyre_load "$@" "${target[@]}" --json "$scratch/$name.json" 2>"$scratch/$name.err" &
    generators+=($!)
}

threads_of() { sed -n 's/^Threads:[^0-9]*//p' "/proc/$server/status"; }
open_files() { find "/proc/$server/fd" -mindepth 1 2>/dev/null | wc -l; }
idle_files=$(open_files)

# Makes another process take over. That process is the server afterwards.
take_over() {
    kill -USR2 "$server"
    for _ in $(seq 600); do
        if grep -q 'INFO taken over' "$scratch/server.log" && ! kill -0 "$server" 2>/dev/null; then break; fi
        sleep 0.1
    done
    server=$(sed -n 's/^gyre: process \([0-9]*\) will take over$/\1/p' "$scratch/server.log")
    if [ -z "$server" ] || ! kill -0 "$server"; then
        server=''
        die "no process took over: $(tail -n 3 "$scratch/server.log")"
    fi
    say "process $server has taken over"
}

lost_before=0 # drops that the first process had counted
ticks=0 served=0
printf '%7s %8s %6s %8s %8s %7s %8s %9s %9s %9s %6s %6s %7s %6s\n' \
    seconds req/s lost 'p50 us' 'p99 us' 'CPU us' MiB 'table kB' peers expired connections files threads drops
generate udp udp "${patience[@]}" --peers "$peers" --torrents "$torrents" --sources 2000 --pipeline 1 --fill --vanish 0.01 \
    --mix connect:1,announce:8,scrape:1 --rate "$rate" --duration "$seconds" --every "$every" \
    --flood bad-ids --flood-sources 500 --flood-rate "$((rate / 20 + 1))" >"$scratch/timeline"
loads=${generators[0]} number=0
while kill -0 "$loads" 2>/dev/null || ((number < $(wc -l <"$scratch/timeline"))); do
    if ((number == $(wc -l <"$scratch/timeline"))); then
        sleep 0.2
        continue
    fi
    number=$((number + 1))
    read -r at requests _ lost p50 p99 < <(sed -n "${number}p" "$scratch/timeline")
    if ! read_metrics; then
        say "the admin listener does not answer; the end of the log: $(tail -n 3 "$scratch/server.log")"
        exit 1
    fi
    before=$((ticks)) now_ticks=$(cpu_ticks)
    now_served=$(($(metric gyre_requests_total) + $(metric "$malformed")))
    resident=$(metric gyre_resident_bytes) connections=$(metric gyre_connections)
    drops=$(($(metric gyre_drops_total) + lost_before))
    row="$at $requests $lost $p50 $p99 $(awk "BEGIN { printf \"%.3f\", \
        ($now_ticks - $before) * 10000 / ($now_served - $served + 1) }") $((resident >> 20)) \
        $(($(metric gyre_table_bytes) / 1000)) $(metric gyre_peers) $(metric 'gyre_removed_peers_total.*expired') \
        $connections $(($(open_files) - connections)) $(threads_of) $drops"
    # shellcheck disable=SC2086 # words
    printf '%7s %8s %6s %8s %8s %7s %8s %9s %9s %9s %6s %6s %7s %6s\n' $row | tee -a "$scratch/rows"
    ticks=$now_ticks served=$now_served
    if ((number == 1)); then
        rest=$(calculate "$seconds - 2 * $every")
        http=("${patience[@]}" --connections 64 --peers 20000 --torrents 5000 --duration "$rest")
        generate keep http --keep-alive "${http[@]}" --rate 200 --seed 2
        generate close http --close "${http[@]}" --rate 50 --seed 3
    fi
    if ((number % (intervals / 12 + 1) == 0)); then
        printf '%040x\n' "$number" >"$list.new" && mv "$list.new" "$list"
        kill -HUP "$server"
    fi
    if ((number == intervals / 8)); then
        take_over
        lost_before=$drops ticks=0 served=0
        generate junk flood junk --sources 100 --rate 100 --duration "$(calculate "$seconds - $at - 2 * $every")"
    fi
done
for pid in "${generators[@]}"; do wait "$pid" || true; done # the results show failures
generators=()
for _ in $(seq 100); do
    read_metrics
    [ "$(metric gyre_connections)" = 0 ] && break
    sleep 0.1
done

verdict=0
# check WHAT FIGURE CONDITION: prints whether the condition holds.
check() {
    if awk "BEGIN { exit !($3) }"; then echo "ok    $1: $2"; else echo "FAIL  $1: $2" && verdict=1; fi
}
# of_quarter NUMBER COLUMN max|median: prints the maximum or median of a column in a quarter of the rows.
of_quarter() {
    awk -v quarter="$1" -v column="$2" -v rows="$(wc -l <"$scratch/rows")" \
        'NR > rows * (quarter - 1) / 4 && NR <= rows * quarter / 4 { print $column }' "$scratch/rows" | sort -g |
        awk -v what="$3" '{ all[NR] = $1 } END { print what == "max" ? all[NR] : all[int((NR + 1) / 2)] }'
}
# grows NAME COLUMN max|median FACTOR: checks the growth from the second quarter to the last.
grows() {
    local second last
    second=$(of_quarter 2 "$2" "$3") last=$(of_quarter 4 "$2" "$3")
    check "$1" "$3 of the second quarter $second, of the last $last, limit $4 times" "$last <= ($second + 1) * $4"
}
sum_of() { for name in "${@:2}"; do figure "$1" "$scratch/$name.json"; done | awk '{ sum += $1 } END { print sum + 0 }'; }

echo
flat=$(awk "BEGIN { print 1 + $growth / 100 }")
grows "resident MiB" 7 median "$flat"
grows "table kB" 8 median "$flat"
grows "peers" 9 median "$flat"
grows "CPU us a request" 6 median "$costlier"
grows "p50 us" 4 median "$slower"
grows "p99 us" 5 median "$slower"
# A snapshot in progress has one file more. A leak would have many.
grows "files other than connections" 12 median 1.2
grows "threads" 13 max 1.2
idle_files_now=$(open_files)
check "files when idle" "$idle_files at the start, $idle_files_now at the end" "$idle_files_now <= $idle_files + 4"
check "connections at the end" "$(metric gyre_connections)" "$(metric gyre_connections) == 0"
drops=$(($(metric gyre_drops_total) + lost_before))
lost=$(sum_of lost udp) late=$(sum_of late udp) overrun=$(sum_of overrun udp)
check "UDP: lost, as counted" "$lost, of which $late were late and $overrun dropped at the generator; gyre counted $drops" \
    "$lost - $late <= $drops + $overrun"
check "UDP: invalid replies, errors" "$(sum_of wrong udp), $(sum_of refused udp)" \
    "$(sum_of wrong udp) + $(sum_of refused udp) == 0"
# The first process ends its connections at the takeover, including requests in flight.
bad=$(($(sum_of lost keep close) + $(sum_of wrong keep close) + $(sum_of refused keep close)))
check "HTTP: lost, invalid or errors" "$bad of $(sum_of requests keep close); 128 connections were taken over, gyre counted $drops" \
    "$bad <= 128 + $drops"
full=$(metric 'gyre_drops_total.*(gather-full|wait|mesh|table|send)')
check "full queues" "$full dropped" "$full == 0"
junk=$(($(figure sent "$scratch/junk.json" | head -n 1)))
bad=$(metric "$malformed")
check "junk is counted" "$junk sent, $bad counted" "$bad >= $junk * 0.99"
snapshots=$(stat -c %Y "$state/snapshot" 2>/dev/null || echo 0)
check "snapshots" "last written $(($(date +%s) - snapshots)) s ago, $(metric gyre_snapshot_failures_total) failed" \
    "$snapshots > $(date +%s) - $seconds / 4 - 60 && $(metric gyre_snapshot_failures_total) == 0"
errors=$(grep -cE 'ERROR|WARN|error:|panic' "$scratch/server.log" || true)
check "errors in the log" "$errors" "$errors == 0"
grep -E 'ERROR|WARN|error:|panic' "$scratch/server.log" | head -n 5 || true
exit "$verdict"
