# Sourced by the bench scripts: the functions that they share. Servers are pinned to cores, and always ended by their
# process id. All traffic stays on loopback. Each run ends by itself.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: error: $*"; exit 2; }

# Prints the cores that this process may use, one per line.
allowed_cores() {
    local part
    taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | while read -r part; do seq "${part%-*}" "${part#*-}"; done
}

mapfile -t allowed < <(allowed_cores)
server_cores=${allowed[0]}
load_cores=${allowed[-1]}
rounds=5
duration=10
warmup=2
torrents=10000
seed=1
keep_alive=true
admin=
gather=() # options of gyre and the null responder
load_options=()
load_under=() # a command that runs gyre-load, with its options
words=()

common_help='  --server-cores LIST   cores of the tracker [default: the first one]
  --load-cores LIST     cores of the load generator [default: the last one]
  --rounds N            alternating runs of each [default: 5]
  --duration S          measured time of a run in seconds [default: 10]
  --warmup S            warm-up before that, in seconds [default: 2]
  -- OPTIONS            for gyre-load (see gyre-load udp --help)
gyre and gyre-load are built (dist) unless GYRE_BIN names the folder that they are in.'

# Reads the common options. The other arguments are left in `words`. $1: the script's help.
read_options() {
    local help=$1 value
    shift
    while (($#)); do
        value=${2-}
        case $1 in
        --server-cores | --load-cores | --rounds | --duration | --warmup)
            [ -n "$value" ] || die "$1 needs a value"
            case $1 in
            --server-cores) server_cores=$value ;;
            --load-cores) load_cores=$value ;;
            --rounds) rounds=$value ;;
            --duration) duration=$value ;;
            --warmup) warmup=$value ;;
            esac
            shift 2
            ;;
        --help | -h)
            printf '%s\n\n%s\n' "$help" "$common_help"
            exit 0
            ;;
        --)
            shift
            load_options=("$@")
            while (($#)); do # an allow list is made from these
                case $1 in
                --torrents) torrents=${2-} ;;
                --seed) seed=${2-} ;;
                esac
                shift
            done
            break
            ;;
        *)
            words+=("$1")
            shift
            ;;
        esac
    done
    [[ $rounds =~ ^[1-9][0-9]{0,2}$ ]] || die "--rounds: must be a number from 1 to 999, not $rounds"
}

# Builds the programs, makes a directory for the results, and ends the server when the script ends.
prepare() {
    if [ -z "${GYRE_BIN-}" ]; then
        cargo build --locked --profile dist --bins
        GYRE_BIN=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/dist
    fi
    for program in gyre gyre-load; do
        [ -x "$GYRE_BIN/$program" ] || die "no $program in $GYRE_BIN"
    done
    scratch=$(mktemp -d)
    server=
    trap 'stop_server; rm -rf "$scratch"' EXIT
    trap 'exit 130' INT TERM
}

gyre_load() { "$GYRE_BIN/gyre-load" "$@"; }

print_machine() {
    say "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(grep -c ^processor /proc/cpuinfo) cores," \
        "$(sed -n 's/^MemTotal: *//p' /proc/meminfo), Linux $(uname -r)," \
        "governor $(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null || echo unknown)"
    say "server on cores $server_cores, load on cores $load_cores"
    if [ "$server_cores" = "$load_cores" ]; then
        say "warning: server and load share a core, so the figures are not reliable"
    fi
}

# Prints the first free port from 20000 on.
free_port() {
    local port
    for port in $(seq 20000 20999); do
        if ! grep -qi ":$(printf '%04X' "$port") " /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "no port from 20000 to 20999 is free"
}

# Starts a command in the background as `server`, pinned to the server's cores.
start_server() {
    taskset -c "$server_cores" "$@" >"$scratch/server.log" 2>&1 &
    server=$!
}

# Starts gyre: $1 the port, then options. With `--admin` first, metrics are read from that listener.
start_gyre() {
    local port=$1
    shift
    if [ "$1" = --admin ]; then admin=${2##*:}; fi
    start_server "$GYRE_BIN/gyre" serve --allow-root --udp "127.0.0.1:$port" --http "127.0.0.1:$port" \
        --cores "$server_cores" --stats-interval 0 "$@"
}

# Prints the CPU time that the server has used, in hundredths of a second.
cpu_ticks() { sed 's/.*) //' "/proc/$server/stat" | awk '{ print $12 + $13 }'; }

# Waits until the server answers at the port: $1 udp or http, $2 the port.
await_server() {
    local options=(--target "127.0.0.1:$2" --duration 0.02 --warmup 0 --timeout 100 --peers 10 --torrents 10 --quiet)
    if [ "$1" = udp ]; then options+=(--sources 1 --mix connect:1); else options+=(--connections 1 --mix scrape:1 --close); fi
    for _ in $(seq 100); do
        kill -0 "$server" 2>/dev/null || break
        if gyre_load "$1" "${options[@]}" --cores "${load_cores%%[,-]*}" 2>/dev/null; then
            return
        fi
        sleep 0.1
    done
    say "the server does not answer; the end of its log:"
    tail -n 5 "$scratch/server.log" >&2
    exit 1
}

# Prints the address of the server's admin listener, from its log.
admin_address() {
    for _ in $(seq 100); do
        sed -n 's/^gyre: ready: .* admin \([^ ]*\) .*/\1/p' "$scratch/server.log" | grep . && return
        sleep 0.1
    done
    die "the server's log has no address of the admin listener"
}

# Ends the server, if there is one: with SIGTERM, after 5 s with SIGKILL.
stop_server() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

# Prints the number of cores in a list like `0-3,6`.
count_cores() {
    local part count=0
    for part in ${1//,/ }; do count=$((count + ${part#*-} - ${part%-*} + 1)); done
    echo "$count"
}

# Prints how to install a tracker, or nothing if the scripts do not know it.
how_to_install() {
    case $1 in
    aquatic_udp | aquatic_http) echo "cargo install $1" ;;
    aquatic_udp_io_uring)
        echo "cargo install aquatic_udp --features io-uring --root DIR, then link DIR/bin/aquatic_udp into PATH as $1"
        ;;
    opentracker) echo "apt-get install opentracker, on Debian" ;;
    esac
}

