"""The benchmark of the GPU engine, in small on the CPU, and what its table says of figures that are old or missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch
from model_samples import ARCH, small_bundle

from benchmarks import caches, camerarig, codehash, gpu, gpulib, gpuproduct, gputables, readme, results, roofline
from benchmarks.options import parse
from benchmarks.tables import cell
from stream_detector.engines.batch_dependence import demo_windows
from stream_detector.engines.network import Network
from stream_detector.errors import BundleError
from stream_detector.models.backbones import build_backbone, i3d
from stream_detector.models.bundle import SHIPPED, Bundle, read_manifest
from stream_detector.models.known_weights import cache_directory

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
    cameras = [gpuproduct.Capacity.parse("192:320x240", 12.0)]
    told = [str(part) for part in gpu.planned(["embedded", "resnet3d-34-a", "i3d"], ["fp16", "bf16"], cameras)]
    assert told == [
        "embedded fp16",
        "embedded fp16, first layer in 3D",
        "resnet3d-34-a fp16",
        "resnet3d-34-a fp16, first layer in 3D",
        "192:320x240 cameras",
        "embedded bf16",
        "resnet3d-34-a bf16",
        "i3d fp16",
    ]


def test_what_the_time_does_not_suffice_for_is_named(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "cpu", "--models", small, "--precisions", "fp32", "--cameras", "1:64x48", "--json"]
    assert gpu.main([*options, "--budget-s", "1"]) == 0
    told = capsys.readouterr().out
    found = json.loads(told[told.index("{") :])["results"]
    parts = [f"{small} fp32: no time left", "1:64x48 cameras: no time left"]
    assert [text.partition(" (")[0] for text in found["left_out"]] == parts and not found["rows"]


def bench_of(tmp_path: Path, models: list[str], budget_s: float = 1e9) -> tuple[gpu.Bench, list[gpu.Part]]:
    """A benchmark that would measure these models in fp32, on the CPU."""
    args = parse("gpu", ["--device", "cpu", "--out", str(tmp_path / "gpu.json"), "--budget-s", str(budget_s)])
    args.precisions, args.batches, args.seconds = ["fp32"], [1, 2], 0.0
    steps = [gpu.Part(model, "fp32") for model in models]
    until_s = time.monotonic() + budget_s
    return gpu.Bench(args, {}, until_s, {str(step): gpu.NOT_REACHED for step in steps}), steps


def saved(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["results"]
    return found


def test_a_run_that_is_ended_keeps_every_row_and_names_the_rest(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpulib, "product_tflops", lambda *_, **__: 1.0)
    real = gpulib.rates

    def rates(*arguments: Any) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(real(*arguments)):
            if number:
                os.kill(os.getpid(), signal.SIGTERM)  # what `timeout` sends
            yield row

    monkeypatch.setattr(gpulib, "rates", rates)
    options = ["--models", small, "--precisions", "fp32", "tf32", "--batches", "1", "2", "--seconds", "0", "--cameras"]
    before = signal.getsignal(signal.SIGTERM)
    assert gpu.main(["--device", "cpu", *options, "--out", str(tmp_path / "gpu.json")]) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    found = saved(tmp_path)
    assert [row["batch"] for row in found["rows"]] == [1]
    assert found["left_out"] == [f"{small} fp32: not reached", f"{small} tf32: not reached"]


def test_a_record_is_complete_after_every_row(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpulib, "product_tflops", lambda *_, **__: 1.0)
    seen: list[int] = []
    monkeypatch.setattr(gpu, "show", lambda _row: seen.append(len(saved(tmp_path)["rows"])))
    bench, steps = bench_of(tmp_path, [small])
    gpu.measure(bench, steps, "cpu", tmp_path)
    assert seen == [1, 2] and len(saved(tmp_path)["rows"]) == 2 and saved(tmp_path)["left_out"] == []


def test_no_part_is_begun_that_would_take_longer_than_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpulib, "product_tflops", lambda *_, **__: 1.0)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: clock.now))
    begun: list[str] = []

    def take(_self: Any, part: gpu.Part) -> None:
        begun.append(part.model)
        clock.now += 40.0

    def cameras(_bench: Any, wanted: Any, *_rest: Any) -> None:
        begun.append(str(wanted))
        clock.now += gpuproduct.seconds_needed(wanted)

    monkeypatch.setattr(gpu.Engines, "measure", take)
    monkeypatch.setattr(gpu, "whole_product", cameras)
    bench, parts = bench_of(tmp_path, ["a", "b", "c", "d"])
    capacity = gpuproduct.Capacity(9, (64, 48), 12.0)
    steps = [*parts[:2], capacity, *parts[2:]]
    bench.pending = {str(step): gpu.NOT_REACHED for step in steps}
    bench.until_s = 155.0  # a: 40, cameras: 50, c: 40, and 25 that suffice for no other
    gpu.measure(bench, steps, "cpu", tmp_path)
    assert begun == ["a", "b", "9:64x48 cameras"] and list(bench.pending) == ["c fp32", "d fp32"]
    assert all("no time left" in text for text in saved(tmp_path)["left_out"])

    begun.clear()
    clock.now, bench.until_s, bench.longest_s = 0.0, 100.0, 0.0
    bench.pending = {str(step): gpu.NOT_REACHED for step in steps}
    gpu.measure(bench, steps, "cpu", tmp_path)  # b would take what the cameras need
    assert begun == ["a", "9:64x48 cameras"] and list(bench.pending) == ["b fp32", "c fp32", "d fp32"]


def test_a_precision_that_fell_back_keeps_its_own_line_and_its_own_product(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    products = {"bf16": 100.0, "fp32": 10.0}
    monkeypatch.setattr(gpulib, "product_tflops", lambda _device, precision, **_: products[precision])
    real = gpulib.loaded

    def loaded(item: Any, device: str, precision: str, fold: bool = True) -> Any:
        engine, facts = real(item, device, "fp32", fold)
        return engine, facts | {"asked": precision}

    monkeypatch.setattr(gpulib, "loaded", loaded)
    bench, _ = bench_of(tmp_path, [])
    bench.args.precisions, steps = ["bf16"], [gpu.Part(small, "bf16"), gpu.Part(small, "fp32")]
    bench.pending = {str(step): gpu.NOT_REACHED for step in steps}
    gpu.measure(bench, steps, "cpu", tmp_path)
    rows = bench.results["rows"]
    assert [(row["asked"], row["precision"]) for row in rows] == [("bf16", "fp32")] * 2 + [("fp32", "fp32")] * 2
    assert {row["product_tflops"] for row in rows} == {10.0}
    for number, row in enumerate(rows):
        row["windows_per_s"] = 1000.0 + number
    text = gputables.gpu({"settings": {"device": gpu.describe("cpu")}, "results": bench.results})
    assert f"| {small} bf16→fp32 | {cell(1000.0)} |" in text
    assert f"| {small} fp32 | {cell(1002.0)} |" in text
    assert {row["asked"] for row in bench.results["parity"]} == {"bf16", "fp32"}


@pytest.mark.parametrize("name", ["i3d", "accurate"])
def test_a_bundle_whose_weights_were_not_fetched_gets_random_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(roofline, "build_backbone", lambda _arch: build_backbone(ARCH))
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(roofline, "write_bundle", lambda _folder, parts, *_states: written.append(parts) or parts)
    roofline.bundle_for(name, tmp_path)
    assert (written[0]["name"], written[0]["backbone"]["arch"]) == ("random", "i3d")
    assert written[0]["preprocess"].size == size_of(name)
    with pytest.raises(BundleError):
        roofline.bundle_for("nothing-of-the-kind", tmp_path)


def size_of(name: str) -> tuple[int, int]:
    return read_manifest(SHIPPED / name).preprocess.to_recipe().size


def test_compiled_graphs_are_kept_apart_and_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("models", "bundles", "compiled"):
        (tmp_path / part / "mine").mkdir(parents=True)
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path))
    with caches.compiled_apart() as folder:
        assert cache_directory() == folder != tmp_path
        assert (folder / "models" / "mine").is_dir() and (folder / "bundles" / "mine").is_dir()
        assert not (folder / "compiled").exists()
    assert cache_directory() == tmp_path and (tmp_path / "models" / "mine").is_dir() and not folder.exists()


@pytest.mark.parametrize(("missing", "wanted"), [(["i3d-kinetics400"], "embedded"), ([], "accurate")])
def test_the_cameras_are_scored_by_the_accurate_bundle_where_its_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str], wanted: str
) -> None:
    specs: list[camerarig.Spec] = []

    def run(spec: camerarig.Spec, timeout_s: float) -> dict[str, Any]:
        assert timeout_s <= bench.left_s()
        specs.append(spec)
        return {"delay_ms": {"p95": 80.0}, "windows_per_s": 300.0, "bundle": "abc", "bundle_name": spec.bundle}

    monkeypatch.setattr(gpu, "missing_weights", lambda _name: missing)
    monkeypatch.setattr(gpuproduct, "run", run)
    monkeypatch.setattr(gpuproduct, "rendered_footage", lambda path, _size: path)
    bench, _ = bench_of(tmp_path, [], 100.0)
    gpu.whole_product(bench, gpuproduct.Capacity(192, (320, 240), 12.0), "cuda:0", tmp_path)
    assert specs[0].bundle == wanted and specs[0].settings == {"engine": {"device": "cuda:0"}}
    (row,) = bench.results["capacity"]
    assert row["bundle_name"] == wanted and row["p95_ms"] == 80.0
    assert f"192 × 320×240, {wanted}" in gputables._capacity([row])
    bench.args.bundle = "mine"
    gpu.whole_product(bench, gpuproduct.Capacity(1, (64, 48), 1.0), "cpu", tmp_path)
    assert specs[1].bundle == "mine"


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


def test_a_unit_of_the_i3d_takes_the_statistics_of_what_it_sees() -> None:
    unit = i3d.Unit(3, 4, (3, 3, 3))
    hook = unit.conv.register_forward_hook(partial(gpulib._take_statistics, unit))
    x = 50 * torch.rand(2, 3, 8, 9, 9)
    with torch.inference_mode():
        unit(x)
        hook.remove()
        y = unit(x)
    assert 0.1 < float(y.std()) < 1.0


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
