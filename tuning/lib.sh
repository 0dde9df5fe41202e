# shellcheck shell=bash
# What apply.sh and its parts share: a setting is read, shown as a diff, recorded, written, and put back.
#
# A setting is a kind and a key. Each kind has three functions:
#
#     read_KIND KEY          its value on standard output; returns ABSENT if there is none, else an error
#     write_KIND KEY FILE    makes it what FILE says
#     drop_KIND KEY          makes it absent (kinds that can be)
#
# | kind    | key                    | value                                        |
# |---------|------------------------|----------------------------------------------|
# | file    | a path                 | the file, byte for byte                      |
# | dir     | a path                 | the word `directory`                         |
# | sysctl  | a sysctl's name        | a line                                       |
# | kernel  | a path in /proc, /sys  | a line; of a list of [choices], the chosen   |
# | mask    | a path in /proc, /sys  | a mask of CPUs, without leading zeros        |
# | irq     | a number, a name       | the CPUs that may take it, as a list         |
# | ethtool | interface, what        | lines `name = value` (nic.sh)                |
# | nft     | a table                | the table, as nft lists it, without counters |
#
# Records are folders $state/0001, 0002, ...: `what` (kind, key, part, boot), `before` (missing if the setting was
# absent) and, once it has been written, `after`. They are written out before the setting is. The first record of a
# setting is never overwritten, so that `before` is what was there before the first of several runs.

ABSENT=10

root=""      # what all paths begin with
dry=1        # nothing is written
force=0      # a revert puts back what somebody else has changed since
part=""      # the part at work
changes=0 skipped=0 failed=0
tmp="" state="" boot="" recorded=""
cores=() what=()

say() { printf '%s\n' "$*"; }
note() { say "note [$part]: $*"; }

skip() {
    say "skipped [$part]: $*"
    skipped=$((skipped + 1))
}

fail() {
    say "failed [$part]: $*"
    failed=$((failed + 1))
}

# Wrong input: one line, before anything is changed.
die() {
    printf 'apply.sh: error: %s\n' "$*" >&2
    exit 2
}

# Where a program is. Under --root only $root/tools counts, so that a trial can't reach the running machine.
tool() {
    if [[ -n $root ]]; then
        [[ -x $root/tools/$1 ]] && say "$root/tools/$1"
    else
        command -v "$1"
    fi
}

# The last command's complaint, on one line; of bash's own, without the place in the script.
complaint() {
    local line
    line=$(grep -m1 . "$tmp/error" | sed -E 's/^[^:]*: line [0-9]+: //' || true)
    say "${line:-no reason given}"
}

# ---- kinds ----

read_file() {
    [[ ! -L $root$1 ]] || { say "it is a symbolic link" >&2 && return 1; }
    [[ -e $root$1 ]] || return "$ABSENT"
    cat "$root$1"
}

# Written beside it and renamed, so that there is never half a file. The mode is that of FILE.
write_file() {
    cp -p "$2" "$root$1.gyre-new" && mv "$root$1.gyre-new" "$root$1"
}

drop_file() { rm "$root$1"; }

read_dir() {
    [[ -d $root$1 ]] || return "$ABSENT"
    say directory
}

write_dir() { mkdir -m 755 "$root$1"; }
drop_dir() { rmdir "$root$1"; }

sysctl_path() { say "/proc/sys/${1//.//}"; }
read_sysctl() { read_kernel "$(sysctl_path "$1")"; }
write_sysctl() { write_kernel "$(sysctl_path "$1")" "$2"; }

read_kernel() {
    local line
    [[ -e $root$1 ]] || { say "$1 is not there" >&2 && return 1; }
    IFS= read -r line <"$root$1" || [[ -n ${line-} ]] || { say "$1 can't be read" >&2 && return 1; }
    [[ $line =~ \[([^]]*)\] ]] && line=${BASH_REMATCH[1]}
    say "$line"
}

write_kernel() { cat "$2" >"$root$1"; }

