#!/usr/bin/env bash
# Tests tuning/apply.sh: a dry run changes nothing, an apply changes only what was requested, a second apply changes
# nothing, a revert restores everything byte for byte, also after an aborted run.
#
# The first half works in a scratch directory that looks like a machine (--root), with a fake ethtool that keeps a
# card's state in files. The second half needs a network namespace, with real nft, ethtool and connection tracking,
# separate from the machine's. Uses a temporary directory. Takes some seconds.

# shellcheck disable=SC2031 # lib.sh is read in a subshell, which has a separate `tmp`

set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
apply=$PWD/tuning/apply.sh

die() {
    echo "tuning-test: $*" >&2
    [[ ! -e ${tmp-}/out ]] || sed 's/^/    | /' "$tmp/out" >&2
    exit 1
}

# run CODE OPTION...: runs apply.sh, which must exit with this code. Its output is in $tmp/out.
run() {
    local expected=$1 code=0
    shift
    # The outer redirection hides bash's message about a killed run.
    { "$apply" "${in_root[@]}" "$@" >"$tmp/out" 2>&1 </dev/null || code=$?; } 2>/dev/null
    ((code == expected)) || die "apply.sh $* exited with $code, not $expected"
}

says() { grep -qF -- "$1" "$tmp/out" || die "the last run did not print: $1"; }
changed() { says "apply.sh: $1 changes"; }
is() { [[ $(<"$root$1") == "$2" ]] || die "$1 is $(<"$root$1"), not $2"; }

# Prints everything below the root: kind, mode, name, content.
snapshot() {
    (cd "$root" && find . -path ./var/lib/gyre-tuning -prune -o -printf '%y %m %p\n' | sort -k3 &&
        find . -path ./var/lib/gyre-tuning -prune -o -type f -print0 | sort -z | xargs -0 sha256sum)
}

same() { diff "$tmp/$1" <(snapshot) >"$tmp/out" || die "$2"; }

# ---- a machine in a directory ----

put() {
    mkdir -p "$(dirname "$root$1")"
    echo "$2" >"$root$1"
}

make_machine() {
    local n
    rm -rf "$root"
    mkdir -p "$root"/{etc/sysctl.d,etc/systemd/system,usr/local/lib,usr/local/bin,var/lib,tools}
    put /proc/sys/kernel/random/boot_id first-boot
    put /proc/sys/kernel/io_uring_disabled 0
    put /proc/sys/net/core/rmem_max 212992
    put /proc/sys/net/core/wmem_default 4194304 # above the minimum
    put /proc/sys/net/core/netdev_budget 300
    put /proc/sys/net/core/netdev_budget_usecs 2000
    put /proc/sys/net/core/netdev_max_backlog 1000
    put /proc/irq/default_smp_affinity f
    put /sys/devices/virtual/workqueue/cpumask f
    put /sys/devices/system/cpu/online 0-3
    put /sys/kernel/mm/transparent_hugepage/enabled never
    {
        echo "           CPU0       CPU1       CPU2       CPU3"
        for n in 0 1 2 3; do echo " 4$n:  1 0 0 0  PCI-MSIX-0000:01:00.0 $n-edge nic0-TxRx-$n"; done
        echo " 44:  1 0 0 0  PCI-MSIX-0000:01:00.0 4-edge nic0-config"
        echo "LOC:  1 1 1 1  Local timer interrupts"
    } >"$root/proc/interrupts"
    for n in 0 1 2 3; do
        put "/sys/devices/system/cpu/cpu$n/cpufreq/scaling_governor" schedutil
        put "/sys/devices/system/cpu/cpu$n/cpufreq/scaling_available_governors" "performance schedutil"
        put "/sys/class/net/nic0/queues/tx-$n/xps_cpus" 0
        put "/sys/class/net/nic0/queues/rx-$n/rps_cpus" 0
        put "/sys/class/net/nic0/device/msi_irqs/4$n" msix
        put "/proc/irq/4$n/smp_affinity_list" 0-3
    done
    put /sys/class/net/nic0/device/msi_irqs/44 msix
    put /proc/irq/44/smp_affinity_list 0-3
    printf '%s\n' most=4 combined=4 rx=512 tx=512 adaptive-rx=on rx-usecs=3 udp4=sd udp6=sdfn >"$root/tools/card"
    make_ethtool
}

