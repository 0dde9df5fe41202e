#!/usr/bin/env bash
# Builds the Debian package, and prints its path; options go to cargo-deb, which is installed if it isn't there. What the
# package has beside the programs is made from their own definitions: the file of options, man pages, completions;
# Cargo.toml lists it all. DEB_PROFILE=test takes the programs that `cargo test` has built, for a package to try things with.
set -euo pipefail
cd "$(dirname "$0")/.."
# cargo-deb takes what is made here from where cargo builds.
target=${CARGO_TARGET_DIR:-target}

cargo deb --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deb >&2
case ${DEB_PROFILE-release} in
release) built=$target/release && cargo build --locked --release >&2 ;;
test) built=$target/debug && set -- --profile dev "$@" ;;
*) echo "DEB_PROFILE is release or test" >&2 && exit 1 ;;
esac

made=$built/deb
rm -rf "$made"
mkdir -p "$made"/{man,bash,zsh,fish}
for name in gyre gyre-load; do
    program=$built/$name
    "$program" man "$made/man"
    "$program" completions bash >"$made/bash/$name"
    "$program" completions zsh >"$made/zsh/_$name"
    "$program" completions fish >"$made/fish/$name.fish"
done
gzip -9n "$made"/man/*
"$built/gyre" config print --state-dir /var/lib/gyre >"$made/gyre.toml"

cargo deb --quiet --locked --no-build --strip "$@"
