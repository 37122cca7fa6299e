#!/bin/sh
# Installs what tests/integration/test_rtsp.py needs for a real RTSP server: GStreamer's, driven by /usr/bin/python3.
# Best effort: where apt cannot be used, the reason is printed, the exit status is 0, and the RTSP tests skip.
set -u

packages="python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0
gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
gstreamer1.0-rtsp"

skip() {
    echo "RTSP server not installed: $1; the RTSP tests will skip" >&2
    exit 0
}

if [ -x /usr/bin/python3 ] && /usr/bin/python3 -c '
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
raise SystemExit(not all(Gst.ElementFactory.find(n) for n in ("x264enc", "h264parse", "rtph264pay", "videotestsrc")))
' >/dev/null 2>&1; then
    echo "RTSP server already installed"
    exit 0
fi

command -v apt-get >/dev/null 2>&1 || skip "apt-get is not on this system"
if [ "$(id -u)" -eq 0 ]; then
    sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    skip "neither root nor password-less sudo"
fi

export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -o DPkg::Lock::Timeout=180 update -q || skip "apt-get update failed"
# shellcheck disable=SC2086
$sudo apt-get -o DPkg::Lock::Timeout=180 install -q -y --no-install-recommends $packages || skip "apt-get install failed"
echo "RTSP server installed"
