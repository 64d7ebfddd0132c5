"""Attention on one shape: checked first, counted on the interpreter, timed together with the read ceiling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvperf.bench import attention
from kvperf.bench.entrant import Entrant, error_of
from kvperf.bench.field import field_of
from kvperf.bench.operands import operands
from kvperf.bench.rig import Call
from kvperf.bench.standin import Standin
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.kernel import reference
from kvperf.kernel.geometry import Shape
from kvperf.kernel.traffic import traffic
from kvperf.kernel.trial import small
from tests.bench.metronome import Metronome
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
GPU = load_gpu("h100")
SHAPE = Shape(batch=2, heads=4, kv_heads=2, head_dim=64, seq=77, dtype="fp16")
ALL = ("all",)

OWN = """
import numpy as np

def right(q, k, v, out):
    B, H, D = q.shape
    group = H // k.shape[1]
    keys, values = (np.repeat(x.astype(float), group, axis=1) for x in (k, v))
    scores = np.einsum("bhd,bhsd->bhs", q.astype(float), keys) / D**0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out[...] = np.einsum("bhs,bhsd->bhd", weights, values)

def wrong(q, k, v, out):
    out[...] = v.mean(axis=2).repeat(q.shape[1] // v.shape[1], axis=1)

def silent(q, k, v, out):
    pass
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    return file


def at_rate(bytes_per_s: float, size: int) -> Callable[[Call], float]:
    return lambda call: 2e-6 + size / bytes_per_s


@pytest.mark.parametrize("kind", ["dense", "paged", "int8", "fp8"])
def test_operands_are_what_the_reference_reads(kind: str) -> None:
    """Rows decoded from the buffers agree with attention over all of them at once."""
    found = operands(kind, SHAPE, 1)
    again = operands(kind, SHAPE, 1)
    assert all((found.host[name] == again.host[name]).all() for name in found.host if name not in ("k", "v"))
    rows = list(found.expected())
    assert [(b, h) for b, h, _ in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(np.isfinite(row).all() and row.shape == (1, 2, 64) for _, _, row in rows)
    if kind == "dense":
        q, k, v = (reference.decode(found.host[n], "fp16") for n in ("q", "k", "v"))
        whole = reference.attention(q, k, v, 64**-0.5)
        for batch, head, row in rows:
            np.testing.assert_allclose(row, whole[batch, :, head * 2 : head * 2 + 2])


def test_every_kernel_is_right_and_counted_on_the_interpreter() -> None:
    rig = Standin(GPU)
    entrants, left_out = field_of(rig, SHAPE, None, (), ALL)
    assert {e.name for e in entrants} >= {"three_pass", "split_kv", "paged", "int8_mma", "persistent"}
    assert all("mla" in message for message in left_out)
    (cases,) = attention.bench(rig, GPU, SHAPE, entrants, attention.Plan())
    assert len(cases) == len(entrants)
    for case in cases:
        assert case.refused is None, case
        assert case.error is not None and case.error_limit is not None
        assert 0 < case.error <= case.error_limit
        assert case.statistics is None and case.samples.seconds == ()
        moved = sum(n for name, n in case.counts.items() if name.startswith(("loads", "stores")))
        assert moved == case.work.requested_bytes, case.subject


def test_counts_are_the_closed_form() -> None:
    rig = Standin(GPU)
    entrants, _ = field_of(rig, SHAPE, ["vector_loads"], (), ALL)
    (cases,) = attention.bench(rig, GPU, SHAPE, entrants, attention.Plan())
    said = traffic(small("vector_loads", batch=2, kv_heads=2, head_dim=64, seq=77, sms=132).plan)
    assert cases[0].counts["loads k"] == said.loads["k"]


@pytest.mark.parametrize("name", ["wrong", "silent"])
def test_a_wrong_kernel_is_never_timed(own: Path, name: str) -> None:
    rig = Metronome(at_rate(3e12, 1 << 20))
    entrants, _ = field_of(rig, SHAPE, [f"{own}:{name}", f"{own}:right"], (), ALL)
    groups = list(attention.bench(rig, GPU, SHAPE, entrants, attention.Plan(budget_s=0.01)))
    by_subject = {case.subject: case for group in groups for case in group}
    refused = by_subject[f"mine.py:{name}"]
    assert refused.refused and refused.refused.startswith("wrong result: error")
    assert refused.statistics is None
    assert by_subject["mine.py:right"].statistics is not None
    assert by_subject["mine.py:right"].family == "kernel"


def test_readings_stand_beside_the_ceiling_of_their_regime(own: Path) -> None:
    size = 2 * 2 * 2 * 77 * 64 * 2
    rig = Metronome(at_rate(1e12, size), silent=True)
    entrants = [_right(rig, own)]
    how = attention.Plan(regimes=("cold", "warm"), budget_s=0.01)
    cold, warm = attention.bench(rig, GPU, SHAPE, entrants, how)
    ceiling, case = cold
    assert ceiling.subject == "read" and ceiling.work.compulsory_bytes == size
    assert case.regime == "cold" and warm[1].regime == "warm"
    assert case.rotated_bytes >= 4 * rig.facts.l2_bytes
    assert case.rotation > 2 and warm[1].rotation == 1
    median_s = 2e-6 + size / 1e12
    assert case.bytes_per_s == pytest.approx(size / median_s)
    assert case.share_of_read == pytest.approx(1)
    assert case.share_of_datasheet == pytest.approx(size / median_s / 3.35e12)
    assert case.launch_s == pytest.approx(median_s)  # the metronome beats alike for all
    assert sum(case.gap.values()) == pytest.approx(median_s - (case.bound_s or 0))
    assert "the bound" in case.verdict


def test_an_impossible_reading_is_refused(own: Path) -> None:
    rig = Metronome(lambda call: 1e-9, silent=True)
    (cases,) = attention.bench(rig, GPU, SHAPE, [_right(rig, own)], attention.Plan(budget_s=0.01))
    assert all(case.refused and "above the" in case.refused for case in cases)
    assert all(case.bytes_per_s is None and not case.gap for case in cases)


def test_cold_without_enough_buffers_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvperf.bench.timing.MOST_SETS", 2)
    rig = Metronome(at_rate(1e12, 1 << 20), silent=True)
    (cases,) = attention.bench(rig, GPU, SHAPE, [_right(rig, own)], attention.Plan(budget_s=0.01))
    assert cases[1].refused and "not cold" in cases[1].refused


def test_a_flush_makes_one_set_cold(own: Path) -> None:
    rig = Metronome(at_rate(1e12, 1 << 20), silent=True)
    how = attention.Plan(budget_s=0.01, flush="memset-read")
    (cases,) = attention.bench(rig, GPU, SHAPE, [_right(rig, own)], how)
    assert cases[1].refused is None
    assert (cases[1].rotation, cases[1].flush) == (1, "memset-read")


def test_what_does_not_fit_is_said() -> None:
    rig = Standin(GPU)
    huge = Shape(batch=64, heads=8, kv_heads=8, head_dim=128, seq=4096, dtype="fp16")
    entrants, _ = field_of(rig, huge, ["vector_loads"], (), ALL)
    with pytest.raises(KvperfError, match="do not fit the memory that is free"):
        list(attention.bench(rig, GPU, huge, entrants, attention.Plan()))


def test_an_error_in_the_last_set_shows(own: Path) -> None:
    rig = Standin(GPU)
    entrants, _ = field_of(rig, SHAPE, ["vector_loads"], (), ALL)
    cache = operands("dense", SHAPE, 0)
    cache.place(rig, 3)
    assert error_of(rig, entrants[0], cache) <= entrants[0].limit
    cache.sets[-1]["v"][0, 0, 5] = 9
    assert not error_of(rig, entrants[0], cache) <= entrants[0].limit
    cache.sets[-1]["v"][0, 0, 5] = np.nan
    assert not error_of(rig, entrants[0], cache) <= entrants[0].limit


CUDA = """
extern "C" __global__ void mean(const __half* v, __half* out, int S, int group) {
  float sum = 0;
  for (int s = 0; s < S; s++) sum += __half2float(v[((size_t)blockIdx.x / group * S + s) * HEAD_DIM + threadIdx.x]);
  out[(size_t)blockIdx.x * HEAD_DIM + threadIdx.x] = __float2half(sum / S);
}
"""
LAUNCH = """
entry: mean
grid: ["B*H"]
block: ["D"]
arguments: [v, out, S, G]
defines: {HEAD_DIM: D}
"""


def test_a_users_cuda_kernel_is_compiled_run_and_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.cu").write_text("#include <cuda_fp16.h>\n" + CUDA)
    (tmp_path / "mine.yaml").write_text(LAUNCH)
    rig = Standin(GPU)
    one = Shape(batch=2, heads=4, kv_heads=2, head_dim=64, seq=1, dtype="fp16")
    for shape, right in ((one, True), (SHAPE, False)):  # the mean is attention where there is one key
        entrants, _ = field_of(rig, shape, [str(tmp_path / "mine.cu")], (), ALL)
        (cases,) = attention.bench(rig, GPU, shape, entrants, attention.Plan())
        assert (cases[0].refused is None) == right


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing.py:f", "no such file"),
        ("mine.py", "names no kernel"),
        ("mine.py:other", "has no function 'other'"),
        ("split_vk", "unknown kernel"),
    ],
)
def test_a_kernel_that_is_none(own: Path, given: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    with pytest.raises(KvperfError, match=message):
        field_of(Standin(GPU), SHAPE, [given], (), ALL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUNCH.replace("mean", "other"), "other"),
        (LAUNCH.replace('"B*H"', '"B*X"'), "'B\\*X'"),
        (LAUNCH.replace("entry", "entri"), "entri"),
    ],
)
def test_a_launch_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.cu").write_text("#include <cuda_fp16.h>\n" + CUDA)
    (tmp_path / "mine.yaml").write_text(text)
    rig = Standin(GPU)
    with pytest.raises(KvperfError, match=message):
        entrants, _ = field_of(rig, SHAPE, [str(tmp_path / "mine.cu")], (), ALL)
        list(attention.bench(rig, GPU, SHAPE, entrants, attention.Plan()))


def _right(rig: Any, own: Path) -> Entrant:
    entrants, _ = field_of(rig, SHAPE, [f"{own}:right"], (), ALL)
    return entrants[0]
