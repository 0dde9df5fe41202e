#!/usr/bin/env bash
# Any trackers beside each other: by turns, several times, medians and ratios in one table.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'bench-compare.sh [--http|--http-close] TRACKER...: trackers by turns; ratios are to the first one

  TRACKER   floor, gyre, aquatic_udp, aquatic_http or opentracker, if they are installed; or NAME=COMMAND, in which
            {port} and {cores} stand for what it is to use, at 127.0.0.1
  --http, --http-close   by HTTP: over connections that are kept, or with one for each request [default: by UDP]' "$@"
protocol=udp mode=
trackers=()
for word in ${words[@]+"${words[@]}"}; do
    case $word in
    --http) protocol=http mode=--keep-alive ;;
    --http-close) protocol=http mode=--close ;;
    -*) die "what is $word? See --help" ;;
    *) trackers+=("$word") ;;
    esac
done
((${#trackers[@]} > 0)) || die "name the trackers; see --help"
for tracker in "${trackers[@]}"; do
    case $tracker in
    gyre | floor | *=*) ;;
    aquatic_udp | aquatic_http | opentracker) command -v "$tracker" >/dev/null || die "$tracker is not installed" ;;
    *) die "$tracker is no tracker that is known here; see --help" ;;
    esac
done
prepare
print_machine
compare "$protocol" "$mode" "${trackers[@]}"
