"""Readings above the roof of their regime are refused, with the reason."""

from __future__ import annotations

import pytest

from kvperf.bench.record import Samples, Work
from kvperf.bench.rig import Facts
from kvperf.bench.roofs import hbm_bytes_per_s, refusal
from kvperf.hardware import load_gpu

H200 = Facts(
    name="NVIDIA H200",
    capability="90",
    sms=132,
    l2_bytes=60 << 20,
    memory_bytes=141 << 30,
    memory_clock_max_hz=3201e6,
    memory_bus_bits=6144,
)
GPU = load_gpu("h200")
CACHE = Work(compulsory_bytes=512e6)


def test_the_memory_clock_raises_the_datasheet() -> None:
    assert hbm_bytes_per_s(H200, GPU) == pytest.approx(4.917e12, rel=1e-3)
    assert hbm_bytes_per_s(H200, GPU, [1600e6]) == GPU.hbm_bytes_per_s
    assert hbm_bytes_per_s(H200, None) == pytest.approx(4.917e12, rel=1e-3)


@pytest.mark.parametrize("regime", ["cold", "stream"])
def test_cold_bytes_faster_than_memory_are_refused(regime: str) -> None:
    samples = Samples(memory_clock_hz=(3201e6,))
    assert refusal(regime, CACHE, samples, 512e6 / 4.9e12, H200, GPU) is None
    found = refusal(regime, CACHE, samples, 512e6 / 5.0e12, H200, GPU)
    assert found and "5.000 TB/s is above the 4.917 TB/s of HBM" in found and "cache" in found


def test_warm_bytes_may_come_from_l2_as_far_as_they_fit() -> None:
    small = Work(compulsory_bytes=10e6)
    assert refusal("warm", small, Samples(), 10e6 / 8e12, H200, GPU) is None  # the L2's bandwidth is unknown
    assert refusal("warm", CACHE, Samples(), 512e6 / 5.2e12, H200, GPU) is None  # 63 of 512 MB may be cached
    assert refusal("warm", CACHE, Samples(), 512e6 / 6e12, H200, GPU)


def test_flops_above_the_peak_at_the_recorded_clock_are_refused() -> None:
    work = Work(operations={"flop": 1e12}, operand="bf16")
    fast = Samples(sm_clock_hz=(1.98e9,))
    assert refusal("warm", work, Samples(sm_clock_hz=(1.83e9,)), 1e12 / 1000e12, H200, GPU)
    assert refusal("warm", work, fast, 1e12 / 1000e12, H200, GPU) is None  # 1070 TFLOP/s at 1980 MHz
    assert refusal("warm", work, fast, 1e12 / 1090e12, H200, GPU)


def test_nothing_is_refused_without_a_roof() -> None:
    bare = Facts(name="?", capability="90", sms=1, l2_bytes=0, memory_bytes=1)
    assert refusal("cold", CACHE, Samples(), 1e-9, bare, None) is None
