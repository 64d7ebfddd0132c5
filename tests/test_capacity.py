"""What fits: weights, KV, activations, reserve, and the largest batch and context."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvperf
from kvperf import api
from kvperf.capacity import RESERVE_BYTES, Memory, at_context, memory
from kvperf.layout import Parallelism, one_rank
from kvperf.model import load_model, model_names
from kvperf.model.architecture import Model
from kvperf.model.parameters import parameters
from kvperf.pipeline import pipeline
from kvperf.workload import Requests, Workload
from tests.references.checkpoint import checkpoint_bytes
from tests.strategies import models, recurrent

GIB = 2**30


def total(kept: Memory) -> float:
    return kept.resident_weight_bytes + kept.kv_cache_bytes + kept.activation_peak_bytes + kept.reserve_bytes


@pytest.mark.parametrize("name", model_names())
def test_every_parameter_is_resident_once(name: str) -> None:
    kept = kvperf.analyze(gpu="h100", model=name, weight_dtype="bf16").memory
    assert kept.resident_weight_bytes == pytest.approx(2 * parameters(load_model(name)).total, rel=1e-13)


@pytest.mark.parametrize(
    ("model", "gib", "source"),
    [
        ("gpt-oss-120b", 60.8, "gpt-oss model card, table 1: checkpoint size"),
        ("llama-3.1-8b", 14.96, "8,030,261,248 parameters × 2 bytes"),
        ("deepseek-v3", 626.9, "671,026,419,200 parameters: fp8 with a scale for 128 × 128, tables and norms in bf16"),
    ],
)
def test_checkpoints_in_their_published_precision(model: str, gib: float, source: str) -> None:
    kept = kvperf.analyze(gpu="h100", model=model).memory
    assert kept.resident_weight_bytes / GIB == pytest.approx(gib, rel=2e-3)


@pytest.mark.parametrize("name", model_names())
def test_resident_weights_agree_with_a_count_module_by_module(name: str) -> None:
    kept = kvperf.analyze(gpu="h100", model=name).memory
    assert kept.resident_weight_bytes == pytest.approx(checkpoint_bytes(load_model(name)), rel=1e-12)


def test_kv_is_paged() -> None:
    page16 = kvperf.analyze(batch=3, seq=4097).memory
    assert page16.kv_cache_bytes == 3 * 4112 * 131072
    page1 = kvperf.analyze(batch=3, seq=4097, page_tokens=1).memory
    assert page1.kv_cache_bytes == 3 * 4097 * 131072


def test_windows_stop_growing() -> None:
    near = kvperf.analyze(model="gpt-oss-120b", seq=128).memory
    far = kvperf.analyze(model="gpt-oss-120b", seq=131072).memory
    per_layer = 2 * 8 * 64 * 2
    assert near.kv_cache_bytes == 36 * 128 * per_layer
    assert far.kv_cache_bytes == 18 * (128 + 131072) * per_layer


def test_deepseek_v4_keeps_what_its_paper_says() -> None:
    """9.62 GiB at a million tokens, 8.7 times less than V3.2 (with bf16 index keys): press pages of the release."""
    kept = kvperf.analyze(model="deepseek-v4-pro", seq=1 << 20, gpu="b300").memory
    assert kept.kv_cache_bytes / GIB == pytest.approx(9.62, rel=1e-3)
    before = 61 * (1152 + 256) * (1 << 20)
    assert before / kept.kv_cache_bytes == pytest.approx(8.7, rel=5e-3)


def test_recurrent_state_does_not_grow() -> None:
    short = kvperf.analyze(model="minimax-m1", seq=16).memory
    long = kvperf.analyze(model="minimax-m1", seq=16 + 1600).memory
    states = 70 * 64 * 128 * 128 * 4
    assert short.kv_cache_bytes == states + 10 * 16 * 2 * 8 * 128 * 2
    assert long.kv_cache_bytes - short.kv_cache_bytes == 10 * 1600 * 2 * 8 * 128 * 2


def test_the_budget_is_the_stated_one() -> None:
    """Capacity × 0.90 − weights − reserve, over KV and activations of a sequence."""
    kept = kvperf.analyze(gpu="h100", batch=8, seq=4096).memory
    assert kept.reserve_bytes == RESERVE_BYTES == 3.5 * GIB
    assert kept.capacity_bytes is not None
    left = kept.capacity_bytes * 0.9 - kept.resident_weight_bytes - kept.reserve_bytes
    assert kept.max_batch == left // ((kept.kv_cache_bytes + kept.activation_peak_bytes) / 8)


settings.register_profile("capacity", deadline=None, max_examples=15)
settings.load_profile("capacity")


@given(
    st.sampled_from(["llama-3.1-8b", "gpt-oss-120b", "deepseek-v3.2", "qwen3-next-80b-a3b", "gemma-3-12b"]),
    st.sampled_from(["h200", "b300", "mi325x"]),
    st.integers(1, 60_000),
)
def test_the_largest_batch_fits_and_one_more_does_not(model: str, gpu: str, seq: int) -> None:
    best = kvperf.analyze(gpu=gpu, model=model, seq=seq, weight_dtype="int4").memory.max_batch
    assert best is not None
    if best:
        assert kvperf.analyze(gpu=gpu, model=model, seq=seq, weight_dtype="int4", batch=int(best)).memory.fits
    over = kvperf.analyze(gpu=gpu, model=model, seq=seq, weight_dtype="int4", batch=int(best) + 1).memory
    assert not over.fits
    assert over.capacity_bytes is not None
    assert total(over) > over.capacity_bytes * 0.9


STEPS = st.sampled_from(
    [
        {"seq": 64},
        {"seq": 64, "phase": "prefill"},
        {"seq": 64, "phase": "prefill", "fusion": "eager"},
        {"seq": 4096, "phase": "chunk", "new_tokens": 512},
        {"seq": 64, "chunk_tokens": 512, "chunk_cached": 100},
        {"seq": 64, "phase": "verify", "new_tokens": 5},
        {"contexts": [64, 5000, 300]},
    ]
)


@given(
    st.sampled_from(["llama-3.1-8b", "gpt-oss-120b", "gemma-3-12b", "glm-4.5", "deepseek-v3.2", "deepseek-v4-flash"]),
    STEPS,
    st.sampled_from([1, 8]),
    st.integers(1, 64),
)
def test_the_largest_context_fits_and_one_page_more_does_not(
    model: str, step: dict[str, Any], tp: int, batch: int
) -> None:
    asked = step if "contexts" in step else {"batch": batch, **step}
    gpu, loaded, workload = api.prepare("b300", model, weight_dtype="int4", **asked)
    layout = one_rank(loaded, workload, Parallelism(tp=tp))

    def fits(context: int) -> bool | None:
        at = at_context(workload, context)
        return memory(loaded, layout, at, pipeline(layout, at), gpu.hbm_capacity_bytes).fits

    best = memory(loaded, layout, workload, pipeline(layout, workload), gpu.hbm_capacity_bytes).max_context_tokens
    assert best is not None
    if best:
        assert fits(best)
    assert not fits(max(best, max(r.new_tokens for r in workload.requests)) + 16)


@given(models(recurrent))
def test_a_model_without_a_cache_has_no_longest_context(model: Model) -> None:
    workload = Workload("decode", (Requests(1, 100, 1),))
    layout = one_rank(model, workload)
    assert memory(model, layout, workload, pipeline(layout, workload), 80 * GIB).max_context_tokens is None
