"""Sizes where a step changes are exact: one less is still what it was."""

from __future__ import annotations

from typing import Any

import pytest

import kvperf
from kvperf.crossings import ATTENTION, FFN, bound_of, filling, sweep
from kvperf.errors import KvperfError


def crossings(over: Any, **step: Any) -> dict[str, int]:
    return {crossing.what: crossing.at for crossing in sweep(over, **step).crossings}


def test_attention_overtakes_the_mlp_at_the_exact_batch() -> None:
    at = crossings("batch")["attention overtakes the MLP"]
    for batch, overtaken in ((at - 1, False), (at, True)):
        record = kvperf.analyze(batch=batch)
        assert (bound_of(record, ATTENTION) > bound_of(record, FFN)) is overtaken


def test_memory_runs_out_one_after_the_largest_batch() -> None:
    assert crossings("batch")["memory runs out"] == (kvperf.analyze().memory.max_batch or 0) + 1


def test_the_step_turns_compute_bound_at_the_exact_batch() -> None:
    at = crossings("batch", seq=256)["the step turns compute-bound"]
    assert kvperf.analyze(batch=at - 1, seq=256).step.bound_by == "hbm"
    assert kvperf.analyze(batch=at, seq=256).step.bound_by == "tensor"


def test_a_chunks_step_turns_memory_bound_in_the_words_of_the_other_figures() -> None:
    at = crossings("batch", phase="mixed", chunk_tokens=512)["the step turns memory-bound"]
    bound_by = [kvperf.analyze(batch=b, phase="mixed", chunk_tokens=512).step.bound_by for b in (at - 1, at)]
    assert bound_by == ["tensor", "hbm"]


def test_over_context_up_to_what_the_model_takes() -> None:
    found = sweep("seq", batch=16)
    assert (found.sizes[0], found.sizes[-1]) == (128, 131072)
    (full,) = [c.at for c in found.crossings if c.what == "memory runs out"]
    assert kvperf.analyze(batch=16, seq=full - 1).memory.fits
    assert not kvperf.analyze(batch=16, seq=full).memory.fits


def test_records_are_those_of_the_sizes() -> None:
    found = sweep("batch", model="gpt2", seq=512)
    assert [r.workload.batch for r in found.records] == list(found.sizes)
    assert found.records[2] == kvperf.analyze(model="gpt2", seq=512, batch=4)


@pytest.mark.parametrize("over", ["batch", "seq"])
def test_what_fills_memory_ends_with_what_does_not_fit(over: Any) -> None:
    found = filling(over)
    (largest,) = found.crossings
    one = kvperf.analyze(seq=1 if over == "seq" else None).memory
    assert largest.at == (one.max_batch if over == "batch" else one.max_context_tokens)
    fits = {size: r.memory.fits for size, r in zip(found.sizes, found.records, strict=True)}
    assert fits == {size: size <= largest.at for size in found.sizes}
    assert not fits[found.sizes[-1]] and len(found.sizes) <= 13


def test_a_model_that_never_fits() -> None:
    found = filling("seq", model="deepseek-v3")
    assert not found.crossings and not any(r.memory.fits for r in found.records)


def test_prefills_and_chunks_start_where_they_can() -> None:
    assert sweep("seq", phase="prefill", model="gpt2").sizes[0] == 1
    assert min(sweep("seq", phase="chunk", new_tokens=300, model="gpt2").sizes) == 512
    assert min(filling("seq", phase="chunk", new_tokens=300, model="gpt2").sizes) >= 300


@pytest.mark.parametrize("step", [{"batch": 4}, {"contexts": [1, 2]}])
def test_what_varies_cannot_be_given(step: dict[str, Any]) -> None:
    with pytest.raises(KvperfError, match="beside --over batch"):
        sweep("batch", **step)
