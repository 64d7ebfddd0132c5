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
def test_operands_are_what_the_reference_reads(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows decoded from the vectors agree with attention over the whole buffers, repetition included."""
    monkeypatch.setattr("kvperf.bench.operands.VECTORS", 31)
    found = operands(kind, SHAPE, 1)
    found.place(Standin(GPU), 2)
    assert list(found.exact) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    first, last = found.sets
    assert first["q"] is last["q"] and first["k"] is not last["k"]
    q = reference.decode(first["q"], "fp16")
    if kind == "paged":
        k, v = (_from_pages(first[name], first["pages"]) for name in "kv")
    elif kind == "int8":
        k, v = (first[name] * first[f"{name}_scales"].astype(float)[..., None] for name in "kv")
    else:
        k, v = (reference.decode(first[name], "fp8" if kind == "fp8" else "fp16") for name in "kv")
    whole = reference.attention(q, k, v, 64**-0.5)
    for (batch, head), row in found.exact.items():
        np.testing.assert_allclose(row, whole[batch, :, head * 2 : head * 2 + 2], rtol=1e-9)


def _from_pages(pool: Any, table: Any) -> Any:
    """[B, K, S, D] from pages [P, K, page, D]; the rest of the last page is NaN."""
    pages = reference.decode(pool[table], "fp16")
    dense = pages.transpose(0, 2, 1, 3, 4).reshape(2, 2, -1, 64)
    assert np.isnan(dense[:, :, 77:]).all() and np.isnan(reference.decode(pool, "fp16")).any()
    return dense[:, :, :77]


def test_many_rows_are_sampled_and_the_ends_are_among_them() -> None:
    large = Shape(batch=64, heads=8, kv_heads=8, head_dim=128, seq=4096)
    rows = operands("dense", large, 0).rows
    assert len(rows) == len(set(rows)) == 8
    assert rows[0] == (0, 0) and rows[-1] == (63, 7)


def test_every_kernel_is_right_and_counted_on_the_interpreter() -> None:
    rig = Standin(GPU)
    entrants, left_out = field_of(rig, SHAPE, None, (), ALL)
    assert {e.name for e in entrants} >= {"three_pass", "split_kv", "paged", "int8_mma", "persistent"}
    assert all("mla" in message for message in left_out)
    cases = [case for group in attention.bench(rig, GPU, SHAPE, entrants, attention.Plan()) for case in group]
    assert [case.subject for case in cases] == [entrant.name for entrant in entrants]
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
    refused = by_subject[f"{own}:{name}"]
    assert refused.refused and refused.refused.startswith("wrong result: error")
    assert refused.statistics is None
    assert by_subject[f"{own}:right"].statistics is not None
    assert by_subject[f"{own}:right"].family == "kernel"


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
    rig = Metronome(at_rate(1e12, 1 << 20), silent=True)
    held = 6 * 2 * 2 * 2 * 77 * 64 * 2  # of free memory: two sets of what would need seven
    monkeypatch.setattr(rig, "free_bytes", lambda: held)
    (cases,) = attention.bench(rig, GPU, SHAPE, [_right(rig, own)], attention.Plan(budget_s=0.01))
    assert cases[1].rotation == 2
    assert cases[1].refused and "not cold" in cases[1].refused


def test_where_too_many_sets_would_be_needed_the_l2_is_flushed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvperf.bench.timing.MOST_SETS", 2)
    rig = Metronome(at_rate(1e12, 1 << 20), silent=True)
    (cases,) = attention.bench(rig, GPU, SHAPE, [_right(rig, own)], attention.Plan(budget_s=0.01))
    assert (cases[1].rotation, cases[1].flush, cases[1].refused) == (1, "memset-read", None)


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
    ((case,),) = attention.bench(rig, GPU, huge, entrants, attention.Plan())
    assert case.refused and "do not fit the memory that is free" in case.refused


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


def test_a_kernel_that_changes_its_operands_is_named_and_harms_nobody(own: Path) -> None:
    own.write_text(OWN + "\n\ndef spoils(q, k, v, out):\n    right(q, k, v, out)\n    k[...] = 0\n")
    rig = Standin(GPU)
    entrants, _ = field_of(rig, SHAPE, [f"{own}:spoils", "split_kv"], (), ALL)
    spoils, ours = (group[0] for group in attention.bench(rig, GPU, SHAPE, entrants, attention.Plan()))
    assert spoils.refused == "it changed its operand k"
    assert ours.refused is None


def test_a_kernel_that_raises_is_named_and_the_others_go_on(own: Path) -> None:
    own.write_text(OWN + "\n\ndef raises(q, k, v, out):\n    raise ValueError('no such tile')\n")
    rig = Standin(GPU)
    entrants, _ = field_of(rig, SHAPE, [f"{own}:raises", "split_kv"], (), ALL)
    raises, ours = (group[0] for group in attention.bench(rig, GPU, SHAPE, entrants, attention.Plan()))
    assert raises.refused == "failed: ValueError: no such tile"
    assert ours.refused is None


def test_a_mistake_in_rows_that_are_not_compared_shows_beside_a_right_kernel(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvperf.bench.operands.CHECKED_ELEMENTS", 0)
    monkeypatch.setattr("kvperf.bench.operands.CHECKED_ROWS", 2)
    own.write_text(OWN + "\n\ndef middle(q, k, v, out):\n    right(q, k, v, out)\n    out[0, 2] = 0.5\n")
    rig = Standin(GPU)
    entrants, _ = field_of(rig, SHAPE, ["split_kv", f"{own}:middle"], (), ALL)
    ours, middle = (group[0] for group in attention.bench(rig, GPU, SHAPE, entrants, attention.Plan()))
    assert ours.refused is None
    assert middle.refused and middle.refused.startswith("wrong result")


def test_one_name_twice_is_refused() -> None:
    with pytest.raises(KvperfError, match="split_kv is named twice"):
        field_of(Standin(GPU), SHAPE, ["split_kv", "split_kv"], (), ALL)


def test_bf16_is_not_given_to_numpy(own: Path) -> None:
    import msgspec

    with pytest.raises(KvperfError, match="NumPy has no bf16"):
        field_of(Standin(GPU), msgspec.structs.replace(SHAPE, dtype="bf16"), [f"{own}:right"], (), ALL)


def test_check_only_times_nothing(own: Path) -> None:
    rig = Metronome(at_rate(1e12, 1 << 20))
    (cases,) = attention.bench(rig, GPU, SHAPE, [_right(rig, own)], attention.Plan(check_only=True))
    assert cases[0].refused is None and cases[0].error is not None and cases[0].statistics is None
    assert rig.sampled == []
