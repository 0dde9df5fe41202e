#!/usr/bin/env bash
# Tunes a machine for gyre, shows each change as a diff, and can revert it. See `apply.sh --help` and README.md.
set -euo pipefail
export LC_ALL=C
here=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=nic.sh
. "$here/nic.sh"
# shellcheck source-path=SCRIPTDIR source=cpu.sh
. "$here/cpu.sh"

usage() {
    cat <<'END'
Tunes a machine for gyre. Shows each change as a diff.

    apply.sh [--dry-run] [OPTIONS]   shows the changes without making them (default)
    apply.sh --apply [OPTIONS]       records the current settings and changes them
    apply.sh --revert [--dry-run] [--only PARTS] [--force]
                                     restores the recorded settings and deletes the records

  --only PARTS    parts to change. Default: sysctl,conntrack; with --revert: all changed parts
                    sysctl     kernel settings, now and at boot (90-gyre.conf)
                    conntrack  no connection tracking for gyre's port (gyre.nft)
                    nic        the network card's queues on gyre's cores (nic.sh)
                    cpu        clock frequency, huge pages, isolation of gyre's cores (cpu.sh)
                    service    a systemd unit and its options (gyre.service)
                    boot       apply conntrack, nic and cpu at each boot, if they are listed too
  --port PORT     gyre's port; may be repeated. Default: 6969                   (conntrack, service)
  --cores LIST    gyre's cores, as for `gyre serve`: `0-3,6` or `auto` (default)  (nic, cpu, service)
  --nic IFACE     network interface. Default: that of the default route         (nic)
  --isolate       keep other work off gyre's cores                              (cpu)
  --force         also revert settings that others have changed since           (--revert)
  --root DIR      use files below DIR and programs in DIR/tools, for trials

The original settings are stored in /var/lib/gyre-tuning. Needs root, except for a dry run.
Exit code 0: success; 1: a change failed; 2: invalid input, nothing was changed; 3: a change was skipped.
END
}

PARTS="sysctl conntrack nic cpu service boot"

# ---- the command line ----

wants() { [[ " $parts " == *" $1 "* ]]; }

# needs_part OPTION PART...: exits if none of the parts that an option is for are chosen.
needs_part() {
    local option=$1 name
    shift
    for name; do
        ! wants "$name" || return 0
    done
    die "$option is for ${*}: add it to --only"
}

parse() {
    mode="" parts="" isolate=0 nic="" given_cores=""
    ports=() given=()
    while (($#)); do
        case $1 in
        --dry-run | --apply | --revert) add_mode "${1#--}" ;;
        --isolate) isolate=1 given+=(--isolate) ;;
        --force) force=1 ;;
        --help | -h) usage && exit 0 ;;
        --only | --port | --cores | --nic | --root)
            [[ -n ${2-} ]] || die "$1 needs a value"
            parse_value "$1" "$2"
            shift
            ;;
        *) die "unknown argument: \`$1\`; see apply.sh --help" ;;
        esac
        shift
    done
}

# Only --revert and --dry-run can be combined.
add_mode() {
    case "$mode $1" in
    " "* | "$1 $1") mode=$1 ;;
    "revert dry-run" | "dry-run revert") mode="revert dry-run" ;;
    *) die "--$1 can't be combined with --${mode/ / and --}" ;;
    esac
}

parse_value() {
    local name
    case $1 in
    --only)
        for name in ${2//,/ }; do
            [[ " $PARTS " == *" $name "* ]] || die "--only: unknown part \`$name\`; must be one of: $PARTS"
            wants "$name" || parts+="${parts:+ }$name"
        done
        ;;
    --port)
        if ! [[ $2 =~ ^[0-9]{1,5}$ ]] || ((10#$2 < 1 || 10#$2 > 65535)); then
            die "--port: \`$2\` is not a number from 1 to 65535"
        fi
        ports+=("$((10#$2))")
        given+=(--port "$2")
        ;;
    --cores) given_cores=$2 given+=(--cores "$2") ;;
    --nic)
        [[ $2 =~ ^[^/[:space:]]{1,15}$ ]] || die "--nic: \`$2\` is not a valid interface name"
        nic=$2 given+=(--nic "$2")
        ;;
    --root)
        [[ -d $2 ]] || die "--root: $2 is not a directory"
        root=$(cd "$2" && pwd)
        root=${root%/}
        [[ $root != *[[:space:]*?\\[]* ]] || die "--root: \`$root\` contains spaces or wildcards"
        ;;
    esac
}

