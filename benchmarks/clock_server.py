"""An RTSP server whose pictures show the time: `/usr/bin/python3 clock_server.py PORT FPS WIDTH HEIGHT FRAMES.i420`.

Every picture is a frame of FRAMES.i420 (raw, in a loop) whose topmost BAND rows encode the monotonic clock at which it
was passed to the encoder: milliseconds modulo 2^24, one bit per block, least significant bit on the left. The clock is
the machine's, so a reader in another process may subtract. All clients of rtsp://127.0.0.1:PORT/clock share one
encoder. The server prints "ready" when it listens. GStreamer's introspection belongs to the system's Python, so this is
a script that imports nothing of this project.
"""

import sys
import time

BITS = 24
BAND = 16  # rows: one macroblock, so that no other picture content bleeds into it
DARK, BRIGHT = 32, 224


def band(milliseconds, width):
    """The luma rows that show a time."""
    block = width // BITS
    row = bytearray()
    for bit in range(BITS):
        row += bytes([BRIGHT if milliseconds >> bit & 1 else DARK]) * block
    row += bytes([128]) * (width - len(row))
    return bytes(row) * BAND


def serve():
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    port, fps, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with open(sys.argv[5], "rb") as file:
        raw = file.read()
    size = width * height * 3 // 2
    pictures = [raw[at : at + size] for at in range(0, len(raw) - size + 1, size)]
    Gst.init(None)

    class Factory(GstRtspServer.RTSPMediaFactory):
        def __init__(self):
            super().__init__()
            caps = f"video/x-raw,format=I420,width={width},height={height},framerate={fps}/1"
            self.set_launch(
                f"( appsrc name=pictures is-live=true format=time do-timestamp=true caps={caps} "
                f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={2 * fps} threads=1 bitrate=1000 "
                "! rtph264pay name=pay0 pt=96 config-interval=-1 )"
            )
            self.set_shared(True)

        def do_configure(self, media):
            source = media.get_element().get_child_by_name("pictures")
            state = {"count": 0, "begun": time.monotonic()}

            def due():
                picture = pictures[state["count"] % len(pictures)]
                now_ms = int(time.monotonic() * 1000) % (1 << BITS)
                data = band(now_ms, width) + picture[BAND * width :]
                state["count"] += 1
                if source.emit("push-buffer", Gst.Buffer.new_wrapped(data)) != Gst.FlowReturn.OK:
                    return False
                wait_s = state["begun"] + state["count"] / fps - time.monotonic()
                GLib.timeout_add(max(0, round(wait_s * 1000)), due)
                return False

            due()

    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = Factory()
    server.get_mount_points().add_factory("/clock", factory)
    if not server.attach(None):
        sys.exit(f"cannot listen on port {port}")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve()
