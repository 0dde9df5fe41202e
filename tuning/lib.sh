# shellcheck shell=bash
# Functions that apply.sh and its parts share: reading a setting, showing changes as a diff, recording, writing,
# reverting.
#
# A setting has a kind and a key. Each kind has three functions:
#
#     read_KIND KEY          prints the value; returns ABSENT if it does not exist, another code after an error
#     write_KIND KEY FILE    sets the value to the content of FILE
#     drop_KIND KEY          removes the setting (some kinds only)
#
# | kind    | key                    | value                                        |
# |---------|------------------------|----------------------------------------------|
# | file    | a path                 | the file, byte for byte                      |
# | dir     | a path                 | the word `directory`                         |
# | sysctl  | a sysctl's name        | a line                                       |
# | kernel  | a path in /proc, /sys  | a line; of a list, the [chosen] entry        |
# | mask    | a path in /proc, /sys  | a mask of CPUs, without leading zeros        |
# | irq     | number, name           | the CPUs that may handle it, as a list       |
# | ethtool | interface, topic       | lines `name = value` (nic.sh)                |
# | nft     | a table                | the table, as nft lists it, without counters |
#
# Records are directories $state/0001, 0002, ... with the files `what` (kind, key, part, boot), `before` (missing if the
# setting did not exist) and, once the setting has been written, `after`. A record is synced to disk before its setting
# is written. The first record of a setting is never overwritten, so `before` is the state before the first of several
# runs.

ABSENT=10

root=""      # prefix of all paths
dry=1        # 1: write nothing
force=0      # 1: a revert also replaces changes made since by others
part=""      # the current part
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

# Exits because of invalid input: prints one line, before anything is changed.
die() {
    printf 'apply.sh: error: %s\n' "$*" >&2
    exit 2
}

# Prints the path of a program. With --root only $root/tools is searched, so that a trial can't change the running
# machine.
tool() {
    if [[ -n $root ]]; then
        [[ -x $root/tools/$1 ]] && say "$root/tools/$1"
    else
        command -v "$1"
    fi
}

# Prints the last command's error message on one line. For errors of bash, without the position in the script.
complaint() {
    local line
    line=$(grep -m1 . "$tmp/error" | sed -E 's/^[^:]*: line [0-9]+: //' || true)
    say "${line:-no reason given}"
}

# ---- kinds ----

read_file() {
    [[ ! -L $root$1 ]] || { say "is a symbolic link" >&2 && return 1; }
    [[ -e $root$1 ]] || return "$ABSENT"
    cat "$root$1"
}

# Writes a new file and renames it, so that the file is never incomplete. The mode is that of FILE.
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
    [[ -e $root$1 ]] || { say "$1 does not exist" >&2 && return 1; }
    IFS= read -r line <"$root$1" || [[ -n ${line-} ]] || { say "$1 can't be read" >&2 && return 1; }
    [[ $line =~ \[([^]]*)\] ]] && line=${BASH_REMATCH[1]}
    say "$line"
}

write_kernel() { cat "$2" >"$root$1"; }

read_mask() { read_kernel "$1" | tidy_mask; }
write_mask() { write_kernel "$@"; }

# Removes leading zeros: `00000000,0000000f` and `0f` become `f`.
tidy_mask() {
    local mask
    IFS= read -r mask || return 1
    mask=${mask#"${mask%%[!0,]*}"}
    say "${mask:-0}"
}

# Interrupt numbers are reused, so the name must still match.
read_irq() {
    [[ $(irq_name "${1% *}") == "${1#* }" ]] || { say "interrupt $1 no longer exists" >&2 && return 1; }
    read_kernel "/proc/irq/${1% *}/smp_affinity_list"
}

write_irq() { write_kernel "/proc/irq/${1% *}/smp_affinity_list" "$2"; }

irq_name() { awk -v irq="$1:" '$1 == irq { print $NF }' "$root/proc/interrupts"; }

read_nft() {
    local nft
    nft=$(tool nft) || { say "no nft: install nftables" >&2 && return 1; }
    # Checks the list of tables first, since nft reports a missing table like missing permissions.
    "$nft" list tables >"$tmp/tables" || return 1
    grep -qx "table $1" "$tmp/tables" || return "$ABSENT"
    # shellcheck disable=SC2086 # a family and a name
    "$nft" -s list table $1
}

# Replaces the table in one transaction, so that it exists at any moment.
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

# Returns whether two values are the same. Both may be missing.
same() {
    if [[ -e $1 && -e $2 ]]; then cmp -s "$1" "$2"; else [[ ! -e $1 && ! -e $2 ]]; fi
}

# Prints a value for a diff: a single line with its key.
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

# change KIND KEY FILE: sets a setting to the content of FILE.
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
        # Hardware, real or virtual, may not support it.
        ethtool | irq | mask | kernel) skip "$kind $key: refused: $(complaint)" ;;
        *) fail "$kind $key: $(complaint)" ;;
        esac
        return 0
    fi
    # The result can differ from the request, since hardware rounds values.
    fetch "$kind" "$key" || { fail "$kind $key: $(complaint)" && return 0; }
    same "$tmp/now" "$asked" || note "$kind $key became: $(paste -sd' ' "$tmp/now" 2>/dev/null)"
    [[ ! -e $tmp/now ]] || cp "$tmp/now" "$recorded/after"
}

