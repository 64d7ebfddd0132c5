"""`kvperf.bench.measure` on a rig with made-up times."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.bench import Work, measure
from tests.bench.metronome import L2_BYTES, Metronome
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc


def test_arrays_are_rotated_until_calls_are_cold() -> None:
    seen = set()
    array = np.zeros(L2_BYTES // 4, np.uint8)

    def touch(given: np.ndarray, scale: float) -> None:
        assert scale == 2.0
        seen.add(given.ctypes.data)

    rig = Metronome(lambda call: (call(), 1e-5)[1], gpu="h100")  # type: ignore[func-returns-value]
    case = measure(touch, array, 2.0, work=Work(compulsory_bytes=array.nbytes), rig=rig, gpu="h100", budget_s=0.1)
    assert len(seen) > 4 * L2_BYTES // array.nbytes - 8
    assert case.rotated_bytes >= 4 * L2_BYTES and case.flush == "rotation"
    assert case.bytes_per_s == pytest.approx(array.nbytes / 1e-5)
    assert sum(case.gap.values()) == pytest.approx(1e-5 - array.nbytes / 3.35e12)


def test_without_arrays_the_l2_is_flushed() -> None:
    case = measure(lambda: None, rig=Metronome(lambda call: 1e-5), budget_s=0.1)
    assert (case.flush, case.rotation, case.bound_s) == ("memset-read", 1, None)
    assert case.statistics is not None and case.statistics.median_s == 1e-5


def test_an_impossible_rate_is_refused() -> None:
    array = np.zeros(1 << 20, np.uint8)
    rig = Metronome(lambda call: 1e-9)
    case = measure(lambda x: None, array, work=Work(compulsory_bytes=1 << 20), rig=rig, gpu="h100", budget_s=0.1)
    assert case.refused is not None