check() {
    if [[ $mode == *revert* ]]; then
        ((${#given[@]} == 0)) || die "${given[0]} can't be combined with --revert, which uses its records"
        return 0
    fi
    ((!force)) || die "--force needs --revert"
    local chosen=$parts
    parts=${parts:-sysctl conntrack}
    if ((${#ports[@]})); then needs_part --port conntrack service; else ports=(6969); fi
    [[ -z $given_cores ]] || needs_part --cores nic cpu service
    [[ -z $nic ]] || needs_part --nic nic
    ((!isolate)) || needs_part --isolate cpu
    ! wants boot || needs_part boot conntrack nic cpu
    if wants nic || wants cpu || wants service; then
        parse_cores "${given_cores:-auto}"
        given_cores=${given_cores//[[:space:]]/} # gyre accepts spaces, but the line of the boot unit does not
    fi
    if ((isolate)) && [[ -z $(other_cores) ]]; then
        die "--isolate: --cores ${given_cores:-auto} leaves no core for other programs"
    fi
    ! wants nic || check_nic
    [[ -n $chosen ]] || say "No --only: using the parts sysctl and conntrack, which change neither hardware nor services."
}

check_nic() {
    if [[ -z $nic ]]; then
        nic=$("$(tool ip || say false)" -o route show default | sed -n '1s/.* dev \([^ ]*\).*/\1/p' || true)
        [[ -n $nic ]] || die "no default route, so the network interface is unknown: use --nic"
        say "No --nic: using $nic, the interface of the default route."
    fi
    [[ -d $root/sys/class/net/$nic ]] || die "--nic: no interface $nic"
}

# ---- the parts without a separate file ----

# Each value is a minimum. A line that would lower the current value becomes a comment.
sysctl_part() {
    local line key asked path now
    while IFS= read -r line; do
        if [[ $line =~ ^([a-z0-9_.]+)\ =\ ([0-9]+)$ ]]; then
            key=${BASH_REMATCH[1]} asked=${BASH_REMATCH[2]}
            path=$root$(sysctl_path "$key")
            if [[ -r $path ]] && now=$(<"$path") && [[ $now =~ ^[0-9]+$ ]] && ((now > asked)); then
                line="# not lowered from $now: $line"
            fi
        fi
        say "$line"
    done <"$here/90-gyre.conf" >"$tmp/sysctl"
    change_file /etc/sysctl.d/90-gyre.conf "$tmp/sysctl" 644
    while read -r key _ asked; do
        change_line sysctl "$key" "$asked"
    done < <(grep -E '^[a-z0-9_.]+ = ' "$tmp/sysctl")
    path=$root/proc/sys/kernel/io_uring_disabled
    if [[ -r $path && $(<"$path") != 0 ]]; then
        note "kernel.io_uring_disabled is $(<"$path"): gyre needs 0, or 1 and its group in kernel.io_uring_group"
    fi
}

conntrack_part() {
    local nft list
    nft=$(tool nft) || { skip "no nft: install nftables" && return 0; }
    ((EUID == 0)) || { skip "only root can read nftables" && return 0; }
    list=$(IFS=, && say "${ports[*]}")
    sed "s/^define ports = .*/define ports = { ${list//,/, } }/" "$here/gyre.nft" >"$tmp/rules.nft"
    # Loads the rules into a temporary network namespace, to get them in the form in which nft lists them.
    # shellcheck disable=SC2016 # for the inner shell
    if ! unshare --net bash -c '"$1" -f "$2" && "$1" -s list table inet gyre' - "$nft" "$tmp/rules.nft" \
        >"$tmp/table" 2>"$tmp/error"; then
        skip "nft can't load the rules: $(complaint)"
        return 0
    fi
    if [[ -e $root/proc/net && ! -e $root/proc/sys/net/netfilter/nf_conntrack_count ]]; then
        note "connection tracking is not loaded, so this part has no effect yet"
    fi
    change nft "inet gyre" "$tmp/table"
}

service_part() {
    local port addresses="" capability=""
    for port in "${ports[@]}"; do
        ((port >= 1024)) || capability=CAP_NET_BIND_SERVICE
        addresses+=", \"0.0.0.0:$port\", \"[::]:$port\""
    done
    sed -E "s/^((CapabilityBoundingSet|AmbientCapabilities)=)$/\1$capability/" "$here/gyre.service" >"$tmp/service"
    change_file /etc/systemd/system/gyre.service "$tmp/service" 644
    {
        say "# Options of gyre. \`gyre config print\` prints a file that explains all of them."
        say "state-dir = \"/var/lib/gyre\""
        say "cores = \"${given_cores:-auto}\""
        [[ ${ports[*]} == 6969 ]] || printf '%s = [%s]\n' udp "${addresses#, }" http "${addresses#, }"
    } >"$tmp/options"
    # Never overwrites options, since the operator may have changed them.
    if [[ -e $root/etc/gyre/gyre.toml ]]; then
        note "/etc/gyre/gyre.toml exists and is not changed; a new one would be:"
        sed 's/^/    /' "$tmp/options"
    else
        change_file /etc/gyre/gyre.toml "$tmp/options" 644
    fi
    [[ -x $root/usr/local/bin/gyre || -x $root/usr/bin/gyre ]] || note "/usr/local/bin/gyre does not exist yet"
    note "to start it: systemctl daemon-reload; systemctl enable --now gyre"
}

boot_part() {
    local folder=/usr/local/lib/gyre-tuning name mode again=()
    for name in conntrack nic cpu; do
        ! wants "$name" || again+=("$name")
    done
    for name in apply.sh lib.sh nic.sh cpu.sh gyre.nft 90-gyre.conf gyre.service README.md; do
        mode=644
        [[ $name != *.sh ]] || mode=755
        change_file "$folder/$name" "$here/$name" $mode
    done
    {
        cat <<'END'
# Applies gyre's tuning at each boot, for settings that a reboot resets. Written by gyre's tuning (apply.sh, part boot).

[Unit]
Description=Tuning for gyre
END
        # A firewall that begins with `flush ruleset` would delete gyre's table.
        say "After=network-pre.target nftables.service firewalld.service ufw.service"
        ! wants nic || say "Wants=$(device_unit)"
        ! wants nic || say "After=$(device_unit)"
        cat <<END
Before=gyre.service

[Service]
Type=oneshot
RemainAfterExit=yes
# 3: a driver does not support a setting.
SuccessExitStatus=3
ExecStart=$folder/apply.sh --apply --only $(IFS=, && say "${again[*]}")$(boot_options)

[Install]
WantedBy=multi-user.target
END
    } >"$tmp/unit"
    change_file /etc/systemd/system/gyre-tuning.service "$tmp/unit" 644
    note "to enable it: systemctl daemon-reload; systemctl enable gyre-tuning"
}

device_unit() { say "sys-subsystem-net-devices-${nic//-/\\x2d}.device"; }

# Prints the options for the parts that are applied at each boot.
boot_options() {
    local port
    if wants conntrack; then
        for port in "${ports[@]}"; do printf ' --port %s' "$port"; done
    fi
    if wants nic || wants cpu; then printf ' --cores %s' "${given_cores:-auto}"; fi
    ! wants nic || printf ' --nic %s' "$nic"
    ((!isolate)) || printf ' --isolate'
}

# ---- the program ----

summary() {
    local verb=made
    [[ $mode != *revert* ]] || verb="reverted"
    ((!dry)) || verb="shown, none made"
    say "apply.sh: $changes changes $verb, $skipped skipped, $failed failed"
    if [[ $mode == apply ]] && ((changes)); then say "apply.sh: use --revert to restore the original settings"; fi
    ((failed == 0)) || exit 1
    ((skipped == 0)) || exit 3
}

main() {
    local name
    parse "$@"
    for name in awk cmp diff install mktemp; do
        command -v "$name" >/dev/null || die "$name is not installed"
    done
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    check
    [[ $mode != apply && $mode != revert ]] || dry=0
    ((dry)) || ((EUID == 0)) || [[ -n $root ]] || die "--$mode needs root"
    ((!dry)) || say "Dry run: nothing is changed."
    open_state
    if [[ $mode == *revert* ]]; then
        revert "$parts"
    else
        for part in $PARTS; do
            ! wants "$part" || "${part}_part"
        done
        settle_records
    fi
    summary
}

main "$@"
