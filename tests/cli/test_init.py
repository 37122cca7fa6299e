"""The first set-up: what is asked, what is written, and that the alarm it raises really comes."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from benchmarks.gpuproduct import rendered_footage
from stream_detector.cli import alarm_test, init
from stream_detector.cli.main import main
from stream_detector.config import load_config


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cameras that an alarm was asked of; none is raised."""
    names: list[str] = []

    def try_alarm(path: Path, camera: str) -> str:
        assert load_config(path)
        names.append(camera)
        return f"the alarm of {camera} came"

    monkeypatch.setattr(alarm_test, "try_alarm", try_alarm)
    return names


def answers(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_cameras_are_asked_for_probed_named_written_and_tried(
    monkeypatch: pytest.MonkeyPatch, tried: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    video = rendered_footage(tmp_path / "Front Gate.mp4", (64, 48), 8.0)
    answers(monkeypatch, str(video), "Gate 1", "demo", "gate-1", "yard", "")
    assert main(["init"]) == 0
    told = capsys.readouterr().out
    assert "h264, 64×48, 25 fps" in told and "gate-1 is taken already" in told
    config = load_config(tmp_path / "cameras.toml")
    assert [(camera.name, camera.source.kind) for camera in config.cameras] == [("gate-1", "file"), ("yard", "demo")]
    assert config.cameras[0].source.reveal() == str(video) and config.publish.bind == "tcp://127.0.0.1:5555"
    assert tried == ["gate-1"] and "the alarm of gate-1 came" in told
    for line in ("stream-detector run --config", "systemctl enable --now", "docker compose"):
        assert line in told


def test_a_camera_that_does_not_answer_is_kept_only_if_wanted(
    monkeypatch: pytest.MonkeyPatch, tried: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, "gone.mp4", "n", "rtsp://127.0.0.1:1/live", "y", "gate", "ftp://x/y", "y", "")
    assert main(["init"]) == 0
    told = capsys.readouterr().out
    assert "gone.mp4" in told and "This is not a valid source" in told
    assert [camera.source.shown for camera in load_config(Path("cameras.toml")).cameras] == ["rtsp://127.0.0.1:1"]


def test_a_password_goes_to_a_file_of_its_own(tried: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sources = ["gate=rtsp://admin:s%40cret%2Fword@10.0.0.7/live", "yard=rtsp://u:${YARD}@10.0.0.8/live"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YARD", "hidden-too")
        assert main(["init", *sources, "--no-probe", "--no-test"]) == 0
        text = Path("cameras.toml").read_text(encoding="utf-8")
        config = load_config(Path("cameras.toml"))
    secret = Path("stream-detector/gate.password")
    assert secret.read_text(encoding="utf-8") == "s@cret/word\n" and stat.S_IMODE(secret.stat().st_mode) == 0o600
    told = capsys.readouterr()
    for shown in (text, told.out, told.err):
        assert "cret" not in shown.replace("secret", "") and "hidden-too" not in shown
    assert config.cameras[0].source.reveal() == "rtsp://admin:s%40cret%2Fword@10.0.0.7/live"
    assert config.cameras[1].source.reveal() == "rtsp://u:hidden-too@10.0.0.8/live" and "${YARD}" in text
    assert tried == []


def test_a_password_is_asked_for_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, tried: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal: getpass reads the password, so it is not shown while it is typed."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    prompts: list[str] = []

    def secret(prompt: str) -> str:
        prompts.append(prompt)
        return "s@cret word"

    monkeypatch.setattr("sys.stdin", Terminal("gate=rtsp://admin@10.0.0.7/live\n\n\n"))
    monkeypatch.setattr("getpass.getpass", secret)
    assert main(["init", "--no-probe", "--no-test"]) == 0
    assert len(prompts) == 1 and "admin" in prompts[0]
    text, told = Path("cameras.toml").read_text(encoding="utf-8"), capsys.readouterr()
    assert not any("s@cret" in shown or "s%40cret" in shown for shown in (text, told.out, told.err))
    assert load_config(Path("cameras.toml")).cameras[0].source.reveal() == "rtsp://admin:s%40cret%20word@10.0.0.7/live"
    assert "sudo install -m 0640 -g stream-detector" in told.out and "gate.password" in told.out


def test_an_older_password_file_is_neither_overwritten_nor_followed() -> None:
    folder = Path("stream-detector")
    folder.mkdir()
    older, elsewhere = folder / "gate.password", Path("elsewhere")
    older.write_text("older\n", encoding="utf-8")
    (folder / "gate-2.password").symlink_to(elsewhere)
    assert main(["init", "gate=rtsp://admin:newer@10.0.0.7/live", "--no-probe", "--no-test"]) == 0
    assert older.read_text(encoding="utf-8") == "older\n" and not elsewhere.exists()
    newer = folder / "gate-3.password"
    assert newer.read_text(encoding="utf-8") == "newer\n" and stat.S_IMODE(newer.stat().st_mode) == 0o600
    assert load_config(Path("cameras.toml")).cameras[0].source.reveal() == "rtsp://admin:newer@10.0.0.7/live"


@pytest.mark.parametrize(
    ("address", "private"), [("http://10.0.0.7/snap?token=abc", True), ("rtsp://10.0.0.7/x", False)]
)
def test_an_address_with_a_key_in_it_makes_the_configuration_private(address: str, private: bool) -> None:
    assert main(["init", f"gate={address}", "--no-probe", "--no-test"]) == 0
    assert (stat.S_IMODE(Path("cameras.toml").stat().st_mode) == 0o600) is private


@pytest.mark.parametrize("lines", [(), ("",)])
def test_without_a_camera_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, *lines)
    assert main(["init"]) == 2 and not Path("cameras.toml").exists()
    assert "no camera was given" in capsys.readouterr().err


def test_a_file_that_exists_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cameras.toml").write_text("bundle = 'mine'\n", encoding="utf-8")
    assert main(["init", "demo"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("cameras.toml").read_text(encoding="utf-8") == "bundle = 'mine'\n"


def test_a_place_that_cannot_be_written_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("", encoding="utf-8")
    assert main(["init", "demo", "--no-probe", "--config", "file/cameras.toml"]) == 2
    assert "'file/cameras.toml' cannot be written" in capsys.readouterr().err

    def refuse(path: Path) -> None:
        raise init.UsageError("no")

    monkeypatch.setattr(init, "load_config", refuse)
    assert main(["init", "gate=rtsp://u:password@10.0.0.7/x", "--no-probe"]) == 2
    assert not Path("cameras.toml").exists() and not list(Path("stream-detector").glob("*.password"))


@pytest.mark.integration
def test_the_alarm_comes_to_a_subscriber(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    video = rendered_footage(tmp_path / "street.mp4", (64, 48), 8.0)
    assert main(["init", f"gate={video}", "--no-probe"]) == 0
    assert "the alarm of gate came to a subscriber" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cameras.toml", "stream-detector", "street.mp4"]


def test_an_alarm_that_does_not_come_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def try_alarm(path: Path, camera: str) -> str:
        raise alarm_test.StageError("no alarm came within 60 s")

    monkeypatch.setattr(alarm_test, "try_alarm", try_alarm)
    assert main(["init", "demo", "--no-probe"]) == 1
    assert "no alarm came within 60 s" in capsys.readouterr().err and Path("cameras.toml").is_file()