# Writes a fake ethtool with the functions that apply.sh uses. $root/tools/card has the card's state, tools/refuse the
# unsupported options, tools/die the options at which it kills its caller.
make_ethtool() {
    cat >"$root/tools/ethtool" <<'END'
#!/usr/bin/env bash
card=$(dirname "$0")/card
value() { sed -n "s/^$1=//p" "$card"; }
grep -qsxe "$1" "$(dirname "$0")/refuse" && echo "netlink error: Operation not supported" >&2 && exit 1
grep -qsxe "$1" "$(dirname "$0")/die" && kill -KILL $PPID && exit 1
case $1 in
-l)
    printf 'Channel parameters for %s:\n' "$2"
    printf 'Pre-set maximums:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\t1\nCombined:\t%s\n' "$(value most)"
    printf 'Current hardware settings:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\t1\nCombined:\t%s\n' "$(value combined)"
    ;;
-g)
    printf 'Ring parameters for %s:\nPre-set maximums:\nRX:\t\t2048\nRX Mini:\tn/a\nTX:\t\t8192\n' "$2"
    printf 'Current hardware settings:\nRX:\t\t%s\nRX Mini:\tn/a\nTX:\t\t%s\n' "$(value rx)" "$(value tx)"
    ;;
-c)
    printf 'Coalesce parameters for %s:\nAdaptive RX: %s  TX: n/a\n' "$2" "$(value adaptive-rx)"
    printf 'rx-usecs:\t%s\nrx-frames:\tn/a\nrx-usecs-irq:\tn/a\n' "$(value rx-usecs)"
    ;;
-n)
    printf 'UDP over IPV4 flows use these fields for computing Hash flow key:\nIP SA\nIP DA\n'
    [[ $(value "$4" | sed 's/udp.=//') != sdfn ]] ||
        printf 'L4 bytes 0 & 1 [TCP/UDP src port]\nL4 bytes 2 & 3 [TCP/UDP dst port]\n'
    ;;
