"""What a rank of a tensor-parallel layout owns: the whole, divided, and what is replicated, by name."""

from __future__ import annotations

from typing import Any

import pytest

import kvperf
from kvperf.errors import KvperfError
from kvperf.layout import Parallelism, one_rank
from kvperf.model import load_model, model_names
from kvperf.model.architecture import Compressed, Dense, Experts, GroupedQuery, Latent, Mamba2
from kvperf.pipeline import Part, StageWork, pipeline
from kvperf.workload import Requests, Workload

STEP = Workload("decode", (Requests(10**6, 4096, 1),), weight_dtype="bf16")


def stages_of(name: str, tp: int) -> dict[str, StageWork]:
    return {stage.name: stage for stage in pipeline(one_rank(load_model(name), STEP, Parallelism(tp=tp)), STEP)}


# Stages whose weights every rank holds whole.
WHOLE = {
    "attention_norm": "norms over the hidden size",
    "mlp_norm": "norms over the hidden size",
    "final_norm": "norms over the hidden size",
    "hyper_connection": "mixing of the residual streams",
    "query_down": "the query's down-projection (MLA)",
    "kv_down": "the latent's down-projection (MLA)",
    "kv_update": "norm or pooling of the latent",
    "indexer": "the indexer",
    "moe_router": "the router",
}


