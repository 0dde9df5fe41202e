#!/usr/bin/env bash
# The part `cpu`: clock frequency of gyre's cores, huge pages and, with --isolate, keeping other work off those cores.
#
# `cpu.sh --dry-run|--apply --cores LIST [--isolate]` is the same as apply.sh with `--only cpu`.
#
# governor     Sets `performance` on the cores of --cores, so that they always run at their highest frequency. Other
#              governors take some milliseconds to raise it, in which a burst fills the receive buffer.
#              Default: by distribution (`schedutil`, `ondemand` or `powersave`). Cost: power and heat, also when idle.
#              Cores that share a clock with these are raised too.
# huge pages   Sets /sys/kernel/mm/transparent_hugepage/enabled to `madvise` if it is `never`. gyre's allocator requests
#              huge pages by madvise(2) (seen: 18 of 22 MB of a gyre just started are huge pages). Announces access
#              random places in a table of gigabytes. With pages of 2 MiB that takes fewer page-table walks.
#              Default: `always` or `madvise`, by distribution. Cost: other programs that request huge pages get them
#              too, and may take up to 2 MiB where they need 4 KiB. The kernel sometimes compacts memory. Reserved pages
#              (vm.nr_hugepages) are not used, since no other program could use them.
# --isolate    Keeps other work off the cores of --cores. At least one core must be left for it.
#              - the kernel's unbound workqueues, and interrupts of drivers loaded from now on: at once;
#              - system.slice, user.slice and init.scope, by systemd's AllowedCPUs=: from the next boot. gyre.service is
#                in another slice, gyre.slice, which is not confined. Other slices (containers: machine.slice) are not
#                moved.
#              Default: everything runs everywhere. Cost: nothing else can use those cores, even when gyre is idle.
#
# Isolation by the kernel's command line has more effect, but needs a reboot, and a wrong line can keep a machine from
# booting. So no script here writes it; decide yourself. For cores 2-7:
#
#     isolcpus=domain,managed_irq,2-7 rcu_nocbs=2-7
#
# `gyre serve --cores auto` then doesn't see those cores, so list them. Do not use nohz_full=: it saves a tick that
# costs some tenths of a percent, but makes each system call slower, and a tracker makes mainly system calls.
#
# To revert: `apply.sh --revert --only cpu`. A reboot also reverts everything except the files of --isolate; see the
# part `boot`.

# shellcheck disable=SC2154 # what lib.sh and apply.sh own
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    exec "$(dirname "$0")/apply.sh" --only cpu "$@"
fi

cpu_part() {
    cpu_governor
    cpu_huge_pages
    ((!isolate)) || cpu_isolation
}

cpu_governor() {
    local core folder
    for core in "${cores[@]}"; do
        folder=/sys/devices/system/cpu/cpu$core/cpufreq
        if [[ ! -e $root$folder/scaling_governor ]]; then
            skip "core $core has no governor: the firmware, or the host of a virtual machine, sets its frequency"
        elif ! grep -qsw performance "$root$folder/scaling_available_governors"; then
            skip "core $core: the kernel has no governor \`performance\`"
        else
            change_line kernel "$folder/scaling_governor" performance
        fi
    done
}

cpu_huge_pages() {
    local path=/sys/kernel/mm/transparent_hugepage/enabled
    if [[ ! -e $root$path ]]; then
        skip "the kernel has no transparent huge pages"
    elif [[ $(read_kernel "$path") == never ]]; then
        change_line kernel "$path" madvise
    fi
}

cpu_isolation() {
    local core unit section mask
    local -a rest=()
    for core in $(other_cores); do rest+=("$core"); done
    mask=$(cpu_mask "${rest[@]}")
    change_line mask /sys/devices/virtual/workqueue/cpumask "$mask"
    change_line mask /proc/irq/default_smp_affinity "$mask"
    for unit in system.slice user.slice init.scope; do
        section=${unit##*.}
        {
            say "# Written by gyre's tuning (apply.sh --isolate): gyre's cores are ${cores[*]}."
            say "[${section^}]"
            say "AllowedCPUs=${rest[*]}"
        } >"$tmp/drop-in"
        change_file "/etc/systemd/system/$unit.d/90-gyre.conf" "$tmp/drop-in" 644
    done
}

# Prints the online cores that are not in --cores.
other_cores() {
    local core
    for core in $(online_cores); do
        [[ " ${cores[*]} " == *" $core "* ]] || say "$core"
    done
}

online_cores() { awk -F- -v RS='[,\n]' 'NF { for (i = $1; i <= $NF; i++) print i }' "$root/sys/devices/system/cpu/online"; }
