#!/usr/bin/env bash
# Compares gyre with the null responder by HTTP: with persistent connections, then with one for each request.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'bench-http.sh: compares gyre with the null responder by HTTP: persistent connections, then one for each
request' "$@"
((${#words[@]} == 0)) || die "unknown argument: ${words[0]}; see --help"
prepare
print_machine
for mode in --keep-alive --close; do
    echo "== $mode"
    compare http "$mode" floor gyre
done
