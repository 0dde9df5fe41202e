#!/usr/bin/env bash
# Proves what the Debian package promises: it installs, its programs, pages, completions and unit are good, it serves
# with the configuration file that it brings, an upgrade keeps what an operator has changed, and a purge leaves nothing.
#
#     deb-test.sh [FILE.deb]      by default the one that scripts/deb.sh builds
#
# None of it touches the machine: it happens in an overlay over /, whose changes are in memory, with processes and a
# network of its own. Needs root. Owns a temporary directory. Takes some seconds.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."

die() {
    echo "deb-test: $*" >&2
    [[ ! -e ${tmp-}/out ]] || tail -n 20 "$tmp/out" | sed 's/^/    | /' >&2
    exit 1
}

# ---- outside ----

outside() {
    local deb=${1:-} name
    [[ -n $deb ]] || deb=$(scripts/deb.sh --fast)
    for name in dpkg-deb dpkg unshare chroot man lexgrog systemd-analyze; do
        command -v "$name" >/dev/null || die "$name is needed, and isn't there"
    done
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    mkdir "$tmp/top"
    cp "$deb" "$tmp/gyre.deb"
    # The package of the next version, with other options, for an upgrade.
    dpkg-deb -R "$deb" "$tmp/next"
    sed -i 's/^Version: .*/&+next/' "$tmp/next/DEBIAN/control"
    echo "# New in this version." >>"$tmp/next/etc/gyre/gyre.toml"
    dpkg-deb --root-owner-group -Znone -b "$tmp/next" "$tmp/next.deb" >/dev/null
    rm -r "$tmp/next"
    unshare --mount --net --pid --fork --kill-child "$0" --inside "$tmp"
    echo "deb-test: the package installs, serves, upgrades and goes away"
}

# ---- inside: the overlay is made, and entered for each step ----