# Starts a known tracker, or one given as NAME=COMMAND with {port} and {cores}.
# $1: udp or http, $2: the tracker, $3: the port.
start_tracker() {
    local protocol=$1 tracker=$2 port=$3 workers config
    workers=$(count_cores "$server_cores")
    config=$scratch/config.toml
    case $tracker in
    *=*)
        local command=${tracker#*=}
        command=${command//\{port\}/$port}
        command=${command//\{cores\}/$server_cores}
        start_server sh -c "exec $command"
        ;;
    gyre)
        start_gyre "$port" --no-admin "${gather[@]}"
        ;;
    floor)
        start_server "$GYRE_BIN/gyre-load" floor "$protocol" --listen "127.0.0.1:$port" \
            --core "${server_cores%%[,-]*}" "${gather[@]}"
        ;;
    aquatic_udp | aquatic_udp_io_uring) # the builds with mio and with io_uring
        "$tracker" -p | sed -e "s/^address = .*/address = \"127.0.0.1:$port\"/" \
            -e "s/^socket_workers = .*/socket_workers = $workers/" -e 's/^interval = .*/interval = 0/' >"$config"
        start_server "$tracker" -c "$config"
        ;;
    aquatic_http)
        # It ignores the client's `Connection` header.
        aquatic_http -p | sed -e "s/^address = .*/address = \"127.0.0.1:$port\"/" \
            -e "s/^socket_workers = .*/socket_workers = $workers/" \
            -e "s/^keep_alive = .*/keep_alive = $keep_alive/" >"$config"
        start_server aquatic_http -c "$config"
        ;;
    opentracker)
        # Debian's build serves only torrents on its allow list.
        gyre_load hashes --torrents "$torrents" --seed "$seed" >"$scratch/whitelist"
        chmod 755 "$scratch"
        start_server opentracker -i 127.0.0.1 -p "$port" -P "$port" -d "$scratch" -w whitelist
        ;;
    *) die "unknown tracker: $tracker; see bench-compare.sh --help" ;;
    esac
}

# Loads the server: $1 udp or http, $2 the port, $3 the file for the results, then options.
run_load() {
    local protocol=$1 port=$2 json=$3
    shift 3
    "${load_under[@]}" "$GYRE_BIN/gyre-load" "$protocol" --target "127.0.0.1:$port" --cores "$load_cores" \
        --torrents "$torrents" --seed "$seed" --duration "$duration" --warmup "$warmup" --pid "$server" \
        --json "$json" --quiet "$@" "${load_options[@]}" ||
        [ -s "$json" ] || exit 1
}

calculate() { awk "BEGIN { printf \"%.0f\", $1 }"; }

# Prints a figure of the whole run from a file written by --json: $1 its name, $2 the file.
figure() { sed -n "s/^ *\"$1\": \([0-9.]*\).*/\1/p" "$2" | head -n 1; }

# Reads the metrics from the admin listener at the port `admin`.
read_metrics() { curl -fsS --max-time 10 -o "$scratch/metrics" "http://127.0.0.1:$admin/metrics"; }

# Prints the sum of a metric's series, as read last: $1 a regular expression that their names start with.
metric() { awk -v name="^$1" '$1 ~ name { sum += $NF } END { printf "%.0f", sum }' "$scratch/metrics"; }

# The metric of datagrams that are not valid requests.
# shellcheck disable=SC2034
malformed='gyre_bad_requests_total.*(short|magic|action|truncated|source-port)'

# Runs trackers alternately, several times, and prints the table. $1: udp or http, $2: options for gyre-load as one
# word, then the trackers.
compare() {
    local protocol=$1 more tracker round port files=()
    read -ra more <<<"$2"
    if [ "$2" = --close ]; then keep_alive=false; else keep_alive=true; fi
    shift 2
    if [ "$(count_cores "$server_cores")" -gt 1 ] && [[ " $* " = *" floor "* ]]; then
        say "warning: the null responder runs on one core, the trackers on all of $server_cores"
    fi
    for round in $(seq "$rounds"); do
        for tracker in "$@"; do
            port=$(free_port)
            start_tracker "$protocol" "$tracker" "$port"
            await_server "$protocol" "$port"
            run_load "$protocol" "$port" "$scratch/${tracker%%=*}-$round.json" "${more[@]}"
            stop_server
            files+=("${tracker%%=*}=$scratch/${tracker%%=*}-$round.json")
            say "round $round: $(gyre_load compare "${files[-1]}" | tail -n 1)"
        done
    done
    gyre_load compare "${files[@]}"
}
