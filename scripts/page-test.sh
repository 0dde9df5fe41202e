#!/usr/bin/env bash
# The live page in a real browser: a gyre under some load, and Debian's chromium, which looks at it without a window.
# Figures grow, charts are drawn, the page outlives a restart of the tracker, asks nobody else, and is readable in light
# and dark, on a desk and on a phone. Takes half a minute.
#
#     scripts/page-test.sh             installs chromium if it is absent
#     scripts/page-test.sh DIRECTORY   leaves pictures of it there, for a person to look at
#
# gyre and gyre-load are built (dist) unless GYRE_BIN names the folder that they are in.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v chromium >/dev/null || missing+=(chromium)
/usr/bin/python3 -c 'import websocket' 2>/dev/null || missing+=(python3-websocket)
if ((${#missing[@]})); then
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

pictures=()
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    pictures=("$1")
fi
if [ -z "${GYRE_BIN-}" ]; then
    cargo build --locked --profile dist --bins
    GYRE_BIN=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/dist
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
PYTHONDONTWRITEBYTECODE=1 timeout 300 /usr/bin/python3 scripts/page/test.py "$GYRE_BIN" "$scratch" "${pictures[@]}"
echo "ok: the live page"
