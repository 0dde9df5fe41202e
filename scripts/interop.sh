#!/usr/bin/env bash
# Tests that real BitTorrent clients transfer a file through gyre.
#
# Every pair of libtorrent, aria2 and transmission, as seeder and as leecher,
# gets a fresh torrent at each of four tracker URLs: udp and http, over IPv4
# and over IPv6. A case passes when the leecher's file equals the seeder's
# byte for byte and the tracker then counts two seeds. Fails if any case does.
#
#     scripts/interop.sh              builds target/dist/gyre if it is absent
#     GYRE=path scripts/interop.sh    tests another binary
#
# Peers can find each other only through the tracker: the torrents are private
# (BEP 27), the clients' DHT, PEX, local discovery and port mapping are off, and
# everything runs in a network namespace with only a loopback device. Uses
# scripts/interop/ and one temporary directory.

set -euo pipefail
export LC_ALL=C

LIMIT=60 # timeout of a case in seconds
JOBS=12  # concurrent cases; the clients mostly wait
CLIENTS=(libtorrent aria2 transmission)

die() {
    echo "interop: $*" >&2
    exit 1
}

install_clients() {
    local missing=() as_root=()
    /usr/bin/python3 -c 'import libtorrent' 2>/dev/null || missing+=(python3-libtorrent)
    command -v aria2c >/dev/null || missing+=(aria2)
    command -v transmission-cli >/dev/null || missing+=(transmission-cli)
    command -v ip >/dev/null || missing+=(iproute2)
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "no apt-get to install: ${missing[*]}"
    if ((EUID)); then
        command -v sudo >/dev/null || die "run as root to install: ${missing[*]}"
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"
}

# Transmission drops loopback peers, so packets to the tracker on loopback
# leave from addresses that it accepts.
enter_network() {
    ip link set lo up
    ip address add "$address4" dev lo
    ip address add "$address6" dev lo
    ip route replace local 127.0.0.1 dev lo table local src "$address4"
    ip -6 route delete local ::1 dev lo table local
    ip -6 route add local ::1 dev lo table local src "$address6"
}

start_tracker() {
    touch "$tmp/gyre.log"
    "$gyre" serve --no-admin --allow-root --udp 127.0.0.1:0 --udp '[::1]:0' --http 127.0.0.1:0 --http '[::1]:0' \
        --announce-interval 60 --min-interval 30 &>"$tmp/gyre.log" &
    tracker=$!
    local ready='ready: udp (127[^ ]+) udp (\[[^ ]+) http (127[^ ]+) http (\[[^ ]+) '
    for ((i = 0; i < 100; i++)); do
        if [[ $(<"$tmp/gyre.log") =~ $ready ]]; then
            udp4=${BASH_REMATCH[1]} udp6=${BASH_REMATCH[2]}
            http4=${BASH_REMATCH[3]} http6=${BASH_REMATCH[4]}
            return
        fi
        kill -0 $tracker 2>/dev/null || break
        sleep 0.1
    done
    cat "$tmp/gyre.log" >&2
    die "$gyre is not ready"
}

bt() {
    /usr/bin/python3 scripts/interop/bt.py "$@"
}

# The clients: NAME torrent directory address port. Peers use only TCP, since
# uTP only delays the fall-back to it.

libtorrent() {
    local listen=$3:$4
    [[ $3 == *:* ]] && listen="[$3]:$4"
    exec /usr/bin/python3 scripts/interop/bt.py peer "$1" "$2" "$listen"
}

# aria2 sends UDP announces from the socket of its DHT, so that must be on. It
# has no nodes here, and ignores private torrents.
aria2() {
    exec env HOME="$2" aria2c --no-conf --dir="$2" --interface="$3" --listen-port="$4" \
        --enable-dht=true --dht-listen-port="$4" --dht-file-path="$2/dht.dat" \
        --enable-dht6=false --enable-peer-exchange=false --bt-enable-lpd=false \
        --check-integrity=true --seed-ratio=0 --show-console-readout=false "$1"
}

transmission() {
    mkdir "$2/config"
    echo '{
        "dht-enabled": false,
        "lpd-enabled": false,
        "pex-enabled": false,
        "port-forwarding-enabled": false,
        "rpc-enabled": false,
        "utp-enabled": false
    }' >"$2/config/settings.json"
    exec env HOME="$2" transmission-cli --config-dir "$2/config" --download-dir "$2" --port "$4" "$1"
}

# Prints why the pair in $1 cannot work with the tracker at $2, or nothing if it
# can. The quotes are from the clients' logs.
obstacle() {
    if [[ $2 == 'udp://['* && $1 == *aria2* ]]; then
        # "Failed to send data, cause: Address family not supported by protocol"
        echo "aria2 announces over UDP from an IPv4 socket only"
    elif [[ $2 == 'udp://['* && $1 == *transmission* && $transmission == @([23]|4.0).* ]]; then
        # 3.00 asks the name server for "[::1]": "All nameservers have failed"
        echo "transmission has no UDP trackers over IPv6 before 4.1"
    elif [[ $1 == *transmission* && ! $isolated ]]; then
        echo "transmission drops loopback peers and there is no network namespace"
    fi
}

