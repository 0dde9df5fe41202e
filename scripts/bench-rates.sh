#!/usr/bin/env bash
# Measures what a reply costs at each load: CPU time per reply, latency, losses and wake-ups of trackers at given rates,
# with ratios of the CPU time to the null responder. The wake-ups are the voluntary context switches of the server's
# threads, from /proc, and cost nothing to count. System calls (--syscalls) are counted by perf, which needs the rights
# for the tracepoint raw_syscalls:sys_enter: root, or kernel.perf_event_paranoid = -1 and a readable tracefs. Counting
# slows each system call, so they are counted in a run of their own.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
udp_rates=1000,10000,50000,100000,full
keep_alive_rates=1000,2000,8000,30000,full
close_rates=1000,2000,5000,10000,full
udp_trackers=(floor gyre aquatic_udp aquatic_udp_io_uring opentracker)
keep_alive_trackers=(floor gyre aquatic_http) # opentracker closes each connection
close_trackers=("${keep_alive_trackers[@]}" opentracker)
known=(floor gyre aquatic_udp aquatic_udp_io_uring aquatic_http opentracker)
read_options "bench-rates.sh [--udp] [--http] [--http-close]: CPU time per reply, latency, losses and wake-ups at each rate of
requests, for floor (the null responder), gyre, and what is installed of aquatic_udp (its build with mio),
aquatic_udp_io_uring (its build with io_uring), aquatic_http and opentracker (not with persistent connections, which it does
not have). All trackers take turns in each round. Prints a table of medians for each protocol, with ratios of the CPU time to
floor. It takes 70 minutes with all trackers

  --udp, --http, --http-close   by UDP, by HTTP with persistent connections, by HTTP with one for each request
                        [default: all three]
  --rates LIST          requests per second (an open loop), or full for as many as are answered (a closed loop)
                        [default: $udp_rates by UDP,
                        $keep_alive_rates by HTTP with persistent connections,
                        $close_rates with one for each request]
  --only TRACKER,...    only these trackers; ratios are to floor, or to the first if floor is not among them
  --gather US           option --gather of gyre and floor [default: theirs]
  --syscalls            also count system calls per reply, in one more run of each (needs perf and root)
  --seconds S           the same as --duration" "$@"
parts=() rates='' only='' syscalls=false
while ((${#words[@]})); do
    value=${words[1]-}
    case ${words[0]} in
    --udp | --http | --http-close) parts+=("${words[0]#--}") ;;
    --syscalls) syscalls=true ;;
    --rates | --only | --gather | --seconds)
        [ -n "$value" ] || die "${words[0]} needs a value"
        case ${words[0]} in
        --rates) rates=$value ;;
        --only) only=$value ;;
        --gather) gather=(--gather "$value") ;;
        --seconds) duration=$value ;;
        esac
        words=("${words[@]:1}")
        ;;
    *) die "unknown argument: ${words[0]}; see --help" ;;
    esac
    words=("${words[@]:1}")
done
((${#parts[@]} > 0)) || parts=(udp http http-close)
for rate in ${rates//,/ }; do
    [[ $rate =~ ^([1-9][0-9]*|full)$ ]] || die "--rates: must be numbers or full, not $rate"
done
for tracker in ${only//,/ }; do
    [[ " ${known[*]} " = *" $tracker "* ]] || die "--only: unknown tracker: $tracker; must be of ${known[*]}"
done
if $syscalls && ! perf stat -e raw_syscalls:sys_enter true >/dev/null 2>&1; then
    die "--syscalls needs perf (Debian: linux-perf) and the rights to trace system calls (root)"
fi

# Prints those of the trackers that are chosen and installed.
usable() {
    local tracker
    for tracker in "$@"; do
        [[ -z $only || ",$only," = *",$tracker,"* ]] || continue
        if [[ $tracker = @(floor|gyre) ]] || command -v "$tracker" >/dev/null; then
            echo "$tracker"
        else
            say "without $tracker, which is not installed: $(how_to_install "$tracker")"
        fi
    done
}

# Starts a tracker and loads it at a rate. $1: udp or http, $2: the tracker, $3: the rate, $4: the function that loads it,
# $5: the file for the results, then options.
measure() {
    local protocol=$1 tracker=$2 rate=${3/full/max} load=$4 json=$5 port
    shift 5
    port=$(free_port)
    start_tracker "$protocol" "$tracker" "$port"
    await_server "$protocol" "$port"
    "$load" "$protocol" "$port" "$json" --rate "$rate" "$@"
    stop_server
}

# Like `run_load`, but the results are only the rate and the system calls per reply.
count_syscalls() {
    local json=$3 calls replies warmup=0 # perf counts from the start
    local load_under=(perf stat '-x,' -o "$scratch/perf" -e raw_syscalls:sys_enter -p "$server" --)
    run_load "$@"
    calls=$(awk -F, '$3 ~ /sys_enter/ { print $1 }' "$scratch/perf")
    replies=$(figure replies "$json")
    [[ $calls =~ ^[0-9]+$ ]] || die "perf counted no system calls: $(tail -n 1 "$scratch/perf")"
    awk -v calls="$calls" -v replies="$replies" -v rate="$(figure rate "$json")" 'BEGIN {
        printf "{ \"rate\": %s, \"server\": { \"syscalls_per_reply\": %s } }\n", (rate == "" ? "null" : rate),
            (replies > 0 ? calls / replies : "null")
    }' >"$json.new"
    mv "$json.new" "$json"
}

# Measures one protocol and prints its table. $1: the title, $2: udp or http, $3: the rates, $4: options for gyre-load as
# one word, then the trackers.
measure_rates() {
    local title=$1 protocol=$2 at=${rates:-$3} rate tracker round json more chosen files=()
    read -ra more <<<"$4"
    if [ "$4" = --close ]; then keep_alive=false; else keep_alive=true; fi
    shift 4
    mapfile -t chosen < <(usable "$@")
    if ((${#chosen[@]} == 0)); then
        say "no tracker for $title is chosen and installed"
        return
    fi
    for round in $(seq "$rounds"); do
        for rate in ${at//,/ }; do
            for tracker in "${chosen[@]}"; do
                json=$scratch/$protocol${more[*]}-$rate-$tracker-$round.json
                measure "$protocol" "$tracker" "$rate" run_load "$json" "${more[@]}"
                files+=("$tracker=$json")
            done
            gyre_load compare --by-rate "${files[@]: -${#chosen[@]}}" | sed "1d; s/^/round $round: /" >&2
        done
    done
    if $syscalls; then
        for rate in ${at//,/ }; do
            for tracker in "${chosen[@]}"; do
                json=$scratch/$protocol${more[*]}-$rate-$tracker-syscalls.json
                measure "$protocol" "$tracker" "$rate" count_syscalls "$json" "${more[@]}"
                files+=("$tracker=$json")
            done
        done
    fi
    echo "== $title: medians of $rounds x $duration s"
    gyre_load compare --by-rate "${files[@]}"
}

prepare
print_machine
for part in "${parts[@]}"; do
    case $part in
    udp) measure_rates UDP udp "$udp_rates" '' "${udp_trackers[@]}" ;;
    http) measure_rates 'HTTP, persistent connections' http "$keep_alive_rates" --keep-alive "${keep_alive_trackers[@]}" ;;
    http-close) measure_rates 'HTTP, a connection for each request' http "$close_rates" --close "${close_trackers[@]}" ;;
    esac
done
