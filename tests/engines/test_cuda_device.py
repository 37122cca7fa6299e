"""The GPU engine on a GPU; skipped where PyTorch sees none. `benchmarks/gpu.sh` runs it where there is one."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import noise_windows, small_bundle

from stream_detector.config import EngineConfig
from stream_detector.engines import load_engine
from stream_detector.engines.batch_dependence import batch_dependence, tolerance
from stream_detector.engines.cuda_engine import BUCKETS, CudaEngine
from stream_detector.engines.feeding import infer_windows
from stream_detector.engines.gpu_runner import GpuRunner
from stream_detector.engines.kernels import tf32
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TOLERANCES = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2, "tf32": 2e-3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("small") / "small")


@pytest.fixture(scope="module")
def frames() -> Any:
    return noise_windows(128, seed=2)


@pytest.fixture(scope="module")
def wanted(bundle: Bundle, frames: Any) -> Any:
    with closing(TorchEngine(bundle)) as reference:
        return np.concatenate([reference.infer(frames[:64]).scores, reference.infer(frames[64:]).scores])


@pytest.fixture(scope="module", params=list(TOLERANCES))
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[CudaEngine]:
    if request.param == "tf32" and torch.version.hip:
        pytest.skip("tf32 is for NVIDIA GPUs")
    with closing(CudaEngine(bundle, precision=request.param)) as engine:
        yield engine


def test_every_count_agrees_with_the_cpu(engine: CudaEngine, frames: Any, wanted: Any) -> None:
    limit = TOLERANCES[engine.precision]  # 1e-5 in fp32: TF32 would move scores by more
    assert engine.buckets == BUCKETS
    for count in (1, 3, 32, 33, 64, 128):
        np.testing.assert_allclose(engine.infer(frames[:count]).scores, wanted[:count], atol=limit)
        loose = [window.copy() for window in frames[:count]]
        np.testing.assert_allclose(infer_windows(engine, loose).scores, wanted[:count], atol=limit)


def test_a_score_depends_on_its_batch_within_the_promise(engine: CudaEngine, frames: Any) -> None:
    assert batch_dependence(engine, frames[:9]) <= tolerance(engine)


def test_batches_that_follow_each_other_do_not_mix(engine: CudaEngine, frames: Any, wanted: Any) -> None:
    """A slot that is filled again before its upload has ended would show windows of the next chunk or batch."""
    limit = TOLERANCES[engine.precision]
    for step in range(30):
        order = np.roll(np.arange(128), 17 * step)
        found = engine.infer_windows([frames[i] for i in order])
        np.testing.assert_allclose(found.scores, wanted[order], atol=limit)
        few = order[: 1 + step]
        np.testing.assert_allclose(engine.infer_windows([frames[i] for i in few]).scores, wanted[few], atol=limit)


def test_fp32_is_not_tf32(bundle: Bundle) -> None:
    """That a matrix product tells the two apart shows that the tolerance above would see TF32."""
    if torch.version.hip or torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("no TF32 here")
    torch.manual_seed(0)
    a, b = torch.rand(512, 512), torch.rand(512, 512)
    exact = (a.double() @ b.double()).float()
    errors = {}
    for allowed in (False, True):
        with tf32(allowed):
            errors[allowed] = float(((a.cuda() @ b.cuda()).cpu() - exact).abs().max() / exact.abs().max())
    assert errors[False] < 1e-6 < 2e-5 < errors[True]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_deterministic_is_bit_equal_in_any_batch_and_after_another_load(
    bundle: Bundle, frames: Any, precision: str
) -> None:
    scores = []
    for _ in range(2):
        with closing(CudaEngine(bundle, precision=precision, deterministic=True)) as engine:
            assert batch_dependence(engine, frames[:20]) == tolerance(engine) == 0.0
            scores.append(engine.infer(frames[:20]).scores)
    assert np.array_equal(*scores)


def test_two_engines_work_at_the_same_time(bundle: Bundle, frames: Any, wanted: Any) -> None:
    wrong: list[int] = []

    def use(first: int) -> None:
        with closing(CudaEngine(bundle, precision="fp32")) as engine:
            for count in (128, 5, 40, 97):
                found = engine.infer(frames[first : first + count]).scores
                if not np.allclose(found, wanted[first : first + count], atol=1e-5):
                    wrong.append(count)

    threads = [threading.Thread(target=use, args=(first,)) for first in (0, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []


def test_auto_takes_the_cuda_device(bundle: Bundle) -> None:
    with closing(load_engine(bundle, EngineConfig())) as engine:
        assert engine.device.startswith("cuda") and engine.precision == "fp16"


# --- failures: each in a process of its own, for a device that was lost stays lost -----------------------------------

BEFORE = """
import sys
import numpy as np, torch
from stream_detector.config import EngineConfig
from stream_detector.engines import load_engine
from stream_detector.engines.cuda_engine import CudaEngine
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle
bundle = Bundle.load(sys.argv[1])
frames = np.random.default_rng(2).integers(0, 256, (128, 16, *bundle.recipe.size, 3), dtype=np.uint8)
"""
LOSE = """
def lose():
    torch._assert_async(torch.zeros((), dtype=torch.bool, device="cuda"))
