#!/usr/bin/env bash
# How close gyre comes by UDP to the physical floor: replies a second and CPU per reply.
# shellcheck source-path=SCRIPTDIR source=lib/bench.sh
. "$(dirname "$0")/lib/bench.sh"
read_options 'bench-udp.sh: gyre beside the null responder, by UDP, as fast as replies come' "$@"
((${#words[@]} == 0)) || die "what is ${words[0]}? See --help"
prepare
print_machine
compare udp "" floor gyre
