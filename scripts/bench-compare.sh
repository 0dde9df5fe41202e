#!/usr/bin/env bash
# Compares any trackers: alternating runs, medians and ratios in one table.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'bench-compare.sh [--http|--http-close] TRACKER...: compares trackers in alternating runs. Ratios are to the
first one

  TRACKER   floor (the null responder), gyre, or if installed aquatic_udp (its build with mio), aquatic_udp_io_uring
            (its build with io_uring, linked under this name), aquatic_http or opentracker; or NAME=COMMAND, where
            {port} and {cores} are replaced by the port to serve at 127.0.0.1 and the cores to use
  --http, --http-close   by HTTP, with persistent connections or with one for each request [default: by UDP]' "$@"
protocol=udp mode=
trackers=()
for word in ${words[@]+"${words[@]}"}; do
    case $word in
    --http) protocol=http mode=--keep-alive ;;
    --http-close) protocol=http mode=--close ;;
    -*) die "unknown option: $word; see --help" ;;
    *) trackers+=("$word") ;;
    esac
done
((${#trackers[@]} > 0)) || die "name the trackers; see --help"
for tracker in "${trackers[@]}"; do
    case $tracker in
    gyre | floor | *=*) ;;
    *)
        hint=$(how_to_install "$tracker")
        [ -n "$hint" ] || die "unknown tracker: $tracker; see --help"
        command -v "$tracker" >/dev/null || die "$tracker is not installed: $hint"
        ;;
    esac
done
prepare
print_machine
compare "$protocol" "$mode" "${trackers[@]}"