-N) sed -i "s/^$4=.*/$4=$5/" "$card" ;;
*)
    shift 2
    while (($#)); do
        sed -i "s/^$1=.*/$1=$2/" "$card"
        shift 2
    done
    ;;
esac
END
    chmod +x "$root/tools/ethtool"
}

# ---- tests in the directory ----

everything=(--only "sysctl,nic,cpu,service,boot" --cores 1-3 --isolate --nic nic0 --port 6969 --port 80)

a_dry_run_changes_nothing() {
    make_machine
    snapshot >"$tmp/before"
    run 0 "${everything[@]}"
    says "Dry run: nothing is changed."
    says "-net.core.rmem_max = 212992"
    says "+net.core.rmem_max = 8388608"
    says "+combined = 3"
    cp "$tmp/out" "$tmp/dry"
    run 0 --dry-run "${everything[@]}"
    cmp -s "$tmp/dry" "$tmp/out" || die "--dry-run prints something else than no mode"
    same before "a dry run changed something"
    [[ ! -e $root/var/lib/gyre-tuning ]] || die "a dry run recorded something"
}

a_revert_undoes_an_apply() {
    make_machine
    put /etc/sysctl.d/90-gyre.conf "net.core.rmem_max = 5" # a file of another program, readable only by its owner
    chmod 600 "$root/etc/sysctl.d/90-gyre.conf"
    snapshot >"$tmp/before"
    run 0 --apply "${everything[@]}"
    it_is_applied
    snapshot >"$tmp/after"
    run 0 --apply "${everything[@]}"
    changed 0
    same after "a second apply changed something"
    run 0 --revert --dry-run
    says "-net.core.rmem_max = 8388608"
    same after "a dry run of a revert changed something"
    run 0 --revert
    same before "a revert did not restore everything"
    [[ ! -e $root/var/lib/gyre-tuning ]] || die "records are left after a revert"
    run 0 --revert
    changed 0
    same before "a second revert changed something"
}

it_is_applied() {
    is /proc/sys/net/core/rmem_max 8388608
    is /proc/sys/net/core/wmem_default 4194304
    grep -qx 'net.core.rmem_max = 8388608' "$root/etc/sysctl.d/90-gyre.conf" || die "the sysctl file lacks a line"
    grep -qx '# not lowered from 4194304: net.core.wmem_default = 1048576' "$root/etc/sysctl.d/90-gyre.conf" ||
        die "the sysctl file would lower a value at the next boot"
    is /tools/card "$(printf '%s\n' most=4 combined=3 rx=2048 tx=1024 adaptive-rx=off rx-usecs=20 udp4=sdfn udp6=sdfn)"
    is /proc/irq/40/smp_affinity_list 1
    is /proc/irq/42/smp_affinity_list 3
    is /proc/irq/43/smp_affinity_list 1 # the fake card keeps its fourth queue
    is /proc/irq/44/smp_affinity_list 0-3
    is /sys/class/net/nic0/queues/tx-0/xps_cpus 2
    is /sys/class/net/nic0/queues/tx-2/xps_cpus 8
    is /sys/class/net/nic0/queues/rx-0/rps_cpus 0
    is /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor schedutil
    is /sys/devices/system/cpu/cpu3/cpufreq/scaling_governor performance
    is /sys/kernel/mm/transparent_hugepage/enabled madvise
    is /sys/devices/virtual/workqueue/cpumask 1
    grep -qx 'AllowedCPUs=0' "$root/etc/systemd/system/init.scope.d/90-gyre.conf" || die "init.scope is not confined"
    grep -qx 'AmbientCapabilities=CAP_NET_BIND_SERVICE' "$root/etc/systemd/system/gyre.service" ||
        die "port 80 needs a capability"
    grep -qx 'cores = "1-3"' "$root/etc/gyre/gyre.toml" || die "gyre.toml lacks the cores"
    grep -qx 'udp = .*"0.0.0.0:6969".*"\[::\]:80"\]' "$root/etc/gyre/gyre.toml" || die "gyre.toml lacks the ports"
    grep -qx 'ExecStart=.* --only nic,cpu --cores 1-3 --nic nic0 --isolate' \
        "$root/etc/systemd/system/gyre-tuning.service" || die "the boot unit does something else"
    [[ -x $root/usr/local/lib/gyre-tuning/apply.sh ]] || die "the boot unit has no script"
}

only_the_chosen_parts_change() {
    make_machine
    snapshot >"$tmp/before"
    run 0 --apply --only cpu --cores 2
    { diff "$tmp/before" <(snapshot) || true; } | grep '^>' | awk '{ print $NF }' | sort >"$tmp/changed"
    diff - "$tmp/changed" <<'END' || die "--only cpu --cores 2 changed something else"
./sys/devices/system/cpu/cpu2/cpufreq/scaling_governor
./sys/kernel/mm/transparent_hugepage/enabled
END
    run 0 --apply --only sysctl
    run 0 --revert --only cpu
    is /sys/devices/system/cpu/cpu2/cpufreq/scaling_governor schedutil
    is /proc/sys/net/core/rmem_max 8388608
    run 0 --revert
    same before "two reverts did not restore everything"
}

changes_by_others_stay() {
    make_machine
    snapshot >"$tmp/before"
    run 0 --apply --only sysctl
    put /proc/sys/net/core/netdev_budget 900
    put /proc/sys/net/core/netdev_budget_usecs 2000 # the original value
    run 3 --revert
    says "netdev_budget: was changed since by others"
    is /proc/sys/net/core/netdev_budget 900
    is /proc/sys/net/core/rmem_max 212992
    run 0 --revert --force
    same before "--force did not restore everything"
    # Settings that were recorded but never changed are not restored.
    run 0 --apply --only nic --nic nic0 --cores 0-3
    sed -i 's/udp6=.*/udp6=sd/' "$root/tools/card"
    run 0 --revert
    is /tools/card "$(printf '%s\n' most=4 combined=4 rx=512 tx=512 adaptive-rx=on rx-usecs=3 udp4=sd udp6=sd)"
}

a_second_apply_keeps_the_first_records() {
    local original
    make_machine
    snapshot >"$tmp/before"
    run 0 --apply --only nic,cpu --nic nic0 --cores 0-3
    run 0 --apply --only nic,cpu --nic nic0 --cores 3,1 --isolate
    is /proc/irq/40/smp_affinity_list 3
    (for record in "$root"/var/lib/gyre-tuning/*; do head -2 "$record/what" | paste -sd' '; done) | sort >"$tmp/out"
    [[ -s $tmp/out && -z $(uniq -d "$tmp/out") ]] || die "a second apply recorded a setting again"
    original=$(dirname "$(grep -lx '40 nic0-TxRx-0' "$root"/var/lib/gyre-tuning/*/what)")/before
    [[ $(<"$original") == 0-3 ]] || die "a second apply overwrote a record"
    run 0 --revert
    same before "two applies could not be undone by one revert"
}

failed_and_killed_runs_can_be_reverted() {
    make_machine
    snapshot >"$tmp/before"
    # A value that even root can't write.
    rm "$root/proc/sys/net/core/netdev_budget"
    ln -s /proc/sys/kernel/random/boot_id "$root/proc/sys/net/core/netdev_budget"
    run 1 --apply --only sysctl
    says "failed [sysctl]: sysctl net.core.netdev_budget"
    is /proc/sys/net/core/netdev_max_backlog 4096
    run 0 --revert
    rm "$root/proc/sys/net/core/netdev_budget"
    put /proc/sys/net/core/netdev_budget 300
    same before "a failed apply could not be reverted"
    # Runs that are killed before and after a setting is written.
    local option some=(--only "sysctl,nic" --cores 1-3 --nic nic0)
    for option in -G -n -L; do
        printf "%s\n" "$option" >"$root/tools/die"
        run 137 --apply "${some[@]}"
        rm "$root/tools/die"
        run 0 --revert
        same before "an apply that was killed at ethtool $option could not be reverted"
    done
    # A revert that is killed.
    run 0 --apply "${some[@]}"
    echo -L >"$root/tools/die"
    run 137 --revert
    rm "$root/tools/die"
    run 0 --revert
    same before "a revert that was killed could not be finished"
}

unsupported_settings_are_skipped() {
    make_machine
    printf '%s\n' -g -C -n >"$root/tools/refuse"
    snapshot >"$tmp/before"
    run 3 --apply --only nic --nic nic0 --cores 0-3
    says "skipped [nic]: nic0 ring: netlink error: Operation not supported"
    says "skipped [nic]: ethtool nic0 coalesce: refused: netlink error"
    is /proc/irq/43/smp_affinity_list 3
    run 0 --revert
    rm "$root/tools/ethtool"
    run 3 --apply --only nic --nic nic0 --cores 0-3
    says "no ethtool"
    run 3 --apply --only conntrack
    says "no nft"
    run 0 --revert
    make_ethtool
    same before "skipped settings were changed"
}

few_queues_are_shared_by_the_cores() {
    make_machine
    rm -r "$root"/sys/class/net/nic0/queues/?x-[23] "$root"/sys/class/net/nic0/device/msi_irqs/4[23]
    sed -i 's/most=4/most=2/; s/combined=4/combined=1/' "$root/tools/card"
    snapshot >"$tmp/before"
    run 0 --apply --only nic --nic nic0 --cores 0-3
    says "note [nic]: nic0 supports only 2 queues for 4 cores"
    grep -qx combined=2 "$root/tools/card" || die "the card does not use all its queues"
    is /sys/class/net/nic0/queues/tx-0/xps_cpus 5
    is /sys/class/net/nic0/queues/rx-0/rps_cpus 5
    is /sys/class/net/nic0/queues/rx-1/rps_cpus a
    run 0 --revert
    same before "shared queues were not restored"
}

a_reboot_resets_volatile_settings() {
    make_machine
    run 0 --apply --only sysctl,cpu --cores 0
    put /proc/sys/kernel/random/boot_id second-boot
    put /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor powersave
    run 0 --revert
    is /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor powersave
    is /proc/sys/net/core/rmem_max 212992
    [[ ! -e $root/etc/sysctl.d/90-gyre.conf ]] || die "a revert after a reboot left the sysctl file"
    # An apply after a reboot writes new records.
    run 0 --apply --only cpu --cores 0
    put /proc/sys/kernel/random/boot_id third-boot
    put /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor ondemand
    run 0 --apply --only cpu --cores 0
    run 0 --revert
    is /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor ondemand
}

invalid_input_is_rejected() {
    make_machine
    snapshot >"$tmp/before"
    while IFS= read -r options; do
        local -a words
        eval "words=($options)"
        run 2 "${words[@]}"
        (($(wc -l <"$tmp/out") == 1)) || die "more than one line about: $options"
        [[ $(<"$tmp/out") == "apply.sh: error: "* ]] || die "no error about: $options"
        same before "invalid input changed something: $options"
    done <<'END'
--what
--apply --dry-run
--apply --revert
--only
--only ''
--only sysctl,foo --apply
--apply --only conntrack --port 0
--apply --only conntrack --port 65536
--apply --only conntrack --port 6969x
--apply --only sysctl --port 6969
--apply --only sysctl --cores 0
--apply --only sysctl,conntrack --nic nic0
--apply --only sysctl --isolate
--apply --only cpu --cores 0-3 --isolate
--apply --only cpu --cores ''
--apply --only cpu --cores x
--apply --only cpu --cores 1,
--apply --only cpu --cores 1,,2
--apply --only cpu --cores 3-1
--apply --only cpu --cores 1-2-3
--apply --only cpu --cores 0x1
--apply --only cpu --cores 1,0-1
--apply --only cpu --cores 0-256
--apply --only cpu --cores 0-18446744073709551615
--apply --only cpu --cores 4
--apply --only nic --cores 0
--apply --only nic --nic eth9
--apply --only nic --nic ../nic0
--apply --only boot
--apply --force
--apply --cores 0
--revert --port 6969
--root /nowhere --apply
END
}

masks_and_lists() {
    local machine=$root
    (
        # shellcheck source-path=SCRIPTDIR source=../tuning/lib.sh
        . tuning/lib.sh
        root=$machine
        expect() { [[ $1 == "$2" ]] || die "$1 is not $2"; }
        expect "$(cpu_mask 0)" 1
        expect "$(cpu_mask 0 1 2 3)" f
        expect "$(cpu_mask 31)" 80000000
        expect "$(cpu_mask 0 33)" 2,00000001
        expect "$(cpu_mask 255)" 80000000,00000000,00000000,00000000,00000000,00000000,00000000,00000000
        expect "$(cpu_mask)" 0
        expect "$(tidy_mask <<<00000000,0000000f)" f
        expect "$(tidy_mask <<<0000,00000000)" 0
        parse_cores "3, 1-2"
        expect "${cores[*]}" "3 1 2"
        parse_cores auto
        expect "${cores[*]}" "0 1 2 3"
        put /sys/kernel/mm/transparent_hugepage/enabled "always [madvise] never"
        expect "$(read_kernel /sys/kernel/mm/transparent_hugepage/enabled)" madvise
    )
}

# ---- in a network namespace ----

# Runs in a network and mount namespace. The only files written are records, in the scratch directory.
in_namespace() {
    mkdir -p "$tmp/records"
    mount --bind "$tmp/records" /var/lib
    mount -t sysfs none /sys
    in_root=()
    ip link set lo up
    ip link add gyre0 numrxqueues 4 numtxqueues 4 type veth peer name client0
    unshare --net sleep 60 &
    client=$!
    trap 'kill $client' EXIT
    until [[ $(readlink /proc/$client/ns/net) != $(readlink /proc/self/ns/net) ]]; do sleep 0.01; done
    ip link set client0 netns $client
    ip addr add 192.0.2.1/24 dev gyre0
    ip addr add 2001:db8::1/64 dev gyre0 nodad
    ip link set gyre0 up
    as_client ip addr add 192.0.2.2/24 dev client0
    as_client ip addr add 2001:db8::2/64 dev client0 nodad
    as_client ip link set client0 up
    # A firewall rule that makes the kernel track connections.
    nft -f - <<'END'
table inet firewall {
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established accept
    }
}
END
    the_port_is_not_tracked
    the_table_is_restored
    a_real_interface_is_restored
    echo "tuning-test: the namespace half passed"
}

