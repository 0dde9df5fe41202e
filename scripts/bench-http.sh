#!/usr/bin/env bash
# How close gyre comes by HTTP to the physical floor: over connections that are kept, and with one for each request.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'bench-http.sh: gyre beside the null responder, by HTTP: keep-alive, then a connection per request' "$@"
((${#words[@]} == 0)) || die "what is ${words[0]}? See --help"
prepare
print_machine
for mode in --keep-alive --close; do
    echo "== $mode"
    compare http "$mode" floor gyre
done
