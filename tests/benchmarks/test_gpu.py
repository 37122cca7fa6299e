"""The benchmark of the GPU engine, in small on the CPU, and what its table says of figures that are old or missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from model_samples import small_bundle

from benchmarks import codehash, gpu, gpulib, gpuproduct, gputables, readme, results
from stream_detector.engines.batch_dependence import demo_windows
from stream_detector.engines.network import Network
from stream_detector.models.bundle import Bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that takes a millisecond a window."""
    folder = tmp_path_factory.mktemp("bundle") / "small"
    small_bundle(folder)
    return str(folder)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, small: str) -> dict[str, Any]:
    """What a run in small writes."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    options = ["--models", small, "--precisions", "fp32", "tf32", "--batches", "1", "2", "--seconds", "0", "--cameras"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "FOLD_MODELS", (small,))
        patch.setenv("STREAM_DETECTOR_CACHE", str(out.parent))
        assert gpu.main(["--device", "cpu", *options, "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_a_run_in_small_measures_every_part(record: dict[str, Any], small: str) -> None:
    found = record["results"]
    assert found["left_out"] == [] and found["capacity"] == []
    kinds = [(row["precision"], row["first_layer"], row["batch"]) for row in found["rows"]]
    wanted = [("fp32", "2D", 1), ("fp32", "2D", 2), ("fp32", "3D", 1), ("fp32", "3D", 2), ("tf32", "2D", 1)]
    assert kinds[:5] == wanted and len(kinds) == 6
    for row in found["rows"]:
        assert row["windows_per_s"] > 0 and row["gmac"] > 0 and row["load_s"] > 0 and row["runs"] >= 3
        assert row["tflops"] == pytest.approx(2 * row["gmac"] * row["windows_per_s"] / 1e3, rel=0.1)
        assert row["share_of_product"] == pytest.approx(row["tflops"] / row["product_tflops"], rel=0.01)
    assert {row["model"] for row in found["parity"]} == {small}
    assert all(row["score_change_max"] < 1e-4 and row["batch_dependence"] < 1e-4 for row in found["parity"])
    shares = [kernel["share"] for kernel in found["profile"][0]["kernels"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.001
    assert set(record["settings"]["code"]) == set(gpu.CODE)


def test_its_table_says_that_no_gpu_was_measured(record: dict[str, Any], small: str) -> None:
    text = gputables.gpu(record)
    assert gputables.NO_GPU in text and f"| {small} fp32 |" in text and "as a 2D convolution" in text
    record = json.loads(json.dumps(record))
    record["settings"]["device"]["kind"] = "cuda"
    assert gputables.NO_GPU not in gputables.gpu(record)


def test_what_matters_most_comes_first() -> None:
    told = [str(part) for part in gpu.parts(["embedded", "resnet3d-34-a", "i3d"], ["fp16", "bf16"])]
    assert told == [
        "embedded fp16",
        "embedded fp16, first layer in 3D",
        "resnet3d-34-a fp16",
        "resnet3d-34-a fp16, first layer in 3D",
        "embedded bf16",
        "resnet3d-34-a bf16",
        "i3d fp16",
    ]


def test_what_the_time_does_not_suffice_for_is_named(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "cpu", "--models", small, "--precisions", "fp32", "--cameras", "1:64x48", "--json"]
    assert gpu.main([*options, "--budget-s", "1"]) == 0
    told = capsys.readouterr().out
    found = json.loads(told[told.index("{") :])["results"]
    assert found["left_out"] == [f"{small} fp32: no time left", "1:64x48 cameras: no time left"] and not found["rows"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2 and gpu.main(["--device", "cuda:0"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_the_footage_is_h264_as_cameras_send_it(tmp_path: Path) -> None:
    path = gpuproduct.rendered_footage(tmp_path / "a.mp4", (64, 48), 8.0)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.average_rate) == ("h264", 200, 25)
        assert (stream.width, stream.height) == (64, 48)
        assert sum(packet.is_keyframe for packet in file.demux(stream)) == 4


def test_a_number_of_cameras_is_checked() -> None:
    assert gpuproduct.Capacity.parse("48:1280x720", 3.0) == gpuproduct.Capacity(48, (1280, 720), 3.0)
    with pytest.raises(SystemExit, match="192:320x240"):
        gpuproduct.Capacity.parse("many", 3.0)


def test_random_weights_are_given_the_activations_of_trained_ones(small: str, tmp_path: Path) -> None:
    bundle = gpulib.normalised(Bundle.load(small), tmp_path / "normalised")
    windows = torch.from_numpy(demo_windows(bundle.recipe))
    seen: list[float] = []

    def hook(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        seen.append(float(output.std()))

    network = Network(bundle)
    for module in network.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.register_forward_hook(hook)
    with torch.inference_mode():
        network(windows)
    assert seen and max(seen) < 10  # nothing that fp16 could not hold


# --- figures and the code that they are of ---------------------------------------------------------------------------

CODE = '''"""A module."""

import os


def twice(x: int) -> str:
    """Docstring."""
    # why
    return f"{x + x}" if x else (
        "none"
    )
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""A module."""\n', "", True),
        ('    """Docstring."""\n', '    """Another,\n    longer one."""\n', True),
        ("    # why\n", "", True),
        ('(\n        "none"\n    )', '("none")', True),
        ("    return", "        return", True),
        ("x + x", "x + 1", False),
        ('"none"', '"some"', False),
        ("import os\n", "", False),
    ],
)
def test_a_hash_is_of_what_code_does(old: str, new: str, same: bool) -> None:
    changed = CODE.replace(old, new)
    if "        return" in changed:
        changed = (
            changed.replace("    #", "        #")
            .replace('    """Docs', '        """Docs')
            .replace("    )", "        )")
        )
    assert changed != CODE
    assert (codehash.essence(changed) == codehash.essence(CODE)) == same


def test_a_table_that_is_older_than_the_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codehash, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    page = tmp_path / "README.md"
    page.write_text("<!-- benchmark:gpu -->\n<!-- /benchmark -->\n", encoding="utf-8")
    assert readme.main([]) == 0 and "Not measured yet: `python -m benchmarks gpu`" in page.read_text(encoding="utf-8")
    assert readme.main(["--check"]) == 0 and readme.main(["--check", "--release"]) == 1

    module = tmp_path / "engines" / "engine.py"
    module.parent.mkdir()
    module.write_text("x = 1\n", encoding="utf-8")
    record["settings"]["code"] = codehash.code_of("engines")
    (tmp_path / "gpu.json").write_text(json.dumps(record), encoding="utf-8")
    assert readme.main([]) == 0 and readme.main(["--check", "--release"]) == 0

    module.write_text("x = 2\n", encoding="utf-8")
    assert readme.main([]) == 0
    assert (
        page.read_text(encoding="utf-8").splitlines()[1].startswith("**Not measured on this commit**: engines changed")
    )
    capsys.readouterr()
    assert readme.main(["--check"]) == 0 and readme.main(["--release"]) == 1
    assert "table gpu is older than the code" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_refuses_an_interpreter_without_pytorch(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out")],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(fake)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "has no PyTorch" in done.stderr
