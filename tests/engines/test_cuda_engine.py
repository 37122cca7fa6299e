"""The GPU engine where there is no GPU: the same code on a device that is the CPU, or that fails as GPUs do."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import noise_windows, small_bundle

from stream_detector.config import EngineConfig
from stream_detector.engines import FallbackEngine, Hardware, choose_engine, cuda_engine
from stream_detector.engines.accelerator import Captured, Computation, Eager, TorchCuda, accelerator, out_of_memory
from stream_detector.engines.batch_dependence import batch_dependence, demo_windows, tolerance
from stream_detector.engines.cuda_engine import BUCKETS, FIXED_BUCKET, CudaEngine
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import ConfigError, EngineError
from stream_detector.models.bundle import Bundle

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


class FakeGpu(Eager):
    """A device that does its work on the CPU, holds at most `room` graphs, and can be lost.

    full: the next replays for which its memory is full.
    """

    def __init__(self, room: int = 99) -> None:
        super().__init__(torch.device("cpu"))
        self.room, self.graphs, self.full, self.lost, self.captures = room, 0, 0, False, 0
        self.flags: list[tuple[bool, bool, bool, bool]] = []

    def capture(self, run: Computation, stream: Any) -> Captured:
        cudnn = torch.backends.cudnn
        tf32 = torch.backends.cuda.matmul.allow_tf32
        self.flags.append((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, tf32))
        self.captures += 1
        if self.graphs >= self.room:
            raise torch.OutOfMemoryError(FULL)
        self.graphs += 1
        captured = super().capture(run, stream)

        def replay() -> None:
            if self.lost:
                raise RuntimeError("CUDA error: unspecified launch failure\nmore lines")
            if self.full:
                self.full -= 1
                raise torch.OutOfMemoryError(FULL)
            captured.replay()

        return Captured(replay, captured.features, captured.scores)

    def free_bytes(self) -> tuple[int, int] | None:
        return 1_500_000_000, 80_000_000_000

    def release(self) -> None:
        self.graphs = 0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    yield small_bundle(tmp_path_factory.mktemp("small") / "small")


def made(bundle: Bundle, gpu: FakeGpu, precision: str = "fp32", **options: Any) -> CudaEngine:
    return CudaEngine(bundle, precision=precision, on=gpu, **options)


def test_every_count_agrees_with_the_reference(bundle: Bundle) -> None:
    frames = noise_windows(70, seed=2)
    with closing(TorchEngine(bundle)) as reference:
        wanted = np.concatenate([reference.infer(frames[:64]).scores, reference.infer(frames[64:]).scores])
    with closing(made(bundle, FakeGpu())) as engine:
        assert engine.buckets == BUCKETS
        for count in (1, 2, 3, 5, 31, 32, 33, 70):  # whole buckets, padded ones, several chunks
            found = engine.infer(frames[:count])
            np.testing.assert_allclose(found.scores, wanted[:count], atol=1e-5)
            assert found.features.shape == (count, 64)
        assert batch_dependence(engine, frames[:9]) <= 1e-5 == tolerance_of("fp32")
    with pytest.raises(EngineError, match="closed"):
        engine.infer(frames[:1])


def tolerance_of(precision: str) -> float:
    class OnGpu:
        name, device = "torch", "cuda:0"

    engine: Any = OnGpu()
    engine.precision = precision
    return tolerance(engine)


def test_the_output_does_not_change_when_the_next_batch_is_scored(bundle: Bundle) -> None:
    with closing(made(bundle, FakeGpu())) as engine:
        first = engine.infer(noise_windows(3, seed=1)).scores
        kept = first.copy()
        engine.infer(noise_windows(3, seed=2))
        assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    ("precision", "deterministic", "wanted"),
    [
        ("fp32", False, (True, False, False, False)),  # fp32 means fp32
        ("tf32", False, (True, False, True, True)),
        ("fp32", True, (False, True, False, False)),
    ],
)
def test_what_kernels_may_be_chosen(
    bundle: Bundle, precision: str, deterministic: bool, wanted: tuple[bool, bool, bool, bool]
) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32)
    gpu = FakeGpu()
    made(bundle, gpu, precision, deterministic=deterministic).close()
    assert set(gpu.flags) == {wanted}
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32) == before


def test_deterministic_has_one_bucket_and_is_bit_equal(bundle: Bundle) -> None:
    with closing(made(bundle, FakeGpu(), deterministic=True)) as engine:
        assert len(engine.buckets) == 1 and engine.buckets[0] in (1, FIXED_BUCKET)
        assert batch_dependence(engine, noise_windows(20, seed=5)) == tolerance(engine) == 0.0


def test_deterministic_takes_a_bucket_of_one_where_the_place_shows(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_engine, "batch_dependence", lambda _engine, _windows: 1e-7)
    with closing(made(bundle, FakeGpu(), deterministic=True)) as engine:
        assert engine.buckets == (1,)
        assert engine.infer(noise_windows(3)).scores.shape == (3,)


# --- precision -------------------------------------------------------------------------------------------------------


def test_bf16_that_agrees_is_kept(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with closing(made(bundle, FakeGpu(), "bf16", reason="asked for")) as engine:
        assert (engine.precision, engine.reason, caplog.text) == ("bf16", "asked for", "")


@pytest.mark.parametrize(
    ("bad", "wanted", "told"),
    [
        ({"fp16": 0.1}, "bf16", "fp16 moved a score of the demo by 0.1"),
        ({"fp16": np.inf}, "bf16", "fp16 overflowed"),
        ({"fp16": 0.1, "bf16": 0.02}, "fp32", "bf16 moved a score of the demo by 0.02"),
        ({"fp16": 0.004, "bf16": 1.0}, "fp16", ""),
    ],
)
def test_a_precision_that_disagrees_is_given_up(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bad: dict[str, float],
    wanted: str,
    told: str,
) -> None:
    monkeypatch.setattr(
        cuda_engine, "DTYPES", dict.fromkeys(cuda_engine.DTYPES, torch.float32)
    )  # the CPU's fp16 is slow
    monkeypatch.setattr(CudaEngine, "_apart", lambda engine, *_: bad.get(engine.precision, 0.0))
    with caplog.at_level(logging.WARNING), closing(made(bundle, FakeGpu(), "fp16")) as engine:
        assert engine.precision == wanted
        assert told in engine.reason and told in caplog.text and "\n" not in engine.reason
        assert engine.infer(noise_windows(2)).scores.shape == (2,)


def test_the_difference_is_that_of_scores_alone_and_together(bundle: Bundle) -> None:
    windows = demo_windows(bundle.recipe)
    assert windows.shape == (4, 16, 32, 32, 3) and len({w.tobytes() for w in windows}) == 4
    with closing(made(bundle, FakeGpu())) as engine:
        reference = engine._reference(windows)
        assert engine._apart(windows, reference) < 1e-5
        reference[2] += 0.25
        assert engine._apart(windows, reference) == pytest.approx(0.25, abs=1e-4)
        reference[1] = np.nan
        assert engine._apart(windows, reference) == np.inf


# --- memory, loss ----------------------------------------------------------------------------------------------------


def test_too_little_memory_at_load_leaves_out_the_largest_buckets(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(made(bundle, FakeGpu(room=3))) as engine:
        assert engine.buckets == (1, 2, 4)
        assert engine.infer(noise_windows(11)).scores.shape == (11,)
    assert "memory of cpu is too small for 32 windows at once; trying 16" in caplog.text


@pytest.mark.parametrize("deterministic", [False, True])
def test_too_little_memory_for_one_window_is_a_sentence(bundle: Bundle, deterministic: bool) -> None:
    with pytest.raises(EngineError, match=r"too small for one window, 1.5 of 80.0 GB free; .*--device cpu") as caught:
        made(bundle, FakeGpu(room=0), deterministic=deterministic)
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_later_costs_buckets_not_windows(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu()
    frames = noise_windows(40, seed=8)
    with closing(made(bundle, gpu)) as engine:
        wanted = engine.infer(frames).scores
        gpu.full = 2
        np.testing.assert_allclose(engine.infer(frames).scores, wanted, atol=1e-5)
        assert engine.buckets == (1, 2, 4, 8) and "at most 8 windows" in caplog.text
        gpu.full = 99
        with pytest.raises(EngineError, match="too small for one window"):
            engine.infer(frames)


def test_a_lost_device_goes_to_the_replacement_as_configured(bundle: Bundle) -> None:
    gpu = FakeGpu()
    engine = made(bundle, gpu)
    spare = TorchEngine(bundle)
    whole = FallbackEngine(engine, lambda: spare)
    gpu.lost = True
    frames = noise_windows(70, seed=4)
    with pytest.raises(EngineError, match="unspecified launch failure") as caught:
        engine.infer(frames)
    assert "\n" not in str(caught.value)
    np.testing.assert_allclose(whole.infer(frames).scores[:64], spare.infer(frames[:64]).scores, atol=1e-6)
    assert "launch failure" in whole.reason and whole.device == "cpu"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError(FULL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), False),
    ],
)
def test_full_memory_is_told_from_other_failures(error: RuntimeError, wanted: bool) -> None:
    assert out_of_memory(error) == wanted


# --- devices ---------------------------------------------------------------------------------------------------------


def test_which_device_is_which() -> None:
    cuda, first, apple = accelerator("cuda:1"), accelerator("cuda"), accelerator("mps")
    assert isinstance(cuda, TorchCuda) and str(cuda.device) == "cuda:1" and str(first.device) == "cuda:0"
    assert isinstance(apple, Eager) and apple.device.type == "mps"


@pytest.mark.parametrize(
    ("asked", "hardware", "wanted"),
    [
        ({"device": "mps"}, Hardware((), True, False, mps=True), ("torch", "mps", "fp16")),
        ({}, Hardware((), True, False, mps=True), ("openvino", "cpu", "fp32")),  # untried: only when asked for
        ({}, Hardware(("MI300X",), True, True, rocm=True), ("torch", "cuda:0", "fp16")),
        ({"precision": "tf32"}, Hardware(("H200",), True, True), ("torch", "cuda:0", "tf32")),
    ],
)
def test_the_choice_among_gpus(asked: dict[str, str], hardware: Hardware, wanted: tuple[str, str, str]) -> None:
    choice = choose_engine(EngineConfig.model_validate(asked), hardware)
    assert (choice.engine, choice.device, choice.precision) == wanted
    assert ("ROCm" in choice.reason) == hardware.rocm


@pytest.mark.parametrize(
    ("asked", "hardware"),
    [
        ({"device": "mps"}, Hardware((), True, False)),
        ({"device": "mps", "engine": "openvino"}, Hardware((), True, False, mps=True)),
        ({"device": "mps", "precision": "tf32"}, Hardware((), True, False, mps=True)),
        ({"precision": "tf32"}, Hardware((), True, False)),
        ({"precision": "tf32"}, Hardware(("MI300X",), True, True, rocm=True)),
    ],
)
def test_what_a_gpu_cannot_do_is_refused(asked: dict[str, str], hardware: Hardware) -> None:
    with pytest.raises(ConfigError):
        choose_engine(EngineConfig.model_validate(asked), hardware)


def test_importing_the_engine_touches_no_device() -> None:
    code = (
        "import torch, sys\n"
        "class Gone:\n"
        "    def __getattr__(self, name): raise AssertionError('torch.cuda.' + name)\n"
        "torch.cuda = Gone(); sys.modules['torch.cuda'] = torch.cuda\n"
        "import stream_detector.engines.cuda_engine"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
