#!/bin/sh
# Installs ffmpeg and ffprobe, which tests/capture/test_mediatimes.py compares the reader with.
# Best effort: where apt cannot be used, the reason is printed, the exit status is 0, and those tests skip.
set -u
. "$(dirname "$0")/apt.sh"

if command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null; then
    exit 0
fi
apt_install ffmpeg || echo "ffmpeg not installed: $apt_problem; the tests of media times will skip" >&2
exit 0