def replicated_values(name: str, one: Part, tp: int, vocab_size: int) -> float:
    """Weights of a stage that `tp` ranks hold more than once, in one layer: Σ over ranks − the whole."""
    mixer, ffn, d = one.shard.mixer, one.shard.ffn, one.shard.hidden_size
    again = tp - 1
    if name in WHOLE:
        divided = mixer.heads if name == "kv_down" and isinstance(mixer, Compressed) else 0  # sinks go with the heads
        return again * (one.work.weight_bytes / one.layers / 2 - divided)
    if name == "qk_norm" and isinstance(mixer, GroupedQuery):
        return again * 2 * mixer.head_dim if mixer.qk_norm == "head" else 0
    if name == "qkv_projection" and isinstance(mixer, GroupedQuery):
        copies = max(tp, mixer.kv_heads) - mixer.kv_heads
        values = 0 if mixer.shared_kv_projection else mixer.value_dim
        return copies * (mixer.head_dim + values) * (d + mixer.qkv_bias)
    if name == "qkv_projection" and isinstance(mixer, Mamba2) and mixer.groups % tp:
        return again * 2 * mixer.groups * mixer.state_size * d
    if name == "state_space" and isinstance(mixer, Mamba2) and mixer.groups % tp:
        return again * 2 * mixer.groups * mixer.state_size * (mixer.conv_kernel + mixer.conv_bias)
    if name == "output_projection" and isinstance(mixer, GroupedQuery):
        return again * d * mixer.output_bias
    if name == "linear_attention":
        return again * getattr(mixer, "v_head_dim", 0)
    if name == "mlp":
        dense = ffn.dense if isinstance(ffn, Experts) else ffn
        return again * d * dense.bias if isinstance(dense, Dense) else 0
    if name == "moe_experts" and isinstance(ffn, Experts):
        z = ffn.latent or d
        return again * (ffn.experts * z * ffn.expert_bias + (2 * d * z if ffn.latent else 0))
    if name == "shared_experts" and isinstance(ffn, Experts):
        return again * (d * ffn.shared_gate + d * ffn.expert_bias)
    if name == "lm_head":
        return (-(-vocab_size // tp) * tp - vocab_size) * (d + one.shard.lm_head_bias)
    return 0


def divides(name: str, tp: int) -> bool:
    try:
        one_rank(load_model(name), STEP, Parallelism(tp=tp))
    except KvperfError:
        return False
    return True


@pytest.mark.parametrize("tp", [2, 4, 8, 16])
def test_all_ranks_hold_the_whole_and_the_parts_replicated_by_name(tp: int) -> None:
    checked = 0
    for name in filter(lambda name: divides(name, tp), model_names()):
        model = load_model(name)
        whole, part = stages_of(name, 1), stages_of(name, tp)
        for stage, one in whole.items():
            extra = sum(replicated_values(stage, p, tp, model.vocab_size) * p.layers for p in one.parts)
            over_ranks = tp * part[stage].work.weight_bytes
            assert over_ranks == pytest.approx(one.work.weight_bytes + 2 * extra, rel=1e-12), (name, stage)
        checked += 1
    assert checked >= 20


@pytest.mark.parametrize("tp", [2, 4, 8, 16])
def test_kv_of_all_ranks_is_the_whole_times_its_replicas(tp: int) -> None:
    for name in filter(lambda name: divides(name, tp), model_names()):
        whole, part = stages_of(name, 1), stages_of(name, tp)
        if "attention" not in whole:
            continue
        for one, split in zip(whole["attention"].parts, part["attention"].parts, strict=True):
            mixer = one.shard.mixer
            heads = mixer.kv_heads if isinstance(mixer, GroupedQuery) else 1
            assert tp * split.work.kv_read_bytes == pytest.approx(max(1, tp / heads) * one.work.kv_read_bytes), name


def test_latents_are_whole_on_every_rank() -> None:
    for name in ("deepseek-v3", "glm-5"):
        model = load_model(name)
        assert all(isinstance(mixer, Latent) for mixer in model.mixers.values())
        assert stages_of(name, 8)["attention"].work.kv_read_bytes == stages_of(name, 1)["attention"].work.kv_read_bytes


@pytest.mark.parametrize(
    ("model", "tp", "message"),
    [
        ("llama-3.1-8b", 3, "does not divide the 32 query heads"),
        ("qwen2.5-7b", 14, "nor is a multiple of them"),
        ("llama-3.1-8b", 0, "is not a number of GPUs"),
        ("qwen3-next-80b-a3b", 32, "does not divide"),
    ],
)
def test_a_degree_that_does_not_divide_is_refused(model: str, tp: int, message: str) -> None:
    with pytest.raises(KvperfError, match=message):
        kvperf.analyze(model=model, tp=tp)


def test_the_bound_of_a_sharded_70b_is_near_an_independent_one() -> None:
    """aiconfigurator 0.12.0, speed-of-light mode, Llama-3.1-70B, 4 H100, context 4096 (TPOT, ms). It adds up stages
    and collectives; the step's bound lets them overlap, so it is below, and not far."""
    for batch, floor_ms, independent_ms in ((1, 10.474, 10.490), (16, 11.976, 12.232), (64, 16.784, 17.807)):
        step = kvperf.analyze(gpu="h100", model="llama-3.1-70b", tp=4, batch=batch).step
        assert step.bound_s * 1e3 == pytest.approx(floor_ms, rel=1e-3)
        assert 0.94 * independent_ms < step.bound_s * 1e3 <= independent_ms


def test_collectives_are_stages_with_the_bytes_that_leave_a_gpu() -> None:
    batch, hidden, layers = 16, 4096, 32
    record = kvperf.analyze(tp=2, batch=batch, stack="none")
    found: dict[str, Any] = {stage.name: stage for stage in record.stages}
    assert record.warnings == ()
    reduced, gathered = found["all_reduce"], found["all_gather"]
    assert reduced.layers == 2 * layers + 1  # after mixer and FFN of every layer, and of the embedding
    assert reduced.link_bytes == 2 * batch * hidden * reduced.layers
    assert reduced.bound_by == "link"
    assert gathered.link_bytes == 8 * batch
    assert record.step.link_bytes == reduced.link_bytes + gathered.link_bytes


def test_one_gpu_has_no_collectives() -> None:
    record = kvperf.analyze()
    assert not {"all_reduce", "all_gather"} & {stage.name for stage in record.stages}
    assert (record.step.link_bytes, record.warnings) == (0, ())
