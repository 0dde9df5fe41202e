#!/usr/bin/env bash
# The part `nic`: the network card's queues on the cores that gyre runs on.
#
# By itself: nic.sh --dry-run|--apply --cores LIST [--nic IFACE] is apply.sh with `--only nic`.
#
# In this order, each step only where the driver can do it:
#
# queues       As many as there are cores in --cores. The core that takes a datagram's interrupt does the kernel's share
#              of the work for it (some 2 us, most of what a response costs), and answers connects: one queue would mean
#              one core at its limit and the others idle.
#              Cost: many drivers take the link down for a moment (up to seconds). Other traffic of the card is on those
#              cores too.
# RSS hash     Over ports as well as addresses, for UDP. Else all clients behind one NAT, and all of a load generator,
#              come to one queue.
#              Cost: the fragments of a long datagram (a scrape of 74 hashes) can come to another queue than whole ones.
# ring sizes   RX_RING and TX_RING packets, or what the card can. A ring is what holds packets while a core does other
#              work: 4096 are 4 ms at a million a second. Past it: rx_missed or rx_no_buffer in `ethtool -S`.
#              Cost: memory for each queue (4096 * 2 KiB = 8 MiB), and a larger ring leaves the cache.
# coalescing   An interrupt at most every RX_USECS microseconds, not adaptive: an adaptive card is quick to interrupt
#              for each packet at a middling load, where interrupts are dearest.
#              Cost: up to so much latency, which no BitTorrent client sees.
# interrupts   Queue N's on the N-th core of --cores. Costs nothing but irqbalance, which would move them again.
# XPS          A core sends by its own queue: no lock that another core holds, and the completion comes home.
# RPS          Only where the card has fewer queues than gyre has cores: the kernel hands packets on to the other cores.
#              Cost: an interrupt between cores for each batch.
#
# Not touched: the indirection table (ethtool -X) and the hash's key, offloads, ntuple filters, other interfaces.
#
# How it was: `apply.sh --revert --only nic`. After a reboot everything is as the driver has it; see the part `boot`.

# shellcheck disable=SC2154 # what lib.sh and apply.sh own
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    exec "$(dirname "$0")/apply.sh" --only nic "$@"
fi

RX_RING=4096 # packets
TX_RING=1024 # packets
RX_USECS=20  # microseconds

# ---- ethtool's settings: `eth0 queues`, `eth0 ring`, `eth0 coalesce`, `eth0 hash-udp4`, `eth0 hash-udp6` ----

read_ethtool() {
    local iface=${1% *} what=${1#* } ethtool
    ethtool=$(tool ethtool) || { say "no ethtool: install it" >&2 && return 1; }
    case $what in
    queues) "$ethtool" -l "$iface" >"$tmp/raw" && ethtool_block Current "RX TX Combined" ;;
    ring) "$ethtool" -g "$iface" >"$tmp/raw" && ethtool_block Current "RX TX" ;;
    coalesce) "$ethtool" -c "$iface" >"$tmp/raw" && ethtool_coalesce ;;
    hash-*) "$ethtool" -n "$iface" rx-flow-hash "${what#hash-}" >"$tmp/raw" && ethtool_hash ;;
    esac
}

write_ethtool() {
    local iface=${1% *} what=${1#* } ethtool
    local -a words
    ethtool=$(tool ethtool)
    # Only what differs, since a driver may refuse what it has no say in; `rx = 4` becomes `rx 4`.
    read -ra words < <(grep -vxFf "$tmp/now" "$2" | sed 's/ = / /' | paste -sd' ')
    case $what in
    queues) "$ethtool" -L "$iface" "${words[@]}" ;;
    ring) "$ethtool" -G "$iface" "${words[@]}" ;;
    coalesce) "$ethtool" -C "$iface" "${words[@]}" ;;
    hash-*) "$ethtool" -N "$iface" rx-flow-hash "${what#hash-}" "${words[1]}" ;;
    esac >/dev/null
}

