#!/usr/bin/env bash
# Tunes a machine for gyre, shows each change as a diff, and can undo it. `apply.sh --help`; README.md explains it all.
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

    apply.sh [--dry-run] [OPTIONS]   shows what would change, and changes nothing (the default)
    apply.sh --apply [OPTIONS]       records what is there, and changes it
    apply.sh --revert [--dry-run] [--only PARTS] [--force]
                                     puts back what was recorded, and forgets it

  --only PARTS    what to touch; nothing else is. Default: sysctl,conntrack. --revert: all that was changed
                    sysctl     kernel settings, now and at boot (90-gyre.conf)
                    conntrack  the port out of connection tracking (gyre.nft)
                    nic        the network card's queues on gyre's cores (nic.sh)
                    cpu        clock, huge pages, isolation of gyre's cores (cpu.sh)
                    service    a unit for systemd and its options (gyre.service)
                    boot       conntrack, nic and cpu again at each boot: those of them that are named too
  --port PORT     gyre's port; may be given several times. Default: 6969       (conntrack, service)
  --cores LIST    as for `gyre serve`: `0-3,6` or `auto`, the default           (nic, cpu, service)
  --nic IFACE     Default: the interface of the default route                   (nic)
  --isolate       keep other work off these cores                               (cpu)
  --force         put back also what somebody else has changed since            (--revert)
  --root DIR      look for all files below DIR, and for programs in DIR/tools: for trials

Originals are kept in /var/lib/gyre-tuning. Needs root, except to show.
Ends with 0: done; 1: something failed; 2: wrong input, nothing was touched; 3: something was skipped.
END
}

PARTS="sysctl conntrack nic cpu service boot"

# ---- the command line ----

wants() { [[ " $parts " == *" $1 "* ]]; }

# needs_part OPTION PART...: an option for parts that are not asked for is a misunderstanding.
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
        *) die "what is \`$1\`? See apply.sh --help" ;;
        esac
        shift
    done
}

# `revert dry-run` is the one pair that makes sense.
add_mode() {
    case "$mode $1" in
    " "* | "$1 $1") mode=$1 ;;
    "revert dry-run" | "dry-run revert") mode="revert dry-run" ;;
    *) die "--$1 and --${mode/ / and --} contradict each other" ;;
    esac
}

parse_value() {
    local name
    case $1 in
    --only)
        for name in ${2//,/ }; do
            [[ " $PARTS " == *" $name "* ]] || die "--only: there is no part \`$name\`, only: $PARTS"
            wants "$name" || parts+="${parts:+ }$name"
        done
        ;;
    --port)
        if ! [[ $2 =~ ^[0-9]{1,5}$ ]] || ((10#$2 < 1 || 10#$2 > 65535)); then
            die "--port: \`$2\` is not in 1 to 65535"
        fi
        ports+=("$((10#$2))")
        given+=(--port "$2")
        ;;
    --cores) given_cores=$2 given+=(--cores "$2") ;;
    --nic)
        [[ $2 =~ ^[^/[:space:]]{1,15}$ ]] || die "--nic: \`$2\` is no name of an interface"
        nic=$2 given+=(--nic "$2")
        ;;
    --root)
        [[ -d $2 ]] || die "--root: there is no folder $2"
        root=$(cd "$2" && pwd)
        root=${root%/}
        [[ $root != *[[:space:]*?\\[]* ]] || die "--root: \`$root\` has spaces or wildcards in it"
        ;;
    esac
}

