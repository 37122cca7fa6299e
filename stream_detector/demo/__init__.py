"""The rendered demo: a street with people, as a surveillance camera shows it, and one violent incident at a known time.

In: a seed and options of the scene.
Out: frames, as the source kind `demo`.
Imports: capture, config, types, errors.

    camera.py  pinhole camera      street.py  the empty street     body.py   poses → joints
    moves.py   what people do      cast.py    ordinary people      fight.py  the incident
    avoid.py   steps aside         paint.py   figures and cars     scene.py   DemoScene
    __main__   `python -m stream_detector.demo`

The pictures say that this program rendered them. The demo replaces a camera where there is none.
"""

from stream_detector.demo.scene import DemoScene, incident_span

__all__ = ["DemoScene", "incident_span"]