# The numbers of one block, `Pre-set` maximums or `Current` settings, of those names that the driver knows.
ethtool_block() {
    awk -F ':[ \t]*' -v block="$1" -v names=" $2 " '
        /^[A-Z].*:$/ { inside = index($0, block) == 1 }
        inside && index(names, " " $1 " ") && $2 ~ /^[0-9]+$/ { print tolower($1) " = " $2; found = 1 }
        END { if (!found) { print "the driver tells nothing" > "/dev/stderr"; exit 1 } }
    ' "$tmp/raw"
}

ethtool_coalesce() {
    awk '
        $1 == "Adaptive" && ($3 == "on" || $3 == "off") { print "adaptive-rx = " $3 }
        $1 == "rx-usecs:" && $2 ~ /^[0-9]+$/ { print "rx-usecs = " $2; found = 1 }
        END { if (!found) { print "the driver has no rx-usecs" > "/dev/stderr"; exit 1 } }
    ' "$tmp/raw"
}

# What the hash is over, in the letters that ethtool takes. One that it couldn't be set back to is an error.
ethtool_hash() {
    awk '
        /^IP SA/ { fields = fields "s" }
        /^IP DA/ { fields = fields "d" }
        /^L4 bytes 0/ { fields = fields "f" }
        /^L4 bytes 2/ { fields = fields "n" }
        /^(L2DA|VLAN tag|L3 proto|None)/ { strange = 1 }
        END {
            if (fields == "" || strange) { print "its fields are none that it could be set back to" > "/dev/stderr"; exit 1 }
            print "fields = " fields
        }
    ' "$tmp/raw"
}

# The most that a card can of `rx`, `tx` or `combined`, from what read_ethtool has just left; 0 if it doesn't say.
ethtool_maximum() {
    local found
    found=$(ethtool_block Pre-set "RX TX Combined" 2>/dev/null | awk -v name="$1" '$1 == name { print $3 }')
    say "${found:-0}"
}

# ---- the steps ----

nic_part() {
    queues_before=$(nic_queues rx)
    nic_remember
    nic_channels
    nic_step coalesce "s/^adaptive-rx = .*/adaptive-rx = off/; s/^rx-usecs = .*/rx-usecs = $RX_USECS/"
    nic_step hash-udp4 "s/.*/fields = sdfn/"
    nic_step hash-udp6 "s/.*/fields = sdfn/"
    nic_rings
    nic_interrupts
    nic_steering
    if ((dry)) && ((${planned_queues:-$queues_before} > queues_before)); then
        note "queues that $nic doesn't have yet get their interrupts and masks when the change is made"
    fi
}

nic_queues() { compgen -G "$root/sys/class/net/$nic/queues/$1-*" | grep -c . || true; }

# Changing the number of queues makes some drivers forget these: what they were is recorded before, so that a revert
# puts them back after the queues.
nic_remember() {
    local queue irq what
    for what in coalesce hash-udp4 hash-udp6 ring; do
        remember ethtool "$nic $what"
    done
    for queue in $(nic_queue_paths); do
        remember mask "$queue"
    done
    while read -r irq _; do
        remember irq "$irq $(irq_name "$irq")"
    done < <(queue_interrupts)
}

nic_queue_paths() {
    local path
    for path in "$root/sys/class/net/$nic/queues"/{tx-*/xps_cpus,rx-*/rps_cpus}; do
        [[ ! -e $path ]] || say "${path#"$root"}"
    done
}

# nic_step WHAT SED: what ethtool says, changed by a sed script.
nic_step() {
    if ! fetch ethtool "$nic $1"; then
        skip "$nic $1: $(complaint)"
        return 0
    fi
    sed "$2" "$tmp/now" >"$tmp/asked"
    change ethtool "$nic $1" "$tmp/asked"
}