# change_line KIND KEY VALUE: like `change`, but for a value of one line.
change_line() {
    say "$3" >"$tmp/asked"
    change "$1" "$2" "$tmp/asked"
}

# change_file PATH FILE MODE: like `change`, but for a file. Also creates its missing parent directories.
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
        shown_folders+=" $folder" # a dry run does not create it, and shows it only once
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
    # Two concurrent runs would record each other's changes.
    if command -v flock >/dev/null; then
        exec {lock}<"$state"
        flock -n "$lock" || { say "apply.sh: error: another run is active ($state is locked)" >&2 && exit 1; }
    fi
    drop_stale_records
}

# Prints all records, oldest first.
records() { { compgen -G "$state/[0-9][0-9][0-9][0-9]" || true; } | sort; }

# Reads kind, key, part and boot of a record into the array `what`.
read_record() { mapfile -t what <"$1/what"; }

# Files, directories and sysctls (by their file) survive a reboot. Other settings have the kernel's values again
# afterwards, so their records must not be used.
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

# Records the value in $tmp/now, unless the setting has a record. Sets `recorded` to the directory of the record.
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
        # Keeps mode, owner and time of a file.
        if [[ $1 == file ]]; then cp -p "$root$2" "$new/before"; else cp "$tmp/now" "$new/before"; fi
    fi
    sync "$new"/* "$new"
    recorded=$state/$(printf %04d "$number")
    mv "$new" "$recorded"
    sync "$state"
}

# Records a setting that may change as a side effect of another change.
remember() {
    ((dry)) && return 0
    ! fetch "$1" "$2" || record "$1" "$2"
}

# A record without `after` belongs to a setting that was only remembered or could not be written. If the setting has not
# changed, removes the record. Otherwise writes `after`.
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

# ---- reverting ----

# revert_one RECORD
revert_one() {
    local it=$1 kind key
    read_record "$it"
    kind=${what[0]} key=${what[1]} part=${what[2]}
    if is_stale "$it"; then
        note "$kind $key: a reboot has put it back"
        return 0 # the next change removes the record
    fi
    if ! fetch "$kind" "$key"; then
        if [[ $kind == irq ]]; then # the interrupt and its setting no longer exist
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
            skip "$kind $key: was changed since by others; --force puts the original back"
            return 0
        fi
        if [[ $kind == dir && -n $(ls -A "$root$key") ]] && ((!dry)); then
            skip "dir $key: not empty, not removed"
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
    fail "$kind $key: can't put it back: $(complaint)"
    changes=$((changes - 1))
    return 1
}

# Reverts the records of some parts, or of all parts if none are named, newest first.
revert() {
    local it
    for it in $(records | sort -r); do
        read_record "$it"
        [[ -n $1 && " $1 " != *" ${what[2]} "* ]] || revert_one "$it"
    done
    ((dry)) || rmdir "$state" 2>/dev/null || true
}

# ---- cores ----

# Parses a list of cores in the syntax of `gyre serve --cores` into the array `cores`.
parse_cores() {
    local text=$1 item first last core seen=" "
    cores=()
    [[ $text != auto ]] || text=$(<"$root/sys/devices/system/cpu/online")
    local -a items
    mapfile -t -d, items < <(printf '%s,' "$text")
    for item in "${items[@]}"; do
        [[ $item =~ ^[[:space:]]*([0-9]{1,5})[[:space:]]*(-[[:space:]]*([0-9]{1,5})[[:space:]]*)?$ ]] ||
            die "--cores: \`$item\` is not a core or a range of cores; must be \`auto\` or a list like \`0-3,6\`"
        first=$((10#${BASH_REMATCH[1]}))
        last=$((10#${BASH_REMATCH[3]:-$first}))
        ((first <= last)) || die "--cores: the range \`$item\` ends before it begins"
        ((${#cores[@]} + last - first < 256)) || die "--cores: more than 256 cores"
        for ((core = first; core <= last; core++)); do
            [[ $seen != *" $core "* ]] || die "--cores: core $core is listed twice; a core has one worker"
            seen+="$core "
            cores+=("$core")
        done
    done
    for core in "${cores[@]}"; do
        [[ -d $root/sys/devices/system/cpu/cpu$core ]] || die "--cores: this machine has no core $core"
    done
}

# Prints the mask of some CPUs: hexadecimal, in groups of 32 bits.
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
