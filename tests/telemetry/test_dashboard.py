"""The live view: fits every terminal, never breaks a run, says what it must say."""

from __future__ import annotations

import io
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from stream_detector.telemetry.snapshot import STAGES, AlarmView, CameraView, Histogram, LogEntry, TelemetrySnapshot
from stream_detector.telemetry.terminal_view import (
    TerminalView,
    ViewHeader,
    clean,
    eta_s,
    middle_cut,
    ms_text,
    page_of,
    render,
    score_bar,
    sparkline,
)

HEADER = ViewHeader("openvino on cpu, int8", "embedded 3fa9c1d2", "tcp://127.0.0.1:5555")
DEADLINE_S = 10.0


def camera(name: str = "gate", **extra: object) -> CameraView:
    base = CameraView(
        name=name,
        source=f"{name}.mp4",
        state="online",
        fps=25.0,
        frames=400,
        windows=25,
        scored=25,
        raw=0.4,
        smoothed=0.3,
        threshold=0.6,
        history=(0.1, 0.2, 0.3),
        window_age_s=0.4,
        lag_ms=38.0,
        media_s=16.0,
    )
    return replace(base, **extra)  # type: ignore[arg-type]


def snapshot(*cameras: CameraView, **extra: object) -> TelemetrySnapshot:
    stages = dict.fromkeys(STAGES, Histogram((0, 1), 1, 2.0, 2.0, 2.0))
    base = TelemetrySnapshot(83.0, cameras, stages, stages["queue"], 20, 25, 0.4)
    return replace(base, **extra)  # type: ignore[arg-type]


def alarm(number: int, type_: str = "end") -> AlarmView:
    end_s = 9.0 if type_ == "end" else None
    return AlarmView(f"a{number}", "gate", type_, "normal", 3.0, end_s, "2026-01-01T10:00:03.000Z", 0.9, 0.6)


def text_of(state: TelemetrySnapshot, width: int, height: int, header: ViewHeader = HEADER) -> str:
    console = Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render(state, header, width, height))
    return console.export_text()


class Source:
    """Serves one snapshot after another, then the last one for ever; tells when the last was first taken."""

    def __init__(self, *snapshots: TelemetrySnapshot) -> None:
        self._rest = list(snapshots)
        self.exhausted = threading.Event()

    def snapshot(self) -> TelemetrySnapshot:
        if len(self._rest) > 1:
            return self._rest.pop(0)
        self.exhausted.set()
        return self._rest[0]


def run_until_exhausted(dashboard: TerminalView, source: Source) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=dashboard.run, args=(stop,))
    thread.start()
    try:
        assert source.exhausted.wait(DEADLINE_S)
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("height", [24, 50])
@pytest.mark.parametrize("number", [1, 5, 64])
def test_the_view_fits_the_terminal(width: int, height: int, number: int) -> None:
    cameras = [camera(f"a-rather-long-camera-name-{index}", duration_s=60.0) for index in range(number)]
    cameras[0] = replace(cameras[0], state="stalled", detail="no frame for 4.2 s", dropped={"buffer": 123456})
    alarms = tuple(alarm(index) for index in range(50))
    header = replace(HEADER, rendered=True, engine="a very long line about an engine " * 9)
    lines = text_of(snapshot(*cameras, alarms=alarms), width, height, header).rstrip("\n").splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_the_view_names_what_matters() -> None:
    state = snapshot(
        camera("gate", alarmed=True, smoothed=0.91, alarms=1),
        camera("yard", state="stalled", dropped={"buffer": 17}),
        alarms=(alarm(1, "update"),),
    )
    text = text_of(state, 80, 30)
    for piece in (
        "gate",
        "online",
        "ALARM",
        "0.91",
        "yard",
        "stalled",
        "17",
        "25.0",
        "3.0 – now",
        "1 alarm",
        "0:01:23",
    ):
        assert piece in text
    for piece in ("openvino on cpu, int8", "embedded 3fa9c1d2", "tcp://127.0.0.1:5555", "p50", "p95", "forward"):
        assert piece in text
    assert "RENDERED" not in text


def test_rendered_footage_is_called_so() -> None:
    assert "RENDERED FOOTAGE" in text_of(snapshot(camera()), 80, 30, replace(HEADER, rendered=True))


def test_no_alarm_is_only_said_when_windows_were_scored() -> None:
    assert "no alarm so far" in text_of(snapshot(camera()), 80, 30)
    fresh = text_of(snapshot(camera(scored=0, smoothed=None, threshold=None, history=())), 80, 30)
    assert "nothing scored yet" in fresh
    assert "no alarm so far" not in fresh


def test_degraded_causes_show() -> None:
    assert "reconnect+gap" in text_of(snapshot(camera(degraded=("reconnect", "gap"))), 200, 30)


def test_hostile_text_is_shown_literally() -> None:
    state = snapshot(camera("gate", state="failed", detail="\x1b[2Jgone[bold]x[/bold]\n"))
    text = text_of(state, 200, 30)
    assert "\x1b" not in text
    assert "[2Jgone[bo" in text
    assert clean("a\x1b[31m\u202eb\n") == "a�[31m�b�"


def test_pages_show_every_camera_in_turn_and_keep_trouble_in_sight() -> None:
    cameras = [camera(f"cam{index}") for index in range(64)]
    cameras[40] = replace(cameras[40], alarmed=True)
    cameras[50] = replace(cameras[50], state="offline")
    seen: set[str] = set()
    _, _, pages = page_of(cameras, 12, 0.0)
    for page in range(pages):
        shown, number, _ = page_of(cameras, 12, page * 4.0 + 0.1)
        assert number == page + 1
        assert [view.name for view in shown[:2]] == ["cam40", "cam50"]
        assert len(shown) <= 12
        seen |= {view.name for view in shown}
    assert seen == {view.name for view in cameras}


