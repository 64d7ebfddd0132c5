"""The waterfall sums to the gap, and each part is what it says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvperf.bench.gap import PARTS, in_words, waterfall
from kvperf.bench.record import Resources, Work

times = st.floats(1e-7, 1e-1, allow_nan=False)
maybe = st.one_of(st.none(), times)


def resources(waves: float) -> Resources:
    return Resources(registers=64, spill_bytes=0, shared_bytes=0, blocks=1, blocks_per_sm=1, waves=waves, code_hash="0")


@given(bound_s=times, measured_s=times, launch_s=maybe, latency_s=maybe, waves=st.floats(0.01, 50), read=maybe)
def test_the_parts_sum_to_the_gap(
    bound_s: float, measured_s: float, launch_s: float | None, latency_s: float | None, waves: float, read: float | None
) -> None:
    gap = waterfall(
        bound_s=bound_s,
        measured_s=measured_s,
        work=Work(compulsory_bytes=1e8, requested_bytes=4e8),
        launch_s=launch_s,
        latency_s=latency_s,
        resources=resources(waves),
        read_bytes_per_s=1e8 / read if read else None,
        l2_bytes_per_s=5.5e12,
        clock_ratio=0.9,
    )
    assert tuple(gap) == PARTS
    total = 0.0
    for part in gap.values():
        total += part
    scale = max(abs(part) for part in (*gap.values(), bound_s, measured_s))
    assert math.isclose(total, measured_s - bound_s, rel_tol=0, abs_tol=1e-14 * scale)


def test_each_part_by_hand() -> None:
    work = Work(compulsory_bytes=480e6, requested_bytes=1920e6)
    gap = waterfall(
        bound_s=100e-6,
        measured_s=400e-6,
        work=work,
        launch_s=2e-6,
        launches=2,
        latency_s=0.5e-6,
        read_bytes_per_s=4e12,
        l2_bytes_per_s=8e12,
        resources=resources(1.5),
    )
    assert gap["launch"] == 2e-6
    assert gap["ramp and tail"] == 1e-6
    assert gap["waves"] == pytest.approx(120e-6 * (2 / 1.5 - 1))
    assert gap["bandwidth efficiency"] == pytest.approx(20e-6)
    assert gap["re-reads"] == pytest.approx(120e-6)
    assert gap["clock"] == 0
    assert gap["unexplained"] == pytest.approx(300e-6 - 2e-6 - 1e-6 - 40e-6 - 20e-6 - 120e-6)


def test_a_slower_memory_clock_is_told_from_a_poor_efficiency() -> None:
    gap = waterfall(
        bound_s=100e-6,
        measured_s=150e-6,
        work=Work(compulsory_bytes=480e6),
        launch_s=None,
        read_bytes_per_s=480e6 / 130e-6,
        clock_ratio=0.8,
    )
    assert gap["clock"] == pytest.approx(25e-6)
    assert gap["bandwidth efficiency"] == pytest.approx(5e-6)


def test_the_words_name_the_largest_parts() -> None:
    gap = dict.fromkeys(PARTS, 0.0) | {"re-reads": 75e-6, "launch": 25e-6}
    said = in_words(gap, 100e-6, 200e-6)
    assert said.startswith("2.00 × the bound: of the gap 75% is bytes requested more than once")
    assert "25% is starting the kernel" in said
    assert "nothing to gain" in in_words(gap, 100e-6, 101e-6)
