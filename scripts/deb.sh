#!/usr/bin/env bash
# Builds the Debian package, and prints its path; options go to cargo-deb, which is installed if it isn't there. What the package has beside the
# programs is made from their own definitions: the file of options, man pages, completions; Cargo.toml lists it all.
set -euo pipefail
cd "$(dirname "$0")/.."
# cargo-deb takes what is made here from where cargo builds.
target=${CARGO_TARGET_DIR:-target}

cargo deb --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deb >&2
cargo build --locked --release >&2

made=$target/release/deb
rm -rf "$made"
mkdir -p "$made"/{man,bash,zsh,fish}
for name in gyre gyre-load; do
    program=$target/release/$name
    "$program" man "$made/man"
    "$program" completions bash >"$made/bash/$name"
    "$program" completions zsh >"$made/zsh/_$name"
    "$program" completions fish >"$made/fish/$name.fish"
done
gzip -9n "$made"/man/*
"$target/release/gyre" config print --state-dir /var/lib/gyre >"$made/gyre.toml"

cargo deb --quiet --locked --no-build --strip "$@"