read_mask() { read_kernel "$1" | tidy_mask; }
write_mask() { write_kernel "$@"; }

# `00000000,0000000f` and `0f` are the mask `f`.
tidy_mask() {
    local mask
    IFS= read -r mask || return 1
    mask=${mask#"${mask%%[!0,]*}"}
    say "${mask:-0}"
}

# An interrupt's number can be another's by now: its name must be the same.
read_irq() {
    [[ $(irq_name "${1% *}") == "${1#* }" ]] || { say "interrupt $1 is gone" >&2 && return 1; }
    read_kernel "/proc/irq/${1% *}/smp_affinity_list"
}

write_irq() { write_kernel "/proc/irq/${1% *}/smp_affinity_list" "$2"; }

irq_name() { awk -v irq="$1:" '$1 == irq { print $NF }' "$root/proc/interrupts"; }

read_nft() {
    local nft
    nft=$(tool nft) || { say "no nft: install nftables" >&2 && return 1; }
    # The list of tables says whether there is one; else a table that isn't there looks like a lack of rights.
    "$nft" list tables >"$tmp/tables" || return 1
    grep -qx "table $1" "$tmp/tables" || return "$ABSENT"
    # shellcheck disable=SC2086 # a family and a name
    "$nft" -s list table $1
}

# One transaction: there is no moment without the table.
write_nft() {
    { say "table $1" && say "delete table $1" && cat "$2"; } | "$(tool nft)" -f -
}

# shellcheck disable=SC2086 # a family and a name
drop_nft() { "$(tool nft)" delete table $1; }

# ---- reading and showing ----

# Reads a setting to $tmp/now, which is missing if the setting is absent.
fetch() {
    local code=0
    "read_$1" "$2" >"$tmp/now" 2>"$tmp/error" || code=$?
    ((code == 0)) || rm "$tmp/now"
    ((code == 0 || code == ABSENT))
}

# Two values, of which either may be missing.
same() {
    if [[ -e $1 && -e $2 ]]; then cmp -s "$1" "$2"; else [[ ! -e $1 && ! -e $2 ]]; fi
}

# A value as it is shown: with its key before it, if it is a line.
shown() {
    [[ -e $3 ]] || return 0
    case $1 in
    sysctl | kernel | mask) sed "s|^|$2 = |" "$3" ;;
    irq) sed "s|^|irq $2: cpus = |" "$3" ;;
    dir) say "$2: directory" ;;
    *) cat "$3" ;;
    esac
}

show_difference() {
    local kind=$1 key=$2
    shown "$kind" "$key" "$3" >"$tmp/left"
    shown "$kind" "$key" "$4" >"$tmp/right"
    diff -u --label "now: [$part] $kind $key" --label "then: [$part] $kind $key" "$tmp/left" "$tmp/right" || true
}

# ---- changing ----

# change KIND KEY FILE: makes a setting what FILE says.
change() {
    local kind=$1 key=$2 asked=$3
    fetch "$kind" "$key" || { skip "$kind $key: $(complaint)" && return 0; }
    same "$tmp/now" "$asked" && return 0
    show_difference "$kind" "$key" "$tmp/now" "$asked"
    changes=$((changes + 1))
    ((dry)) && return 0
    record "$kind" "$key"
    if ! "write_$kind" "$key" "$asked" 2>"$tmp/error"; then
        changes=$((changes - 1))
        case $kind in
        # Hardware, and what stands in for it, may not be able to.
        ethtool | irq | mask | kernel) skip "$kind $key: refused: $(complaint)" ;;
        *) fail "$kind $key: $(complaint)" ;;
        esac
        return 0
    fi
    # What it is now can differ from what was asked: hardware rounds.
    fetch "$kind" "$key" || { fail "$kind $key: $(complaint)" && return 0; }
    same "$tmp/now" "$asked" || note "$kind $key became: $(paste -sd' ' "$tmp/now" 2>/dev/null)"
    [[ ! -e $tmp/now ]] || cp "$tmp/now" "$recorded/after"
}

