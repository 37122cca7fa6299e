"""The rendered demo: a surveillance-like street with people about and one scripted violent incident at a known time.

    camera.py  pinhole camera      street.py  the empty street     body.py   poses → joints
    moves.py   what people do      cast.py    ordinary people      fight.py  the incident
    avoid.py   steps aside         paint.py   figures and cars     scene.py   DemoScene
    __main__   `python -m stream_detector.demo`

It is footage made by this program, and says so in the picture; it stands in for a camera where none is at hand.
"""

from stream_detector.demo.scene import DemoScene, incident_span

__all__ = ["DemoScene", "incident_span"]
