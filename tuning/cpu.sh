#!/usr/bin/env bash
# The part `cpu`: the clock of gyre's cores, huge pages and, with --isolate, other work off those cores.
#
# By itself: cpu.sh --dry-run|--apply --cores LIST [--isolate] is apply.sh with `--only cpu`.
#
# governor     `performance` on the cores of --cores: they run at their highest clock whatever the load. Other governors
#              take some milliseconds to raise it, in which a burst fills the receive buffer.
#              Default: by distribution (`schedutil`, `ondemand` or `powersave`). Cost: power and heat, also when idle;
#              cores that share a clock with these rise with them.
# huge pages   /sys/kernel/mm/transparent_hugepage/enabled at least `madvise`. gyre's allocator asks for huge pages by
#              madvise(2) (seen: 18 of 22 MB of a gyre just started are huge pages). In a table of gigabytes each announce
#              touches other places; in 2 MiB pages that takes fewer page-table walks. Only `never` is changed.
#              Default: `always` or `madvise`, by distribution. Cost: every program that asks gets them too, and may
#              take up to 2 MiB where it needs 4 KiB; the kernel now and then compacts memory. Reserved pages
#              (vm.nr_hugepages) are not used: they would be gone for everybody else.
# --isolate    Other work off the cores of --cores. At least one core must be left for it.
#              - the kernel's unbound workqueues, and the interrupts of drivers that come from now on, at once;
#              - system.slice, user.slice and init.scope by systemd's AllowedCPUs=, from the next boot. gyre.service is in
#                a slice of its own, gyre.slice, and is not confined. What has another slice (containers: machine.slice)
#                is not moved.
#              Default: everything runs everywhere. Cost: those cores are lost to all else, even when gyre is idle.
#
# Isolation by the kernel's command line goes further, and is yours to decide: it needs a reboot, and a wrong line can
# keep a machine from booting, so no script here writes it. For cores 2-7:
#
#     isolcpus=domain,managed_irq,2-7 rcu_nocbs=2-7
#
# `gyre serve --cores auto` then doesn't see those cores: name them. Not nohz_full=: it saves a tick that costs some tenths
# of a percent, and makes each system call dearer; a tracker is all system calls.
#
# How it was: `apply.sh --revert --only cpu`. But for the files of --isolate, a reboot puts all of it back; see the part
# `boot`.

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
            skip "core $core has no governor: the firmware, or the host of a virtual machine, decides its clock"
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
            say "# By gyre's tuning (apply.sh --isolate): gyre's cores are ${cores[*]}."
            say "[${section^}]"
            say "AllowedCPUs=${rest[*]}"
        } >"$tmp/drop-in"
        change_file "/etc/systemd/system/$unit.d/90-gyre.conf" "$tmp/drop-in" 644
    done
}

# The cores that are online and not gyre's.
other_cores() {
    local core
    for core in $(online_cores); do
        [[ " ${cores[*]} " == *" $core "* ]] || say "$core"
    done
}

online_cores() { awk -F- -v RS='[,\n]' 'NF { for (i = $1; i <= $NF; i++) print i }' "$root/sys/devices/system/cpu/online"; }
