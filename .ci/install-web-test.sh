#!/bin/sh
# Installs what tests/web/test_browser.py needs: Debian's Chromium, Playwright for Python in the tests' environment, and
# axe-core from npm in a folder outside the repository (its path goes to STREAM_DETECTOR_AXE).
# Best effort: what cannot be installed is reported, the exit status is 0, and the browser tests skip.
# usage: .ci/install-web-test.sh [PYTHON]
set -u
. "$(dirname "$0")/apt.sh"
python="${1:-python3}"
folder="${STREAM_DETECTOR_AXE_DIR:-${TMPDIR:-/tmp}/stream-detector-axe}"

skip() {
    echo "browser tests: $1; they will skip what needs it" >&2
}

if [ ! -x /usr/bin/chromium ]; then
    apt_install chromium || skip "no Chromium ($apt_problem)"
fi
"$python" -c 'import playwright' 2>/dev/null || "$python" -m pip install -q playwright || skip "no Playwright"
if [ ! -f "$folder/node_modules/axe-core/axe.min.js" ]; then
    if command -v npm >/dev/null 2>&1; then
        mkdir -p "$folder" && npm install --silent --no-audit --no-fund --prefix "$folder" axe-core || skip "no axe-core"
    else
        skip "no npm for axe-core"
    fi
fi
echo "browser tests: STREAM_DETECTOR_AXE=$folder/node_modules/axe-core/axe.min.js"
