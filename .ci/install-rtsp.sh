#!/bin/sh
# Installs what tests/integration/test_rtsp.py needs for a real RTSP server: GStreamer's, driven by /usr/bin/python3.
# Best effort: where apt cannot be used, the reason is printed, the exit status is 0, and the RTSP tests skip.
set -u
. "$(dirname "$0")/apt.sh"

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

# shellcheck disable=SC2086
apt_install $packages || skip "$apt_problem"
echo "RTSP server installed"
