"""How cores are divided: by the bundle's cost, never by a clock."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.engines import layout
from stream_detector.engines.layout import Layout, choose_layout, has_bf16, instruction_set

XEON = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@pytest.mark.parametrize(
    ("gmac", "rate", "cores", "wanted"),
    [
        (2.9, 150, 2, (2, 1)),  # the embedded network where there is bf16
        (2.9, 40, 2, (1, 2)),  # 72 ms on one core
        (2.9, 40, 16, (8, 2)),
        (12.7, 150, 8, (2, 4)),  # three threads would reach it, four leave no core idle
        (12.7, 150, 2, (1, 2)),  # 42 ms: near enough
        (42.0, 80, 2, (2, 1)),  # out of reach: throughput
        (2.9, 150, 1, (1, 1)),
        (5.8, 70, 7, (2, 3)),  # a prime number: one core is left
    ],
)
def test_the_fewest_threads_that_reach_the_target(
    gmac: float, rate: float, cores: int, wanted: tuple[int, int]
) -> None:
    found = choose_layout(gmac * 1e9, rate, cores)
    assert (found.streams, found.threads) == wanted


@given(st.floats(0.01, 500), st.floats(5, 400), st.integers(1, 256))
def test_a_layout_is_always_possible_and_reaches_the_target_if_that_can_be(
    gmac: float, rate: float, cores: int
) -> None:
    found = choose_layout(gmac * 1e9, rate, cores)
    assert found == choose_layout(gmac * 1e9, rate, cores)
    assert found.streams >= 1 and found.threads >= 1 and found.streams * found.threads <= cores
    assert found.streams * found.threads > cores / 2
    if gmac * 1e3 / rate / cores <= 40:
        assert found.window_ms <= 40 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("flags", "limit", "wanted"),
    [
        (XEON, "", "amx"),
        (XEON, "AVX512_CORE_AMX", "amx"),
        (XEON, "avx512_core_bf16", "avx512_bf16"),
        (XEON, "AVX512_CORE_VNNI", "avx512"),
        (XEON, "AVX512_CORE", "avx512"),
        (XEON, "AVX2_VNNI_2", "avx2"),
        (XEON, "AVX", "other"),
        (XEON, "DEFAULT", "amx"),
        (("avx2",), "AVX512_CORE_BF16", "avx2"),
        (("asimd", "bf16"), "", "other"),
        ((), "", "other"),
    ],
)
def test_the_instruction_set_is_the_narrower_of_cpu_and_environment(
    flags: tuple[str, ...], limit: str, wanted: str
) -> None:
    environment = {"ONEDNN_MAX_CPU_ISA": limit} if limit else {}
    assert instruction_set(flags, environment) == wanted
    assert has_bf16(flags, environment) == (wanted in ("amx", "avx512_bf16") or "asimd" in flags)
    assert set(layout.RATES[wanted]) == {"fp32", "bf16", "int8"}


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is missing")
def test_multiply_adds_are_those_of_the_layers() -> None:
    import torch
    from torch import nn

    from stream_detector.engines.openvino_engine import convert_module

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 4, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2))
            self.line = nn.Linear(4, 7)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            x = self.conv(frames.float().permute(0, 4, 1, 2, 3))
            y: torch.Tensor = self.line(x.mean(dim=(2, 3, 4)))
            return y

    graph = convert_module(Small().eval(), torch.zeros((1, 8, 10, 12, 3), dtype=torch.uint8))
    assert layout.multiply_adds(graph) == 4 * 8 * 5 * 6 * (3 * 3 * 5 * 5) + 4 * 7


def test_a_layout_is_a_value() -> None:
    assert Layout(2, 1, 19.0) == Layout(2, 1, 19.0)
