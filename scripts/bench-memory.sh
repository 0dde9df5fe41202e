#!/usr/bin/env bash
# Measures the memory of a tracker with a given number of peers.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
peers=5000000 torrents=1000000
duration=1 rounds=1
read_options 'bench-memory.sh [--peers N] [--torrents N] [TRACKER]: announces N peers (default: 5000000) of N torrents
(1000000) to a tracker (gyre; see bench-compare.sh) by UDP, and prints the memory that they take' "$@"
tracker=gyre
while ((${#words[@]})); do
    case ${words[0]} in
    --peers) peers=${words[1]?--peers needs a number} && words=("${words[@]:2}") ;;
    --torrents) torrents=${words[1]?--torrents needs a number} && words=("${words[@]:2}") ;;
    -*) die "unknown argument: ${words[0]}; see --help" ;;
    *) tracker=${words[0]} && words=("${words[@]:1}") ;;
    esac
done
prepare
print_machine
port=$(free_port)
start_tracker udp "$tracker" "$port"
await_server udp "$port"
resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$server/status"; }
before=$(resident)
run_load udp "$port" "$scratch/fill.json" --peers "$peers" --sources 64 --fill --mix announce:1 --rate 1000
after=$(resident)
stop_server
echo "$tracker: $peers peers of $torrents torrents: $(((after - before) / 1024)) MiB more than the $((before / 1024)) MiB of an" \
    "empty one, $(((after - before) * 1024 / peers)).$(((after - before) * 10240 / peers % 10)) bytes a peer"
