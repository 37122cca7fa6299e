"""Engines agree with each other, do not let windows influence each other, and fail loudly."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from model_samples import noise_windows, small_bundle

from stream_detector.config import EngineConfig
from stream_detector.engines import FallbackEngine, Hardware, choose_engine, detect_hardware, load_engine
from stream_detector.engines.network import Network, checked_output, fuse_batchnorm
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import ConfigError, EngineError, MissingExtraError
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import head_numpy
from stream_detector.testing.engine import ConstantEngine
from stream_detector.types import Engine

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
NAMES = ["torch", pytest.param("openvino", marks=pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is missing"))]
PLAIN = Hardware(cuda=(), openvino=True, bf16=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAM_DETECTOR_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def bundle(cache: Path) -> Bundle:
    return small_bundle(cache / "small")


@pytest.fixture(scope="module")
def engines(bundle: Bundle) -> Iterator[dict[str, Engine]]:
    made = {"torch": load_engine(bundle, EngineConfig(engine="torch", device="cpu", precision="fp32"))}
    if HAS_OPENVINO:
        made["openvino"] = load_engine(
            bundle, EngineConfig(engine="openvino", device="cpu", precision="fp32", threads=2)
        )
    yield made
    for engine in made.values():
        engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_output_is_that_of_the_plain_network(name: str, engines: dict[str, Engine], bundle: Bundle) -> None:
    frames = noise_windows(5)
    with torch.inference_mode():
        features, scores = Network(bundle)(torch.from_numpy(frames))
    output = engines[name].infer(frames)
    assert output.features.dtype == np.float32 and output.scores.shape == (5,)
    np.testing.assert_allclose(output.features, features.numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(output.scores, scores.numpy(), atol=1e-5)
    assert output.forward_s > 0 and len(np.unique(output.scores)) == 5
    state = {key: value.numpy() for key, value in bundle.head_state.items()}
    np.testing.assert_allclose(output.scores, head_numpy(state, output.features), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_its_batch(name: str, engines: dict[str, Engine]) -> None:
    frames = noise_windows(9, seed=4)
    alone = [engines[name].infer(frames[i : i + 1]) for i in range(9)]
    for chosen in ([0, 1, 2, 3, 4, 5, 6, 7, 8], [8, 3, 0], [5, 5]):
        together = engines[name].infer(frames[chosen])
        for row, index in enumerate(chosen):
            np.testing.assert_allclose(together.scores[row], alone[index].scores[0], atol=1e-5)
            np.testing.assert_allclose(together.features[row], alone[index].features[0], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_repeatable(name: str, engines: dict[str, Engine]) -> None:
    frames = noise_windows(4, seed=5)
    first, second = engines[name].infer(frames), engines[name].infer(frames)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_colours_and_time_matter(name: str, engines: dict[str, Engine]) -> None:
    frames = noise_windows(1)
    base = engines[name].infer(frames).scores[0]
    assert abs(engines[name].infer(frames[..., ::-1]).scores[0] - base) > 1e-5
    shuffled = frames[:, np.random.default_rng(0).permutation(16)]
    assert abs(engines[name].infer(shuffled).scores[0] - base) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_wrong_batches_are_refused(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    for bad in (noise_windows(0), noise_windows(1)[:, :15], noise_windows(1, size=(32, 31)), noise_windows(1)[0]):
        with pytest.raises(EngineError):
            engine.infer(bad)
    with pytest.raises(EngineError):
        engine.infer(noise_windows(1).astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(EngineError):
        engine.infer(noise_windows(engine.max_batch + 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_engine_says_so(name: str, bundle: Bundle) -> None:
    engine = load_engine(bundle, EngineConfig(engine=name, device="cpu", precision="fp32"))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(noise_windows(1))


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_works_in_the_thread_that_uses_it(name: str, engines: dict[str, Engine]) -> None:
    """It is loaded by the main thread and used by the worker thread."""
    results: list[float] = []
    thread = threading.Thread(target=lambda: results.append(float(engines[name].infer(noise_windows(2)).scores[0])))
    thread.start()
    thread.join(60)
    assert results == pytest.approx([float(engines[name].infer(noise_windows(2)).scores[0])], abs=1e-6)


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is missing")
def test_the_converted_graph_is_cached_and_mended(bundle: Bundle, cache: Path) -> None:
    from stream_detector.engines.openvino_engine import OpenVinoEngine, graph_path

    wanted = OpenVinoEngine(bundle).infer(noise_windows(1)).scores[0]
    path = graph_path(bundle, "fp32")
    assert path.is_file() and path.with_suffix(".bin").is_file() and path.is_relative_to(cache)
    path.write_text("<net", encoding="utf-8")
    assert OpenVinoEngine(bundle).infer(noise_windows(1)).scores[0] == pytest.approx(wanted, abs=1e-6)
    assert path.stat().st_size > 1000


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is missing")
def test_a_cache_that_cannot_be_written_is_no_obstacle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from stream_detector.engines.openvino_engine import OpenVinoEngine

    monkeypatch.setenv("STREAM_DETECTOR_CACHE", "/dev/null/cache")
    assert 0 <= OpenVinoEngine(bundle).infer(noise_windows(1)).scores[0] <= 1


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is missing")
def test_int8_without_a_graph_says_how_to_make_one(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="models quantise"):
        load_engine(bundle, EngineConfig(engine="openvino", precision="int8", device="cpu"))


@pytest.mark.skipif(not HAS_OPENVINO or importlib.util.find_spec("nncf") is None, reason="nncf is missing")
@pytest.mark.filterwarnings("ignore")  # of nncf's own
def test_int8_is_close_to_float(bundle: Bundle, engines: dict[str, Engine], cache: Path) -> None:
    from stream_detector.engines.quantise import quantise

    frames = noise_windows(16, seed=7)
    path = quantise(bundle, frames)
    assert path.is_file()
    engine = load_engine(bundle, EngineConfig(engine="openvino", precision="int8", device="cpu"))
    small, full = engine.infer(frames), engines["torch"].infer(frames)
    assert engine.precision == "int8"
    error = np.linalg.norm(small.features - full.features) / np.linalg.norm(full.features)
    assert 0 < error < 0.15  # 8 to 64 channels, on noise; real networks are measured by the benchmarks
    assert np.abs(small.scores - full.scores).max() < 0.02
    path.unlink()


def test_fused_network_is_the_same(bundle: Bundle) -> None:
    plain, fused = Network(bundle), Network(bundle)
    fuse_batchnorm(fused.backbone)
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    frames = torch.from_numpy(noise_windows(2))
    torch.testing.assert_close(plain(frames), fused(frames), atol=1e-4, rtol=1e-4)


def test_nan_is_an_error_not_a_calm_scene() -> None:
    good, bad = np.zeros((2, 3), np.float32), np.array([0.1, np.nan], np.float32)
    with pytest.raises(EngineError, match="NaN"):
        checked_output(good, bad, 0, 0)


def test_running_out_of_memory_is_reported(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(bundle)

    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory\nmore")

    monkeypatch.setattr(engine._network, "explained", fail)
    with pytest.raises(EngineError, match="can't allocate memory") as caught:
        engine.infer(noise_windows(1))
    assert "\n" not in str(caught.value)


# --- the choice, and falling back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "hardware", "wanted"),
    [
        ({}, PLAIN, ("openvino", "cpu", "fp32")),
        ({}, Hardware((), True, True), ("openvino", "cpu", "bf16")),
        ({}, Hardware((), False, False), ("torch", "cpu", "fp32")),
        ({}, Hardware(("H200",), True, True), ("torch", "cuda:0", "fp16")),
        ({"device": "cuda:1"}, Hardware(("A", "B"), True, True), ("torch", "cuda:1", "fp16")),
        ({"device": "cpu"}, Hardware(("H200",), True, True), ("openvino", "cpu", "bf16")),
        ({"engine": "openvino"}, Hardware(("H200",), True, False), ("openvino", "cpu", "fp32")),
        ({"engine": "torch", "precision": "bf16"}, Hardware((), True, True), ("torch", "cpu", "bf16")),
        ({"precision": "int8"}, PLAIN, ("openvino", "cpu", "int8")),
        ({"precision": "int8"}, Hardware(("H200",), True, True), ("openvino", "cpu", "int8")),
        ({"precision": "bf16"}, Hardware(("H200",), False, False), ("torch", "cuda:0", "bf16")),
    ],
)
def test_the_choice(asked: dict[str, str], hardware: Hardware, wanted: tuple[str, str, str]) -> None:
    choice = choose_engine(EngineConfig.model_validate(asked), hardware)
    assert (choice.engine, choice.device, choice.precision) == wanted
    assert choice.reason


@pytest.mark.parametrize(
    ("asked", "hardware"),
    [
        ({"device": "cuda"}, PLAIN),
        ({"device": "cuda:1"}, Hardware(("A",), True, True)),
        ({"device": "cuda", "engine": "openvino"}, Hardware(("A",), True, True)),
        ({"device": "cuda", "precision": "int8"}, Hardware(("A",), True, True)),
        ({"precision": "fp16"}, PLAIN),
        ({"precision": "bf16"}, PLAIN),
        ({"precision": "int8", "engine": "torch"}, PLAIN),
        ({"precision": "int8"}, Hardware((), False, False)),
    ],
)
def test_what_the_machine_cannot_do_is_refused(asked: dict[str, str], hardware: Hardware) -> None:
    with pytest.raises(ConfigError):
        choose_engine(EngineConfig.model_validate(asked), hardware)


def test_openvino_asked_for_and_missing() -> None:
    with pytest.raises(MissingExtraError, match="openvino"):
        choose_engine(EngineConfig(engine="openvino"), Hardware((), False, False))


def test_this_machine_can_be_asked() -> None:
    hardware = detect_hardware()
    assert hardware.openvino == HAS_OPENVINO and len(hardware.cuda) == torch.cuda.device_count()


def test_fallback_scores_the_failed_batch_again(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    failing = ConstantEngine(0.5, fail_after=1, max_batch=200)
    spare = TorchEngine(bundle)
    engine = FallbackEngine(failing, lambda _why: spare)
    frames = noise_windows(70, seed=1)
    assert (engine.infer(frames).scores == 0.5).all()
    np.testing.assert_allclose(engine.infer(frames).scores[:64], spare.infer(frames[:64]).scores, atol=1e-6)
    assert engine.infer(frames).scores.shape == (70,) and engine.max_batch == 200
    assert failing.closed and engine.name == "torch" and engine.reason == spare.reason
    assert "continuing with torch" in caplog.text


def test_without_fallback_the_failure_is_raised() -> None:
    with pytest.raises(EngineError):
        ConstantEngine(fail_after=0).infer(noise_windows(1))
    twice = FallbackEngine(ConstantEngine(fail_after=0), lambda _why: ConstantEngine(fail_after=0))
    with pytest.raises(EngineError):
        twice.infer(noise_windows(1))