# As many queues as cores. A card has them combined, or apart for receiving and sending.
nic_channels() {
    local script="" name most number
    fetch ethtool "$nic queues" || { skip "$nic queues: $(complaint)" && return 0; }
    for name in rx tx combined; do
        # Of a card that has both kinds, the combined ones are set and the others stay.
        if [[ $name == combined ]] || ! grep -q '^combined = ' "$tmp/now"; then
            most=$(ethtool_maximum "$name")
            number=$((${#cores[@]} < most ? ${#cores[@]} : most))
            ((number == 0)) || script+="s/^$name = .*/$name = $number/;" planned_queues=$number
        fi
    done
    nic_step queues "$script"
    if ((${planned_queues:-0} < ${#cores[@]})); then
        note "$nic can do ${planned_queues:-0} queues for ${#cores[@]} cores: RPS shares them out"
    fi
}

# At least RX_RING and TX_RING, as far as the card goes; never fewer than there are.
nic_rings() {
    local script="" name wish most old
    fetch ethtool "$nic ring" || { skip "$nic ring: $(complaint)" && return 0; }
    for name in rx tx; do
        [[ $name == rx ]] && wish=$RX_RING || wish=$TX_RING
        most=$(ethtool_maximum $name)
        old=$(awk -v name=$name '$1 == name { print $3 }' "$tmp/now")
        ((wish <= most)) || wish=$most
        ((wish <= ${old:-0})) || script+="s/^$name = .*/$name = $wish/;"
    done
    nic_step ring "$script"
}

# The interrupts of the card's queues: number and queue, a line each. Names differ by driver: eth0-TxRx-3,
# enp1s0f0-rx-3, i40e-eth0-TxRx-3, mlx5_comp3@pci:..., eth0-Tx-Rx-3, virtio0-input.3, virtio0-output.3. What has no such
# name (configuration, management, link state) is left alone.
queue_interrupts() {
    local device=$root/sys/class/net/$nic/device irq name folder
    # A virtio device's interrupts belong to the PCI device that it is on.
    for folder in "$device/msi_irqs" "$(readlink -f "$device" 2>/dev/null)/../msi_irqs"; do
        [[ -d $folder ]] || continue
        for irq in $(printf '%s\n' "$folder"/* | sed 's|.*/||' | sort -n); do
            name=$(irq_name "$irq")
            name=${name,,}
            [[ ${name%%@*} =~ (txrx|tx-rx|rx|tx|input|output|comp|queue|q)[-._]?([0-9]+)$ ]] || continue
            [[ $name != virtio* || $name == "$(basename "$(readlink -f "$device")")"-* ]] || continue
            say "$irq $((10#${BASH_REMATCH[2]}))"
        done
        return 0
    done
}

nic_interrupts() {
    local irq queue found=0
    while read -r irq queue; do
        found=1
        change_line irq "$irq $(irq_name "$irq")" "${cores[queue % ${#cores[@]}]}"
    done < <(queue_interrupts)
    ((found)) || skip "$nic: it has no interrupts of its own that can be told apart"
    if grep -qsx irqbalance "$root"/proc/[0-9]*/comm; then
        note "irqbalance is running and will move the interrupts again: stop it, or ban these cores in its settings"
    fi
}

# Queue N sends for the cores N, N + queues, ... of the list. If there are fewer queues than cores, what comes by queue N
# is handed on to the same cores.
nic_steering() {
    local queues queue
    queues=$(nic_queues tx)
    for ((queue = 0; queues > 1 && queue < queues; queue++)); do
        change_line mask "/sys/class/net/$nic/queues/tx-$queue/xps_cpus" "$(queue_mask "$queue" "$queues")"
    done
    queues=$(nic_queues rx)
    for ((queue = 0; queues < ${#cores[@]} && queue < queues; queue++)); do
        change_line mask "/sys/class/net/$nic/queues/rx-$queue/rps_cpus" "$(queue_mask "$queue" "$queues")"
    done
}

# queue_mask QUEUE QUEUES. Of more queues than cores the last ones are nobody's.
queue_mask() {
    local index
    local -a own=()
    for ((index = $1; index < ${#cores[@]}; index += $2)); do own+=("${cores[index]}"); done
    cpu_mask "${own[@]}"
}
