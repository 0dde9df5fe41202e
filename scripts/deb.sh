#!/usr/bin/env bash
# Builds the Debian package with the profile `dist`, and prints its path; options go to cargo-deb, which is installed if it
# isn't there. The package's configuration file, man pages and completions are made by the programs themselves; Cargo.toml
# lists all of its files. DEB_PROFILE=test packs the programs that `cargo test` has built, to try the package.
set -euo pipefail
cd "$(dirname "$0")/.."
# cargo-deb takes what is made here from where cargo builds.
target=${CARGO_TARGET_DIR:-target}

cargo deb --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deb >&2
case ${DEB_PROFILE-dist} in
dist) built=$target/dist && cargo build --locked --profile dist --bins >&2 && set -- --profile dist "$@" ;;
test) built=$target/debug && set -- --profile dev "$@" ;;
*) echo "DEB_PROFILE is dist or test" >&2 && exit 1 ;;
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