check() {
    if [[ $mode == *revert* ]]; then
        ((${#given[@]} == 0)) || die "${given[0]}: --revert knows from its records what to put back"
        return 0
    fi
    ((!force)) || die "--force is for --revert"
    local chosen=$parts
    parts=${parts:-sysctl conntrack}
    if ((${#ports[@]})); then needs_part --port conntrack service; else ports=(6969); fi
    [[ -z $given_cores ]] || needs_part --cores nic cpu service
    [[ -z $nic ]] || needs_part --nic nic
    ((!isolate)) || needs_part --isolate cpu
    ! wants boot || needs_part boot conntrack nic cpu
    if wants nic || wants cpu || wants service; then
        parse_cores "${given_cores:-auto}"
        given_cores=${given_cores//[[:space:]]/} # gyre takes spaces, a line of options doesn't
    fi
    if ((isolate)) && [[ -z $(other_cores) ]]; then
        die "--isolate: --cores ${given_cores:-auto} leaves no core for anything else"
    fi
    ! wants nic || check_nic
    [[ -n $chosen ]] || say "Without --only: the parts sysctl and conntrack, which change neither hardware nor services."
}

check_nic() {
    if [[ -z $nic ]]; then
        nic=$("$(tool ip || say false)" -o route show default | sed -n '1s/.* dev \([^ ]*\).*/\1/p' || true)
        [[ -n $nic ]] || die "there is no default route to tell the network card: name it with --nic"
        say "Without --nic: $nic, which has the default route."
    fi
    [[ -d $root/sys/class/net/$nic ]] || die "--nic: there is no interface $nic"
}

# ---- the parts that are not in files of their own ----

# Each value is a least one. A line of the file that would lower what the machine has becomes a comment.
sysctl_part() {
    local line key asked path now
    while IFS= read -r line; do
        if [[ $line =~ ^([a-z0-9_.]+)\ =\ ([0-9]+)$ ]]; then
            key=${BASH_REMATCH[1]} asked=${BASH_REMATCH[2]}
            path=$root$(sysctl_path "$key")
            if [[ -r $path ]] && now=$(<"$path") && [[ $now =~ ^[0-9]+$ ]] && ((now > asked)); then
                line="# left alone, it was $now: $line"
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
    ((EUID == 0)) || { skip "only root can look at nftables" && return 0; }
    list=$(IFS=, && say "${ports[*]}")
    sed "s/^define ports = .*/define ports = { ${list//,/, } }/" "$here/gyre.nft" >"$tmp/rules.nft"
    # As nft lists it, to compare with: by way of a network namespace that is gone a moment later.
    # shellcheck disable=SC2016 # for the inner shell
    if ! unshare --net bash -c '"$1" -f "$2" && "$1" -s list table inet gyre' - "$nft" "$tmp/rules.nft" \
        >"$tmp/table" 2>"$tmp/error"; then
        skip "nft can't load the rules: $(complaint)"
        return 0
    fi
    if [[ -e $root/proc/net && ! -e $root/proc/sys/net/netfilter/nf_conntrack_count ]]; then
        note "connection tracking isn't loaded here: until it is, there is nothing to keep the port out of"
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
        say "# What gyre is started with: \`gyre config print\` writes a file that explains every option."
        say "state-dir = \"/var/lib/gyre\""
        say "cores = \"${given_cores:-auto}\""
        [[ ${ports[*]} == 6969 ]] || printf '%s = [%s]\n' udp "${addresses#, }" http "${addresses#, }"
    } >"$tmp/options"
    # The options are the operator's from then on.
    if [[ -e $root/etc/gyre/gyre.toml ]]; then
        note "/etc/gyre/gyre.toml is there already and stays as it is; a new one would be:"
        sed 's/^/    /' "$tmp/options"
    else
        change_file /etc/gyre/gyre.toml "$tmp/options" 644
    fi
    [[ -x $root/usr/local/bin/gyre || -x $root/usr/bin/gyre ]] || note "there is no /usr/local/bin/gyre yet"
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
# Does gyre's tuning again at each boot: what the kernel and the drivers forget. By gyre's tuning (apply.sh, part boot).

[Unit]
Description=Tuning for gyre
END
        # A firewall that begins with `flush ruleset` would take gyre's table away.
        say "After=network-pre.target nftables.service firewalld.service ufw.service"
        ! wants nic || say "Wants=$(device_unit)"
        ! wants nic || say "After=$(device_unit)"
        cat <<END
Before=gyre.service

[Service]
Type=oneshot
RemainAfterExit=yes
# What a driver can't do is skipped.
SuccessExitStatus=3
ExecStart=$folder/apply.sh --apply --only $(IFS=, && say "${again[*]}")$(boot_options)

[Install]
WantedBy=multi-user.target
END
    } >"$tmp/unit"
    change_file /etc/systemd/system/gyre-tuning.service "$tmp/unit" 644
    note "to have it at each boot: systemctl daemon-reload; systemctl enable gyre-tuning"
}

device_unit() { say "sys-subsystem-net-devices-${nic//-/\\x2d}.device"; }

# The options that the parts which are done again know.
boot_options() {
    local port
    if wants conntrack; then
        for port in "${ports[@]}"; do printf ' --port %s' "$port"; done
    fi
    if wants nic || wants cpu; then printf ' --cores %s' "${given_cores:-auto}"; fi
    ! wants nic || printf ' --nic %s' "$nic"
    ((!isolate)) || printf ' --isolate'
}

# ---- all together ----

summary() {
    local verb=made
    [[ $mode != *revert* ]] || verb="put back"
    ((!dry)) || verb="shown, none made"
    say "apply.sh: $changes changes $verb, $skipped skipped, $failed failed"
    if [[ $mode == apply ]] && ((changes)); then say "apply.sh: --revert puts back what was there before"; fi
    ((failed == 0)) || exit 1
    ((skipped == 0)) || exit 3
}

main() {
    local name
    parse "$@"
    for name in awk cmp diff install mktemp; do
        command -v "$name" >/dev/null || die "$name is needed, and isn't there"
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
