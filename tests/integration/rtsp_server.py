"""An RTSP server on loopback: `/usr/bin/python3 rtsp_server.py PORT [FPS [udp]]`; it prints "ready" once it listens.

It needs GStreamer's introspection (`gi`), which belongs to the system's Python; `.ci/install-rtsp.sh` installs it.
Serves rtsp://127.0.0.1:PORT/live, 320×240 H.264: a moving ball on a pattern, one key frame a second, shared by all
clients. Signals are its faults: STOP stalls it, CONT lets it go on, KILL takes it away.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PIPELINE = (
    "( videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate={fps}/1 "
    "! timeoverlay ! videoconvert ! video/x-raw,format=I420 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} threads=1 "
    "! rtph264pay name=pay0 pt=96 config-interval=-1 )"
)


def main() -> None:
    port = sys.argv[1]
    fps = int(sys.argv[2]) if len(sys.argv) > 2 else 25
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory.new()
    pipeline = PIPELINE.format(fps=fps)
    if Gst.ElementFactory.find("timeoverlay") is None:  # part of the pango plugin, which minimal installs leave out
        pipeline = pipeline.replace("! timeoverlay ", "").replace("pattern=smpte", "pattern=ball")
    factory.set_launch(pipeline)
    factory.set_shared(True)
    if "udp" in sys.argv[3:]:
        factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)  # TCP is answered with 461, unsupported transport
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"cannot listen on port {port}")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