# change_line KIND KEY VALUE: the same for a value of one line.
change_line() {
    say "$3" >"$tmp/asked"
    change "$1" "$2" "$tmp/asked"
}

# change_file PATH FILE MODE: the same for a file, and for the folders that it is in.
change_file() {
    local path=$1 folder
    local -a missing=()
    folder=$(dirname "$path")
    while [[ ! -d $root$folder ]]; do
        missing=("$folder" "${missing[@]}")
        folder=$(dirname "$folder")
    done
    for folder in "${missing[@]}"; do
        [[ " $shown_folders " == *" $folder "* ]] || change_line dir "$folder" directory
        shown_folders+=" $folder" # a dry run doesn't make it, and shows it once
    done
    install -m "$3" "$2" "$tmp/install"
    change file "$path" "$tmp/install"
}
shown_folders=""

# ---- records ----

open_state() {
    state=$root/var/lib/gyre-tuning
    boot=-
    [[ ! -e $root/proc/sys/kernel/random/boot_id ]] || boot=$(<"$root/proc/sys/kernel/random/boot_id")
    ((dry)) && return 0
    mkdir -p "$root/var/lib"
    [[ -d $state ]] || mkdir -m 700 "$state"
    # Two runs at a time would each record what the other is about to change.
    if command -v flock >/dev/null; then
        exec {lock}<"$state"
        flock -n "$lock" || { say "apply.sh: error: another run is at work ($state is locked)" >&2 && exit 1; }
    fi
    drop_stale_records
}

# All records, oldest first.
records() { { compgen -G "$state/[0-9][0-9][0-9][0-9]" || true; } | sort; }

# Reads a record's head to the array `what`: kind, key, part, boot.
read_record() { mapfile -t what <"$1/what"; }

# Files, folders and sysctls (by their file) outlive a reboot. What else was set is gone with it, and the kernel's own
# value is there again; what is recorded of before must not be put in its place.
is_stale() {
    read_record "$1"
    [[ ${what[0]} != @(file|dir|sysctl) && ${what[3]} != "$boot" ]]
}

drop_stale_records() {
    local it
    for it in $(records); do
        ! is_stale "$it" || rm -r "$it"
    done
}