as_client() { nsenter --net=/proc/$client/ns/net "$@"; }
tracked() { cat /proc/sys/net/netfilter/nf_conntrack_count; }

# Sends a datagram and a connection request to a port, over IPv4 and IPv6. No program listens: the answers are ICMP and
# a reset.
knock() {
    local address
    for address in 192.0.2.1 2001:db8::1; do
        as_client bash -c "echo >/dev/udp/$address/$1; : >/dev/tcp/$address/$1" 2>/dev/null || true
    done
}

the_port_is_not_tracked() {
    local before
    before=$(tracked)
    knock 6969
    (($(tracked) >= before + 2)) || die "connections are not tracked here, so this can't be tested"
    run 0 --apply --only conntrack --port 6969 --port 7070
    before=$(tracked)
    knock 6969
    knock 7070
    (($(tracked) <= before)) || die "the port is tracked: $(tracked) entries, $before before"
    knock 6970
    (($(tracked) >= before + 2)) || die "another port is no longer tracked"
    nft list table inet gyre >"$tmp/out"
    grep -q 'udp dport { 6969, 7070 } counter packets [1-9]' "$tmp/out" || die "the rules counted no request"
    grep -q 'tcp sport { 6969, 7070 } counter packets [1-9]' "$tmp/out" || die "the rules counted no reply"
    run 0 --apply --only conntrack --port 7070 --port 6969
    changed 0
    run 0 --revert
}