inside() {
    tmp=$1
    local top=$tmp/top
    mount -t tmpfs top "$top"
    mkdir "$top"/{changes,work,root}
    mount -t overlay -o "lowerdir=/,upperdir=$top/changes,workdir=$top/work" root "$top/root"
    mount -t proc proc "$top/root/proc"
    mount --rbind /sys "$top/root/sys"
    mount --rbind /dev "$top/root/dev"
    mount -t tmpfs run "$top/root/run" # without the machine's systemd, which is not to start anything
    mount -t tmpfs tmp "$top/root/tmp"
    cp "$tmp"/*.deb "$top/root/tmp"
    ip link set lo up

    has_what_it_needs
    run install /tmp/gyre.deb
    looks_right
    pages_are_good
    completions_work
    serves
    upgrade_keeps_what_was_changed
    goes_away
}

# in_root COMMAND...: its output is in $tmp/out.
in_root() { chroot "$tmp/top/root" "$@" >"$tmp/out" 2>&1 </dev/null; }

# run install|remove|purge WHAT: by dpkg, whatever the machine leaves out of other packages.
run() { in_root dpkg --path-include='*' --force-confdef --force-confold "--$1" "$2" || die "dpkg --$1 failed"; }

there() { [[ -e $tmp/top/root$1 ]] || die "$1 isn't there"; }
gone() { [[ ! -e $tmp/top/root$1 && ! -L $tmp/top/root$1 ]] || die "$1 is still there"; }

has_what_it_needs() {
    ! in_root dpkg --status gyre || die "this machine has gyre installed; the test needs one that hasn't"
    gone /etc/gyre
}

looks_right() {
    local path
    for path in /usr/bin/gyre /usr/bin/gyre-load /etc/gyre/gyre.toml /usr/lib/systemd/system/gyre.service \
        /usr/lib/sysctl.d/30-gyre.conf /usr/share/doc/gyre/copyright; do
        there "$path"
    done
    in_root gyre --version || die "gyre --version failed"
    in_root gyre-load --version || die "gyre-load --version failed"
    in_root gyre config check /etc/gyre/gyre.toml || die "its configuration file is invalid"
    # All of them but one are the defaults.
    [[ $(grep -v '^#\|^$' "$tmp/top/root/etc/gyre/gyre.toml") == 'state-dir = "/var/lib/gyre"' ]] ||
        die "gyre.toml sets something else"
    in_root systemd-analyze verify gyre.service || die "systemd has objections to the unit"
    [[ ! -s $tmp/out ]] || die "systemd has remarks on the unit"
    [[ -L $tmp/top/root/etc/systemd/system/multi-user.target.wants/gyre.service ]] || die "the unit isn't enabled"
}

# Each command has a page, which man can show without a remark and apropos can find.
pages_are_good() {
    local command page
    for command in gyre gyre-serve gyre-doctor gyre-config-print gyre-config-check gyre-completions gyre-load-udp; do
        there "/usr/share/man/man1/$command.1.gz"
    done
    for page in "$tmp"/top/root/usr/share/man/man1/gyre*; do
        page=${page#"$tmp/top/root"}
        in_root lexgrog "$page" || die "$page has no name for apropos"
        # shellcheck disable=SC2016 # for the inner shell
        in_root sh -c 'man --warnings -Tutf8 --local-file "$1" >/dev/null' - "$page" || die "$page can't be shown"
        [[ ! -s $tmp/out ]] || die "man has remarks on $page"
    done
}

# complete PROGRAM WORD...: what bash would offer for the last word.
complete() {
    # shellcheck disable=SC2016 # for the inner shell
    in_root bash -c '. "/usr/share/bash-completion/completions/$1"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p "$1" | grep -o -- "-F [^ ]*"); "${function#-F }" "$1" "${!#}" "${@:$#-1:1}"
        printf "%s\n" "${COMPREPLY[@]}"' - "$@" || die "completions of $1 failed"
}

completions_work() {
    complete gyre serve --max-
    grep -qx -- --max-peers "$tmp/out" || die "gyre serve --max- is not completed"
    complete gyre-load u
    grep -qx udp "$tmp/out" || die "gyre-load u is not completed"
    there /usr/share/zsh/vendor-completions/_gyre
    there /usr/share/fish/vendor_completions.d/gyre-load.fish
}

# With the options of the unit, and without the rights of root. In the network namespace the port is free.
serves() {
    local pid tries=100
    : >"$tmp/serve"
    chroot "$tmp/top/root" gyre serve --config /etc/gyre/gyre.toml --user nobody >"$tmp/serve" 2>&1 </dev/null &
    pid=$!
    until grep -q "gyre: ready" "$tmp/serve"; do
        cp "$tmp/serve" "$tmp/out"
        ((tries-- > 0)) || die "gyre isn't ready"
        kill -0 $pid 2>/dev/null || die "gyre has ended"
        sleep 0.1
    done
    in_root gyre-load udp --target 127.0.0.1:6969 --duration 1 --warmup 0 --rate 1000 --torrents 100 --peers 1000 ||
        die "gyre-load finds fault with it"
    kill $pid
    wait $pid || { cp "$tmp/serve" "$tmp/out" && die "gyre didn't end well"; }
    there /var/lib/gyre/snapshot
}

upgrade_keeps_what_was_changed() {
    echo 'max-peers = 30 # mine' >>"$tmp/top/root/etc/gyre/gyre.toml"
    run install /tmp/gyre.deb
    grep -q mine "$tmp/top/root/etc/gyre/gyre.toml" || die "installed again, it has lost the operator's options"
    run install /tmp/next.deb
    grep -q mine "$tmp/top/root/etc/gyre/gyre.toml" || die "the upgrade has lost the operator's options"
    grep -q "New in" "$tmp/top/root/etc/gyre/gyre.toml.dpkg-dist" || die "the new options are nowhere"
    there /var/lib/gyre/snapshot
}

goes_away() {
    run remove gyre
    gone /usr/bin/gyre
    gone /usr/lib/systemd/system/gyre.service
    there /etc/gyre/gyre.toml
    there /var/lib/gyre/snapshot
    run purge gyre
    # What is changed now is dpkg's and the caches' alone.
    (cd "$tmp/top/changes" && find . \( ! -type d -o -name '*gyre*' \) -print) |
        grep -v '^./var/lib/dpkg/\|^./var/log/\|^./var/cache/\|^./etc/ld.so.cache$' >"$tmp/out" || true
    [[ ! -s $tmp/out ]] || die "a purge leaves something"
    grep -q . "$tmp/top/root/var/log/dpkg.log" || die "nothing was ever installed"
}

if [[ ${1-} == --inside ]]; then inside "$2"; else outside "$@"; fi