# Records what $tmp/now has, unless there is a record of it; the record's folder to `recorded`.
record() {
    local it number=1 new=$state/new
    for it in $(records); do
        read_record "$it"
        recorded=$it
        [[ ${what[0]} != "$1" || ${what[1]} != "$2" ]] || return 0
        number=$((10#${it##*/} + 1))
    done
    [[ ! -e $new ]] || rm -r "$new"
    mkdir "$new"
    printf '%s\n' "$1" "$2" "$part" "$boot" >"$new/what"
    if [[ -e $tmp/now ]]; then
        # A file keeps its mode, owner and time.
        if [[ $1 == file ]]; then cp -p "$root$2" "$new/before"; else cp "$tmp/now" "$new/before"; fi
    fi
    sync "$new"/* "$new"
    recorded=$state/$(printf %04d "$number")
    mv "$new" "$recorded"
    sync "$state"
}

# Records a setting that a change to another one may disturb.
remember() {
    ((dry)) && return 0
    ! fetch "$1" "$2" || record "$1" "$2"
}

# A record without `after` is of a setting that was only remembered, or could not be written. What has not moved needs
# no record; of what has, `after` is how it stands now.
settle_records() {
    local it
    ((dry)) && return 0
    for it in $(records); do
        [[ ! -e $it/after ]] || continue
        read_record "$it"
        if fetch "${what[0]}" "${what[1]}"; then
            if same "$tmp/now" "$it/before"; then rm -r "$it"; else cp "$tmp/now" "$it/after"; fi
        elif [[ ${what[0]} == irq ]]; then
            rm -r "$it"
        fi
    done
    rmdir "$state" 2>/dev/null || true
}

# ---- putting back ----

# revert_one RECORD
revert_one() {
    local it=$1 kind key
    read_record "$it"
    kind=${what[0]} key=${what[1]} part=${what[2]}
    if is_stale "$it"; then
        note "$kind $key: the reboot since has put it back"
        return 0 # the record goes with the next change
    fi
    if ! fetch "$kind" "$key"; then
        if [[ $kind == irq ]]; then # it took its setting with it
            note "$kind $key: $(complaint)"
            ((dry)) || rm -r "$it"
            return 0
        fi
        skip "$kind $key: $(complaint)"
        ((dry || !force)) || rm -r "$it"
        return 0
    fi
    if ! same "$tmp/now" "$it/before"; then
        if ((!force)) && [[ -e $it/after ]] && ! same "$tmp/now" "$it/after"; then
            skip "$kind $key: somebody has changed it since; --force puts back what was there before"
            return 0
        fi
        if [[ $kind == dir && -n $(ls -A "$root$key") ]] && ((!dry)); then
            skip "dir $key: not empty, so it stays"
            ((!force)) || rm -r "$it"
            return 0
        fi
        show_difference "$kind" "$key" "$tmp/now" "$it/before"
        changes=$((changes + 1))
        ((dry)) && return 0
        put_back "$it" "$kind" "$key" || return 0
    fi
    ((dry)) || rm -r "$it"
}

put_back() {
    local it=$1 kind=$2 key=$3 done=0
    if [[ -e $it/before ]]; then
        "write_$kind" "$key" "$it/before" 2>"$tmp/error" || done=1
    else
        "drop_$kind" "$key" 2>"$tmp/error" || done=1
    fi
    if ((done == 0)) && fetch "$kind" "$key" && same "$tmp/now" "$it/before"; then
        return 0
    fi
    fail "$kind $key: not put back: $(complaint)"
    changes=$((changes - 1))
    return 1
}

# The records of some parts (all, if none is named), the newest first.
revert() {
    local it
    for it in $(records | sort -r); do
        read_record "$it"
        [[ -n $1 && " $1 " != *" ${what[2]} "* ]] || revert_one "$it"
    done
    ((dry)) || rmdir "$state" 2>/dev/null || true
}

# ---- cores ----

# A list of cores as `gyre serve --cores` takes it, to the array `cores`.
parse_cores() {
    local text=$1 item first last core seen=" "
    cores=()
    [[ $text != auto ]] || text=$(<"$root/sys/devices/system/cpu/online")
    local -a items
    mapfile -t -d, items < <(printf '%s,' "$text")
    for item in "${items[@]}"; do
        [[ $item =~ ^[[:space:]]*([0-9]{1,5})[[:space:]]*(-[[:space:]]*([0-9]{1,5})[[:space:]]*)?$ ]] ||
            die "--cores: \`$item\` is neither a core nor a range of cores; write \`auto\`, or a list like \`0-3,6\`"
        first=$((10#${BASH_REMATCH[1]}))
        last=$((10#${BASH_REMATCH[3]:-$first}))
        ((first <= last)) || die "--cores: the range \`$item\` ends before it begins"
        ((${#cores[@]} + last - first < 256)) || die "--cores: more than 256 cores"
        for ((core = first; core <= last; core++)); do
            [[ $seen != *" $core "* ]] || die "--cores: core $core is named twice; a core has one worker"
            seen+="$core "
            cores+=("$core")
        done
    done
    for core in "${cores[@]}"; do
        [[ -d $root/sys/devices/system/cpu/cpu$core ]] || die "--cores: this machine has no core $core"
    done
}

# The mask of some CPUs: hexadecimal, in groups of 32 bits.
cpu_mask() {
    local cpu group top=0 mask=""
    local -a groups=()
    for cpu; do
        group=$((cpu / 32))
        groups[group]=$((${groups[group]:-0} | 1 << (cpu % 32)))
        ((group <= top)) || top=$group
    done
    for ((group = top; group >= 0; group--)); do
        mask+=$(printf ',%08x' "${groups[group]:-0}")
    done
    tidy_mask <<<"$mask"
}
