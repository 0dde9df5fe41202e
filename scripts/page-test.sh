#!/usr/bin/env bash
# Tests the live page of a gyre under load in a real browser, Debian's chromium without a window: figures grow, charts
# are drawn, the page survives a restart of the tracker, sends no requests elsewhere, and is readable in light and dark
# mode, on a desktop and on a phone. Takes half a minute.
#
#     scripts/page-test.sh             installs chromium if it is missing
#     scripts/page-test.sh DIRECTORY   also writes screenshots to this directory
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
