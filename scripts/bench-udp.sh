#!/usr/bin/env bash
# Compares gyre with the null responder by UDP: replies per second and CPU time per reply.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'bench-udp.sh: compares gyre with the null responder by UDP, as fast as replies arrive' "$@"
((${#words[@]} == 0)) || die "unknown argument: ${words[0]}; see --help"
prepare
print_machine
compare udp "" floor gyre