# Runs case $1, in a subshell: $2 seeds and $3 leeches through the announce URL
# $4; $5 is the scrape URL, $6 the address of both. Writes bytes, seconds and
# result to the file `row`.
run_case() {
    dir=$tmp/$1 torrent=$dir/torrent port=$((20000 + 2 * $1))
    from=$dir/seed/content to=$dir/leech/content
    begin=${EPOCHREALTIME/./} end=$((SECONDS + LIMIT)) clients=() result=FAIL
    trap end_case EXIT
    trap 'exit 1' INT TERM
    exec 2>"$dir/case.log"

    mkdir "$dir/seed" "$dir/leech"
    bt make "$from" "$torrent" "$4"
    "$2" "$torrent" "$dir/seed" "$6" $port </dev/null &>"$dir/seeder.log" &
    clients+=($!)
    bt seeds "$torrent" "$5" 1 $((end - SECONDS))
    "$3" "$torrent" "$dir/leech" "$6" $((port + 1)) </dev/null &>"$dir/leecher.log" &
    clients+=($!)
    until cmp -s "$from" "$to"; do
        (($(jobs -pr | wc -l) == 2)) || die "a client has ended"
        ((SECONDS < end)) || die "the files differ after $LIMIT s"
        sleep 0.2
    done
    bt seeds "$torrent" "$5" 2 $((end - SECONDS))
    result=pass
}

end_case() {
    set +e
    exec 2>/dev/null
    kill -KILL "${clients[@]}"
    wait
    tenths=$(((${EPOCHREALTIME/./} - begin) / 100000))
    echo "$(stat -c %s "$to" || echo 0) $((tenths / 10)).$((tenths % 10)) $result" >"$dir/row"
}

clean_up() {
    set +e
    exec 2>/dev/null
    kill -KILL "$tracker"
    kill "${running[@]}"
    wait
    rm -rf "$tmp"
}

cd "$(dirname "$0")/.."
gyre=${GYRE:-target/dist/gyre}

if [[ ${1-} == --isolated ]]; then
    isolated=yes address4=10.0.0.1 address6=2001:db8::1
    enter_network
else
    isolated='' address4=127.0.0.1 address6=::1
    install_clients
    [[ ${GYRE-} || -x $gyre ]] || cargo build --profile dist --locked --bin gyre
    for namespace in 'unshare --net' 'unshare --map-root-user --net'; do
        # shellcheck disable=SC2086 # a command and its arguments
        $namespace ip link set lo up 2>/dev/null && exec $namespace scripts/interop.sh --isolated
    done
fi
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY
transmission=$(transmission-cli --version 2>&1 | sed -n 's/^transmission-cli //p' || :)

tmp=$(mktemp -d)
tracker='' running=() cases=() failed=()
trap clean_up EXIT
trap 'exit 1' INT TERM
start_tracker

for seeder in "${CLIENTS[@]}"; do
    for leecher in "${CLIENTS[@]}"; do
        for via in "udp $udp4 $http4 $address4" "udp $udp6 $http6 $address6" \
            "http $http4 $http4 $address4" "http $http6 $http6 $address6"; do
            read -r scheme host http address <<<"$via"
            url=$scheme://$host/announce
            n=${#cases[@]}
            cases+=("$seeder $leecher $url")
            mkdir "$tmp/$n"
            reason=$(obstacle "$seeder $leecher" "$url")
            if [[ $reason ]]; then
                echo "- - n/a: $reason" >"$tmp/$n/row"
                continue
            fi
            while (($(jobs -pr | wc -l) > JOBS)); do sleep 0.1; done # the tracker is one of them
            run_case "$n" "$seeder" "$leecher" "$url" "http://$http/scrape" "$address" &
            running+=($!)
        done
    done
done
wait "${running[@]}" || :

declare -A count=([pass]=0 [FAIL]=0 [n/a:]=0)
row='%-12s  %-12s  %-31s  %8s  %7s  %s\n'
# shellcheck disable=SC2059 # one format for every row
printf "$row" seeder leecher url bytes seconds result
for n in "${!cases[@]}"; do
    read -r seeder leecher url <<<"${cases[n]}"
    read -r bytes seconds result <"$tmp/$n/row"
    # shellcheck disable=SC2059
    printf "$row" "$seeder" "$leecher" "$url" "$bytes" "$seconds" "$result"
    ((++count[${result%% *}]))
    [[ $result == FAIL ]] && failed+=("$n")
done
for n in "${failed[@]}"; do
    echo "--- ${cases[n]}"
    for log in "$tmp/$n"/{case,seeder,leecher}.log; do
        [[ -e $log ]] && sed "s/^/${log##*/}: /" <(tr '\r' '\n' <"$log" | tail -n 15)
    done
done >&2
if ((${#failed[@]})); then
    sed 's/^/gyre.log: /' <(tail -n 30 "$tmp/gyre.log") >&2
fi
echo "interop: ${count[pass]} passed, ${count[FAIL]} failed, ${count[n/a:]} n/a"
((count[FAIL] == 0))
