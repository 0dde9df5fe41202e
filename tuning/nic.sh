#!/usr/bin/env bash
# The part `nic`: the network card's queues on the cores that gyre runs on.
#
# `nic.sh --dry-run|--apply --cores LIST [--nic IFACE]` is the same as apply.sh with `--only nic`.
#
# The steps, in this order. A step that the driver does not support is skipped:
#
# queues       One for each core in --cores. The core that handles a datagram's interrupt does the kernel's share of the
#              work for it (some 2 us, most of the cost of a response) and answers connects. With one queue, one core
#              would be at its limit and the others idle.
#              Cost: many drivers take the link down for a moment (up to seconds). Other traffic of the card uses those
#              cores too.
# RSS hash     Over ports as well as addresses, for UDP. Otherwise all clients behind one NAT, and all traffic of a load
#              generator, use one queue.
#              Cost: the fragments of a long datagram (a scrape of 74 hashes) can use another queue than whole ones.
# ring sizes   RX_RING and TX_RING packets, or the card's maximum. A ring holds packets while a core does other work:
#              4096 are 4 ms at a million per second. Packets beyond that are lost: rx_missed or rx_no_buffer in
#              `ethtool -S`.
#              Cost: memory for each queue (4096 * 2 KiB = 8 MiB). A larger ring does not fit the cache.
# coalescing   At most one interrupt every RX_USECS microseconds, not adaptive. An adaptive card interrupts for almost
#              each packet at a medium load, where interrupts cost most.
#              Cost: up to RX_USECS of latency, which no BitTorrent client notices.
# interrupts   Those of queue N on the N-th core of --cores. Cost: only that irqbalance must not move them again.
# XPS          A core sends by its own queue. So it does not wait for the lock of another core, and handles its own
#              completions.
# RPS          Only if the card has fewer queues than gyre has cores: the kernel passes packets on to the other cores.
#              Cost: an interrupt between cores for each batch.
#
# Not changed: the indirection table (ethtool -X) and the hash's key, offloads, ntuple filters, other interfaces.
#
# To revert: `apply.sh --revert --only nic`. A reboot restores the driver's settings; see the part `boot`.

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
    # Sets only what differs, since a driver may reject settings that it does not support. `rx = 4` becomes `rx 4`.
    read -ra words < <(grep -vxFf "$tmp/now" "$2" | sed 's/ = / /' | paste -sd' ')
    case $what in
    queues) "$ethtool" -L "$iface" "${words[@]}" ;;
    ring) "$ethtool" -G "$iface" "${words[@]}" ;;
    coalesce) "$ethtool" -C "$iface" "${words[@]}" ;;
    hash-*) "$ethtool" -N "$iface" rx-flow-hash "${what#hash-}" "${words[1]}" ;;
    esac >/dev/null
}

# Prints the numbers of one block (`Pre-set` maximums or `Current` settings) for the names that the driver supports.
ethtool_block() {
    awk -F ':[ \t]*' -v block="$1" -v names=" $2 " '
        /^[A-Z].*:$/ { inside = index($0, block) == 1 }
        inside && index(names, " " $1 " ") && $2 ~ /^[0-9]+$/ { print tolower($1) " = " $2; found = 1 }
        END { if (!found) { print "the driver reports nothing" > "/dev/stderr"; exit 1 } }
    ' "$tmp/raw"
}

ethtool_coalesce() {
    awk '
        $1 == "Adaptive" && ($3 == "on" || $3 == "off") { print "adaptive-rx = " $3 }
        $1 == "rx-usecs:" && $2 ~ /^[0-9]+$/ { print "rx-usecs = " $2; found = 1 }
        END { if (!found) { print "the driver has no rx-usecs" > "/dev/stderr"; exit 1 } }
    ' "$tmp/raw"
}

# Prints the fields of the hash as the letters that ethtool accepts. Fails for fields that ethtool could not restore.
ethtool_hash() {
    awk '
        /^IP SA/ { fields = fields "s" }
        /^IP DA/ { fields = fields "d" }
        /^L4 bytes 0/ { fields = fields "f" }
        /^L4 bytes 2/ { fields = fields "n" }
        /^(L2DA|VLAN tag|L3 proto|None)/ { strange = 1 }
        END {
            if (fields == "" || strange) { print "ethtool could not restore its fields" > "/dev/stderr"; exit 1 }
            print "fields = " fields
        }
    ' "$tmp/raw"
}

# Prints the card's maximum of `rx`, `tx` or `combined`, from the last output of ethtool, or 0 if it is unknown.
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
        note "new queues of $nic get their interrupts and masks when the change is applied"
    fi
}

nic_queues() { compgen -G "$root/sys/class/net/$nic/queues/$1-*" | grep -c . || true; }

# Changing the number of queues resets these settings with some drivers. They are recorded before, so that a revert
# restores them after the queues.
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

# nic_step TOPIC SED: changes settings of ethtool by a sed script.
nic_step() {
    if ! fetch ethtool "$nic $1"; then
        skip "$nic $1: $(complaint)"
        return 0
    fi
    sed "$2" "$tmp/now" >"$tmp/asked"
    change ethtool "$nic $1" "$tmp/asked"
}

# Sets one queue for each core. A card has combined queues, or separate ones for receiving and sending.
nic_channels() {
    local script="" name most number
    fetch ethtool "$nic queues" || { skip "$nic queues: $(complaint)" && return 0; }
    for name in rx tx combined; do
        # If a card has both kinds, only the combined ones are set.
        if [[ $name == combined ]] || ! grep -q '^combined = ' "$tmp/now"; then
            most=$(ethtool_maximum "$name")
            number=$((${#cores[@]} < most ? ${#cores[@]} : most))
            ((number == 0)) || script+="s/^$name = .*/$name = $number/;" planned_queues=$number
        fi
    done
    nic_step queues "$script"
    if ((${planned_queues:-0} < ${#cores[@]})); then
        note "$nic supports only ${planned_queues:-0} queues for ${#cores[@]} cores: RPS distributes the packets"
    fi
}

# Raises the rings to RX_RING and TX_RING, or to the card's maximum. Never lowers them.
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

# Prints the interrupts of the card's queues: number and queue, one line each. Names differ by driver: eth0-TxRx-3,
# enp1s0f0-rx-3, i40e-eth0-TxRx-3, mlx5_comp3@pci:..., eth0-Tx-Rx-3, virtio0-input.3, virtio0-output.3. Interrupts with
# other names (configuration, management, link state) are left out.
queue_interrupts() {
    local device=$root/sys/class/net/$nic/device irq name folder
    # The interrupts of a virtio device belong to its PCI device.
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
    ((found)) || skip "$nic: no interrupts found that belong to a queue"
    if grep -qsx irqbalance "$root"/proc/[0-9]*/comm; then
        note "irqbalance is running and will move the interrupts again: stop it, or ban these cores in its settings"
    fi
}

# Queue N sends for the cores N, N + queues, ... of the list. If there are fewer queues than cores, packets received by
# queue N are passed on to the same cores.
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

# queue_mask QUEUE QUEUES: prints the mask of a queue's cores. If there are more queues than cores, the last masks are
# empty.
queue_mask() {
    local index
    local -a own=()
    for ((index = $1; index < ${#cores[@]}; index += $2)); do own+=("${cores[index]}"); done
    cpu_mask "${own[@]}"
}