the_table_is_restored() {
    nft -s list ruleset >"$tmp/rules"
    run 0 --apply --only conntrack
    run 0 --apply --only conntrack --port 7000
    run 0 --revert
    diff "$tmp/rules" <(nft -s list ruleset) || die "the rules differ after a revert"
    # A table of another program with the same name.
    nft add table inet gyre
    nft add chain inet gyre mine '{ type filter hook input priority 5; }'
    nft -s list ruleset >"$tmp/rules"
    run 0 --apply --only conntrack
    ! nft list table inet gyre | grep -q mine || die "two tables were merged"
    run 0 --revert
    diff "$tmp/rules" <(nft -s list ruleset) || die "the other program's table was not restored"
}

a_real_interface_is_restored() {
    local before
    ethtool -L gyre0 rx 4 tx 4
    if ! { echo 1 >/sys/class/net/gyre0/queues/tx-3/xps_cpus; } 2>/dev/null; then
        echo "tuning-test: skipped the interface's masks, which need real root"
        return 0
    fi
    before=$(card)
    run 3 --apply --only nic --nic gyre0 --cores 0-1 # veth has no rings
    [[ $(ethtool -l gyre0 | awk '/^RX:/ { n = $2 } END { print n }') == 2 ]] || die "there are not two queues"
    run 3 --apply --only nic --nic gyre0 --cores 0-1
    changed 0
    run 0 --revert
    [[ $(card) == "$before" ]] || die "the interface was not restored: $(card)"
}

