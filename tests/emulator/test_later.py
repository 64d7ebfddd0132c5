"""Kernels written after the interpreter was finished: transpose, reduction, softmax."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import SCHEDULES, run
from tests.emulator.compiled import ptx
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
RANDOM = np.random.default_rng(4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (50, 77), (1, 33)])
def test_transpose(rows: int, columns: int, schedule: str) -> None:
    source, out = RANDOM.standard_normal((rows, columns)).astype(np.float32), np.zeros((columns, rows), np.float32)
    grid = (-(-columns // 32), -(-rows // 32))
    counts = run(ptx("later.cu", PAD=1), "transpose", grid=grid, block=(32, 8), schedule=schedule,
                 arguments=[source, out, np.int32(rows), np.int32(columns)], names=["in", "out"],
                 initialised={"out": False}).counts  # fmt: skip
    assert (out == source.T).all()
    assert counts.loads["in"].bytes == counts.stores["out"].bytes == source.nbytes
    assert counts.bank_conflicts == 0


def test_transpose_without_its_extra_column_has_bank_conflicts() -> None:
    source, out = RANDOM.standard_normal((64, 64)).astype(np.float32), np.zeros((64, 64), np.float32)
    counts = run(ptx("later.cu", PAD=0), "transpose", grid=(2, 2), block=(32, 8),
                 arguments=[source, out, np.int32(64), np.int32(64)]).counts  # fmt: skip
    assert (out == source.T).all()
    assert counts.bank_conflicts == 31 * 4 * 32


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n", [1, 255, 1000])
def test_reduction(n: int, schedule: str) -> None:
    source, out = RANDOM.standard_normal(n).astype(np.float32), np.zeros(1, np.float32)
    counts = run(ptx("later.cu", PAD=1), "reduction", grid=(3,), block=(128,), schedule=schedule,
                 arguments=[source, out, np.int32(n)], names=["in", "sum"]).counts  # fmt: skip
    assert out[0] == pytest.approx(source.astype(np.float64).sum(), rel=1e-5, abs=1e-5)
    assert counts.loads["in"].bytes == source.nbytes
    assert counts.atomics["sum"] == 3


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n", [1, 33, 300])
def test_softmax(n: int, schedule: str) -> None:
    source, out = (4 * RANDOM.standard_normal((5, n))).astype(np.float32), np.zeros((5, n), np.float32)
    counts = run(ptx("later.cu", PAD=1), "softmax", grid=(5,), block=(128,), schedule=schedule,
                 arguments=[source, out, np.int32(n)], names=["in", "out"],
                 initialised={"out": False}).counts  # fmt: skip
    exact = np.exp(source.astype(np.float64) - source.max(axis=1, keepdims=True))
    np.testing.assert_allclose(out, exact / exact.sum(axis=1, keepdims=True), rtol=1e-5)
    assert counts.loads["in"].bytes == 3 * source.nbytes