"""


def run_apart(script: str, bundle: Bundle) -> str:
    command = [sys.executable, "-c", BEFORE + LOSE + script, str(bundle.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def test_a_lost_device_leads_to_the_cpu_and_the_process_lives_on(bundle: Bundle) -> None:
    told = run_apart(
        """
import gc
engine = load_engine(bundle, EngineConfig(on_failure="fallback"))
before = engine.infer(frames).scores
lose()
after = engine.infer(frames).scores
assert engine.device == "cpu" and "failed" in engine.reason and "\\n" not in engine.reason, engine.reason
assert np.abs(after - before).max() < 5e-3
engine.close()
del engine
gc.collect()
print("lived on")
""",
        bundle,
    )
    assert "lived on" in told


@pytest.mark.parametrize("when", ["in a batch", "between batches"])
def test_a_lost_device_is_a_sentence_and_closing_is_safe(bundle: Bundle, when: str) -> None:
    batch = """
try:
    engine.infer(frames)
    raise SystemExit("no error")
except EngineError as error:
    assert "\\n" not in str(error), error
"""
    script = f"""
engine = CudaEngine(bundle)
engine.infer(frames)
lose()
{batch if when == "in a batch" else ""}
engine.close()
del engine
print("lived on")
"""
    assert "lived on" in run_apart(script, bundle)


def test_memory_that_is_short_costs_buckets_or_is_a_sentence(bundle: Bundle) -> None:
    """PyTorch's share of the device is limited to little more than what it holds already."""
    told = run_apart(
        """
wide = Bundle.load("embedded")
frames = np.random.default_rng(2).integers(0, 256, (40, 16, *wide.recipe.size, 3), dtype=np.uint8)
engine = CudaEngine(wide, precision="fp32")
wanted, needed = engine.infer(frames).scores, torch.cuda.max_memory_reserved()
engine.close()
del engine
total = torch.cuda.get_device_properties(0).total_memory
seen = []
for part in (0.6, 0.3, 0.15, 0.05):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, part * needed / total))
    try:
        engine = CudaEngine(wide, precision="fp32")
    except EngineError as error:
        assert "too small for one window" in str(error) and "\\n" not in str(error), error
        seen.append("a sentence")
        continue
    assert np.abs(engine.infer(frames).scores - wanted).max() < 1e-5
    seen.append(f"{len(engine.buckets)} buckets")
    engine.close()
    del engine
assert len(set(seen)) > 1, seen
print(seen)
""",
        bundle,
    )
    assert "[" in told


def test_memory_that_runs_out_later_costs_buckets(
    bundle: Bundle, frames: Any, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device reports it in the middle of a batch; then the graphs are really captured again."""
    real = GpuRunner._launch

    def full(runner: GpuRunner, *arguments: Any) -> None:
        if runner.buckets == BUCKETS and arguments[-1] > 0:
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        real(runner, *arguments)

    with closing(CudaEngine(bundle, precision="fp32")) as engine:
        monkeypatch.setattr(GpuRunner, "_launch", full)
        np.testing.assert_allclose(engine.infer(frames).scores, wanted, atol=1e-5)
        assert engine.buckets == BUCKETS[:-1]
        np.testing.assert_allclose(engine.infer(frames).scores, wanted, atol=1e-5)


def test_a_closed_engine_gives_its_memory_back(bundle: Bundle, frames: Any) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    engine = CudaEngine(bundle, precision="fp16")
    engine.infer(frames)
    engine.close()
    engine.close()
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + (32 << 20)  # cuBLAS keeps a workspace for each stream
    with pytest.raises(EngineError, match="closed"):
        engine.infer(frames)