card() {
    ethtool -l gyre0
    grep -H . /sys/class/net/gyre0/queues/*/{xps,rps}_cpus
}

# ---- the program ----

if [[ ${1-} == --in-namespace ]]; then
    tmp=$2
    in_namespace
    exit
fi

# Records are synced, which is slow on a disk.
[[ ! -w /dev/shm ]] || export TMPDIR=/dev/shm
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root
in_root=(--root "$root")
mkdir "$root"

for test in a_dry_run_changes_nothing a_revert_undoes_an_apply only_the_chosen_parts_change changes_by_others_stay \
    a_second_apply_keeps_the_first_records failed_and_killed_runs_can_be_reverted unsupported_settings_are_skipped \
    few_queues_are_shared_by_the_cores a_reboot_resets_volatile_settings invalid_input_is_rejected masks_and_lists; do
    $test
    rm -f "$tmp/out"
done
echo "tuning-test: the scratch half passed"

namespace=(unshare --net --mount)
((EUID == 0)) || namespace+=(--map-root-user)
for tool in nft ethtool ip nsenter; do
    command -v $tool >/dev/null || { echo "tuning-test: skipped the namespace half: no $tool" && exit 0; }
done
if ! "${namespace[@]}" sh -c 'mount -t sysfs none /sys && nft list tables && ip link add type veth' &>/dev/null; then
    echo "tuning-test: skipped the namespace half: no network namespaces here"
    exit 0
fi
"${namespace[@]}" "$PWD/scripts/tuning-test.sh" --in-namespace "$tmp"