def test_pages_turn_over_even_when_all_are_in_trouble() -> None:
    cameras = [camera(f"cam{index}", state="offline") for index in range(30)]
    _, _, pages = page_of(cameras, 10, 0.0)
    seen = {view.name for page in range(pages) for view in page_of(cameras, 10, page * 4.0 + 0.1)[0]}
    assert seen == {view.name for view in cameras}


@pytest.mark.parametrize(("smoothed", "full"), [(0.0, 0), (0.5, 10), (1.0, 20), (7.0, 20), (-1.0, 0)])
def test_the_bar_is_as_long_as_the_score(smoothed: float, full: int) -> None:
    bar = score_bar(camera(smoothed=smoothed, threshold=0.0), 20)
    cells = bar.plain[:20]
    assert cells[0] == "┃"
    assert cells[1:].count("█") == max(0, full - 1)


def test_the_sparkline_marks_what_reaches_the_threshold() -> None:
    line = sparkline((0.1, 0.5, 0.6, float("nan")), 0.5, 8)
    assert len(line.plain) == 8
    styles = [(line.plain[span.start : span.end], str(span.style)) for span in line.spans]
    assert [(len(part), style) for part, style in styles] == [(1, "blue"), (2, "red"), (1, "blue")]


def test_eta_of_files_side_by_side_is_that_of_the_longest() -> None:
    state = snapshot(
        camera("a", duration_s=60.0, media_s=60.0, state="ended"),
        camera("b", duration_s=600.0, media_s=100.0),
        elapsed_s=100.0,
    )
    assert eta_s(state) == pytest.approx(500.0)


def test_eta_of_files_in_a_queue_is_that_of_all_of_them() -> None:
    files = [camera("a", duration_s=100.0, media_s=50.0)] + [
        camera(f"b{index}", duration_s=100.0, media_s=None) for index in range(3)
    ]
    assert eta_s(snapshot(*files, elapsed_s=10.0)) == pytest.approx(70.0)


def test_no_eta_without_files() -> None:
    assert eta_s(snapshot(camera())) is None
    assert "left" not in text_of(snapshot(camera()), 80, 30)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.421, "0.42 ms"), (38.14, "38.1 ms"), (412.0, "412 ms"), (12300.0, "12.3 s"), (250000, "250 s")],
)
def test_latencies_are_short(value: float | None, text: str) -> None:
    assert ms_text(value) == text


def test_a_long_name_keeps_its_end() -> None:
    assert middle_cut("loading-dock-17", 12) == "loading…k-17"


def test_plain_lines_tell_changes_once_and_no_escape_codes() -> None:
    first = LogEntry(1, 0.5, "gate", "state", "online")
    second = LogEntry(2, 7.0, "gate", "start", "ALARM at 3.0 s")
    source = Source(
        snapshot(camera(), log_entries=(first,)), snapshot(camera(), log_entries=(first, second)), snapshot(camera())
    )
    out = io.StringIO()
    run_until_exhausted(TerminalView(source, HEADER, console=Console(file=out, width=80)), source)
    text = out.getvalue()
    assert text.count("online") == 1
    assert text.count("ALARM at 3.0 s") == 1
    assert "\x1b" not in text
    assert "25 windows scored of 25" in text.splitlines()[-1]


def test_plain_lines_say_when_some_were_missed() -> None:
    source = Source(snapshot(camera(), log_entries=(LogEntry(8, 0.5, "gate", "state", "online"),)), snapshot(camera()))
    out = io.StringIO()
    run_until_exhausted(TerminalView(source, HEADER, console=Console(file=out, width=80)), source)
    assert "(7 lines omitted)" in out.getvalue()


def test_the_live_view_restores_the_terminal() -> None:
    source = Source(snapshot(camera()), snapshot(camera()))
    out = io.StringIO()
    console = Console(file=out, width=80, height=30, force_terminal=True)
    run_until_exhausted(TerminalView(source, HEADER, console=console), source)
    text = out.getvalue()
    assert "gate" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


class BrokenSource:
    """Fails on the first snapshots, as a bug in the view would."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.called = threading.Event()

    def snapshot(self) -> TelemetrySnapshot:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bug")
        self.called.set()
        return snapshot(camera())


def test_a_failure_of_the_view_goes_on_in_plain_lines_and_restores_the_terminal() -> None:
    source = BrokenSource(1)
    out = io.StringIO()
    console = Console(file=out, width=80, height=30, force_terminal=True)
    stop = threading.Event()
    thread = threading.Thread(target=TerminalView(source, HEADER, console=console).run, args=(stop,))
    thread.start()
    assert source.called.wait(DEADLINE_S)
    stop.set()
    thread.join(DEADLINE_S)
    text = out.getvalue()
    assert "the live view failed (RuntimeError: a bug)" in text
    assert "windows scored of" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


class ClosedPipe(io.StringIO):
    """A standard output that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class PipeConsole(Console):
    """rich's own answer to a closed pipe, but for its redirection of the process's standard output."""

    def on_broken_pipe(self) -> None:
        raise SystemExit(1)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_closed_pipe_does_not_break_the_run(terminal: bool) -> None:
    source = Source(snapshot(camera()))
    stop = threading.Event()
    console = PipeConsole(file=ClosedPipe(), width=80, force_terminal=terminal)
    thread = threading.Thread(target=TerminalView(source, HEADER, console=console).run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
