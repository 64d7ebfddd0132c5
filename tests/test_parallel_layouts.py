"""What the ranks of a layout own and compute: over all of them the whole, and by name what is there more than once.

The references are written from the layouts' definitions (which rank holds which rows, columns, heads, experts, tokens)
and from the models' shapes; nothing of them asks kvperf how it divides.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

import kvperf
from kvperf.capacity import kv_cache_bytes, resident_by_stage
from kvperf.cli import run
from kvperf.errors import KvperfError
from kvperf.evaluation import step
from kvperf.hardware import load_gpu
from kvperf.layout import Parallelism, micro_batch, one_rank, shared
from kvperf.model import load_model
from kvperf.model.architecture import Dense, Experts, Ffn, GroupedQuery, Latent, Mamba2, Mixer, Model, NoFfn, NoMixer
from kvperf.replication import replicated
from kvperf.workload import Requests, Span, Workload, visible_pairs

MODELS = (
    "llama-3.1-70b",
    "qwen3-32b",
    "deepseek-v3",
    "gpt-oss-120b",
    "mixtral-8x7b",
    "gemma-3-12b",
    "nemotron-h-56b",
)
H200 = load_gpu("h200")


B, S = 96, 8192  # divisible by every number of groups, context ranks, windows and pages below
DECODE = Workload("decode", (Requests(B, S, 1),), weight_dtype="bf16", kv_dtype="bf16")
PROMPT = Workload("prefill", (Requests(B, S, S),), weight_dtype="bf16", kv_dtype="bf16")

Layouts = tuple[Parallelism, ...]
DENSE: Layouts = (
    Parallelism(tp=2),
    Parallelism(tp=8),
    Parallelism(tp=16),
    Parallelism(pp=3),
    Parallelism(attention_dp=4),
    Parallelism(cp=2),
    Parallelism(cp=4, tp=2),
    Parallelism(cp=2, tp=4, context="ulysses"),
    Parallelism(tp=2, pp=2, attention_dp=2, cp=2),
)
ROUTED: Layouts = (
    Parallelism(tp=8, ep=4),
    Parallelism(attention_dp=8, ep=8),
    Parallelism(attention_dp=8, ep=2),
    Parallelism(tp=2, attention_dp=4, ep=8),
    Parallelism(tp=2, pp=2, cp=2, attention_dp=2, ep=4),
    Parallelism(attention_dp=8, ep=8, redundant_experts=8),
)


def layouts_of(name: str) -> Layouts:
    """Those that the model's sizes allow, by what its config says: gemma has 16 query heads, mixtral 8 experts."""
    routed = any(isinstance(ffn, Experts) for ffn in load_model(name).ffns.values())
    return (*DENSE, *(ROUTED if routed else ()))


def named(spread: Parallelism) -> str:
    changed = {key: value for key in spread.__struct_fields__ if (value := getattr(spread, key)) not in (1, "ring")}
    return ",".join(f"{k}={v}" for k, v in changed.items() if v not in (None, False, 0))


CASES = [pytest.param(name, spread, id=f"{name}:{named(spread)}") for name in MODELS for spread in layouts_of(name)]

Held = dict[str, float]  # values of a stage's weights × how many ranks of a pipeline stage hold each


def _add(to: Held, name: str, values: float, copies: float) -> None:
    to[name] = to.get(name, 0) + values * copies


def mixer_weights(mixer: Mixer, d: int, spread: Parallelism | None) -> Held:
    """Values over all ranks of a stage (None: on one GPU): by heads over tp, the rest on every rank."""
    held: Held = {}
    t = spread.tp if spread else 1
    again = spread.cp * spread.attention_dp if spread else 1  # ranks with attention weights of their own
    if isinstance(mixer, GroupedQuery):
        H, K, D, Dv = mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.v_head_dim or mixer.head_dim
        bias = int(mixer.qkv_bias)
        _add(held, "qkv_projection", H * D * (d + bias), again)
        _add(held, "qkv_projection", K * (D + Dv) * (d + bias), again * max(1, t / K))
        _add(held, "output_projection", H * Dv * d, again)
        _add(held, "output_projection", d * mixer.output_bias, again * t)
        if mixer.qk_norm == "head":
            _add(held, "qk_norm", 2 * D, again * t)
        swaps = spread is not None and spread.context == "ulysses"  # a rank needs the sinks of its own heads
        _add(held, "attention", H * mixer.sinks, again / (spread.cp if spread and swaps else 1))
    elif isinstance(mixer, Latent):
        H, r, rope = mixer.heads, mixer.kv_lora_rank, mixer.rope_head_dim
        q, nope, Dv = mixer.q_lora_rank or 0, mixer.nope_head_dim, mixer.v_head_dim
        _add(held, "query_down", d * q + q, again * t)
        _add(held, "query_up", q * H * (nope + rope), again)
        _add(held, "kv_down", d * (r + rope), again * t)
        _add(held, "kv_update", r, again * t)  # the latent's norm
        # Ranks that have swapped tokens for heads absorb their own heads alone.
        alone = again / (spread.cp if spread and spread.context == "ulysses" else 1)
        _add(held, "absorb_query", r * H * nope, alone)
        _add(held, "absorb_value", r * H * Dv, alone)
        _add(held, "output_projection", H * Dv * d, again)
    elif isinstance(mixer, Mamba2):
        inner, shared_state = mixer.heads * mixer.head_dim, 2 * mixer.groups * mixer.state_size
        groups = again * (t if mixer.groups % t else 1)
        taps = mixer.conv_kernel + int(mixer.conv_bias)
        _add(held, "qkv_projection", d * (2 * inner + mixer.heads), again)
        _add(held, "qkv_projection", d * shared_state, groups)
        _add(held, "state_space", inner * taps + 3 * mixer.heads + inner, again)
        _add(held, "state_space", shared_state * taps, groups)
        _add(held, "output_projection", inner * d, again)
    else:
        assert isinstance(mixer, NoMixer)
    return held


def ffn_weights(ffn: Ffn, d: int, spread: Parallelism | None) -> Held:
    held: Held = {}
    t = spread.tp if spread else 1
    again = spread.cp * spread.attention_dp if spread else 1
    ranks = t * again
    if isinstance(ffn, Dense):
        inner = 2 if ffn.gated else 1
        _add(held, "mlp", (inner + 1) * d * ffn.intermediate + inner * ffn.intermediate * ffn.bias, again)
        _add(held, "mlp", d * ffn.bias, ranks)
    elif isinstance(ffn, Experts):
        assert ffn.latent is None and ffn.dense is None and not ffn.router_scales
        inner, wide = 2 if ffn.gated else 1, ffn.intermediate
        stored = ffn.experts + (spread.redundant_experts if spread else 0)
        slices = ranks // spread.ep if spread else 1  # ranks with a slice of the same expert
        _add(held, "moe_router", ffn.experts * (d + ffn.router_bias + ffn.score_bias), ranks)
        _add(held, "moe_experts", stored * ((inner + 1) * d * wide + inner * wide * ffn.expert_bias), 1)
        _add(held, "moe_experts", stored * d * ffn.expert_bias, slices)  # added to the sum of the slices
        _add(held, "shared_experts", (inner + 1) * d * ffn.shared_intermediate, again)
    else:
        assert isinstance(ffn, NoFfn)
    return held


def by_hand(model: Model, spread: Parallelism | None) -> Held:
    """Bytes of weights in bf16 over all ranks, by stage. The learned norm of a layer stands before what it feeds."""
    held: Held = {}
    d, ranks = model.hidden_size, spread.stage_gpus if spread else 1
    for layer in model.layer_sequence():
        mixer, ffn = model.mixers[layer.mixer], model.ffns[layer.ffn]
        for part in (mixer_weights(mixer, d, spread), ffn_weights(ffn, d, spread)):
            for name, values in part.items():
                _add(held, name, values, 1)
        alone = isinstance(mixer, NoMixer) or isinstance(ffn, NoFfn)
        if not isinstance(mixer, NoMixer):
            _add(held, "attention_norm", d * (layer.norms if alone else layer.norms // 2), ranks)
        if not isinstance(ffn, NoFfn):
            _add(held, "mlp_norm", d * (layer.norms if alone else layer.norms // 2), ranks)
    _add(held, "final_norm", d, ranks)
    t = spread.tp if spread else 1
    again = spread.cp * spread.attention_dp if spread else 1
    table = -(-model.vocab_size // t) * t * d  # rows padded to the ranks
    _add(held, "lm_head", table, again)
    if not model.tied_embeddings or (spread and spread.pp > 1):
        _add(held, "embedding", table, again)
    return {name: 2 * values for name, values in held.items() if values}


@pytest.mark.parametrize(("name", "spread"), CASES)
def test_weights_of_all_ranks_are_the_whole_and_the_replicated_parts(name: str, spread: Parallelism) -> None:
    model = load_model(name)
    whole = step(H200, model, DECODE, spread)
    assert len(whole.ranks) == spread.pp
    held: Held = {}
    for rank in whole.ranks:
        for stage, found in resident_by_stage(model, rank.layout, rank.stages).items():
            _add(held, stage, found, spread.stage_gpus)
    expected, alone = by_hand(model, spread), by_hand(model, None)
    assert {k: v for k, v in held.items() if v} == pytest.approx(expected, rel=1e-12)
    extra = {k: v - alone.get(k, 0) for k, v in expected.items() if v != alone.get(k, 0)}
    listed = {r.name: r.bytes for r in replicated(model, whole, DECODE) if r.kind == "weights"}
    # What is smaller than the last bits of the sum need not be listed.
    small = {k: v for k, v in extra.items() if v <= 1e-9 * sum(alone.values())}
    assert set(extra) - set(small) <= set(listed) <= set(extra)
    assert listed == pytest.approx({k: extra[k] for k in listed}, rel=1e-6, abs=1e-9 * sum(alone.values()))
    assert all(found > 0 for found in listed.values())
    assert sum(held.values()) == pytest.approx(sum(alone.values()) + sum(extra.values()), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "spread", "names"),
    [
        ("llama-3.1-70b", Parallelism(tp=8), {"attention_norm", "mlp_norm", "final_norm"}),
        ("llama-3.1-70b", Parallelism(tp=16), {"attention_norm", "mlp_norm", "final_norm", "qkv_projection"}),
        ("qwen3-32b", Parallelism(tp=8), {"attention_norm", "mlp_norm", "final_norm", "qk_norm"}),
        (
            "deepseek-v3",
            Parallelism(tp=8),
            {"attention_norm", "mlp_norm", "final_norm", "query_down", "kv_down", "kv_update", "moe_router"},
        ),
        (
            "mixtral-8x7b",
            Parallelism(attention_dp=8, ep=8),
            {
                *("embedding", "attention_norm", "qkv_projection", "output_projection", "mlp_norm", "moe_router"),
                *("final_norm", "lm_head"),
            },
        ),
        ("llama-3.1-70b", Parallelism(pp=2), set()),
        ("gemma-3-12b", Parallelism(pp=2), {"embedding"}),  # tied: the first stage and the last have the table
        (
            "llama-3.1-70b",
            Parallelism(cp=2),
            {
                *("embedding", "attention_norm", "qkv_projection", "output_projection", "mlp_norm", "mlp"),
                *("final_norm", "lm_head"),
            },
        ),
    ],
)
def test_the_names_of_what_is_replicated(name: str, spread: Parallelism, names: set[str]) -> None:
    model = load_model(name)
    listed = replicated(model, step(H200, model, DECODE, spread), DECODE)
    assert {r.name for r in listed if r.kind == "weights"} == names


def test_one_gpu_replicates_nothing() -> None:
    model = load_model("deepseek-v3")
    assert replicated(model, step(H200, model, DECODE), DECODE) == ()


def cached_by_hand(model: Model, spread: Parallelism | None) -> Held:
    """Bytes of keys, latents and states over all ranks: pages of 16 divide S and every window here."""
    held: Held = {}
    t, c = (spread.tp, spread.cp) if spread else (1, 1)
    swaps = spread is not None and spread.context == "ulysses"
    for layer in model.layer_sequence():
        mixer = model.mixers[layer.mixer]
        if isinstance(mixer, GroupedQuery):
            K, D, Dv = mixer.kv_heads, mixer.head_dim, mixer.v_head_dim or mixer.head_dim
            heads_over = t * c if swaps else t
            _add(held, "kv_heads", 2 * B * min(S, mixer.window or S) * K * (D + Dv), max(1, heads_over / K))
        elif isinstance(mixer, Latent):
            _add(held, "latent", 2 * B * S * (mixer.kv_lora_rank + mixer.rope_head_dim), t * (c if swaps else 1))
        elif isinstance(mixer, Mamba2):
            inner, groups = mixer.heads * mixer.head_dim, 2 * mixer.groups * mixer.state_size
            tail = 2 * (mixer.conv_kernel - 1)
            _add(held, "states", B * (4 * inner * mixer.state_size + tail * inner), 1)
            _add(held, "states", B * tail * groups, t if mixer.groups % t else 1)
    return held


def cache_over_ranks(model: Model, spread: Parallelism, workload: Workload) -> float:
    whole = step(H200, model, workload, spread)
    return sum(spread.stage_gpus * kv_cache_bytes(rank.layout, workload) for rank in whole.ranks)


@pytest.mark.parametrize(("name", "spread"), CASES)
def test_the_cache_of_all_ranks_is_the_whole_and_the_replicated_parts(name: str, spread: Parallelism) -> None:
    model = load_model(name)
    alone, expected = cached_by_hand(model, None), cached_by_hand(model, spread)
    assert cache_over_ranks(model, spread, DECODE) == pytest.approx(sum(expected.values()), rel=1e-12)
    listed = {r.name: r.bytes for r in replicated(model, step(H200, model, DECODE, spread), DECODE) if r.kind == "kv"}
    extra = {k: v - alone[k] for k, v in expected.items() if v != alone[k]}
    assert listed == pytest.approx(extra, rel=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_heads_that_are_swapped_keep_all_tokens_of_their_share(name: str) -> None:
    """Ulysses: a rank has 1/c of the KV heads of every token, or 1/c of a latent's readers, who need all of it."""
    model, spread = load_model(name), Parallelism(cp=2, context="ulysses")
    expected = cached_by_hand(model, spread)
    assert cache_over_ranks(model, spread, DECODE) == pytest.approx(sum(expected.values()), rel=1e-12)


@pytest.mark.parametrize("name", ["gemma-3-12b", "gpt-oss-120b"])
def test_windows_after_a_prompt_are_shared_out_as_in_decode(name: str) -> None:
    model, spread = load_model(name), Parallelism(cp=4)
    assert cache_over_ranks(model, spread, PROMPT) == pytest.approx(cache_over_ranks(model, spread, DECODE), rel=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "llama-3.1-70b",
        pytest.param("gemma-3-12b"),
    ],
)
def test_a_chunk_of_a_prompt_must_read_its_past_once_over_all_ranks(name: str) -> None:
    """Each rank has its c-th part of the past, of a window's too; the rest arrives over links."""
    model = load_model(name)
    chunk = Workload("chunk", (Requests(4, S, 512),), kv_dtype="bf16")
    alone = work_over_ranks(model, chunk, Parallelism(), "attention", "compulsory_bytes")
    assert work_over_ranks(model, chunk, Parallelism(cp=2), "attention", "compulsory_bytes") == pytest.approx(alone)


# What attention and the experts compute.


def work_over_ranks(model: Model, workload: Workload, spread: Parallelism, name: str, figure: str) -> float:
    whole = step(H200, model, workload, spread)
    found = 0.0
    for rank in whole.ranks:
        for stage in rank.stages:
            if stage.name == name:
                found += spread.stage_gpus * whole.micro_batches * getattr(stage.work, figure)
    return found


@pytest.mark.parametrize(("name", "spread"), CASES)
def test_all_ranks_together_attend_as_much_as_one_gpu(name: str, spread: Parallelism) -> None:
    model = load_model(name)
    alone = work_over_ranks(model, DECODE, Parallelism(), "attention", "matrix_flops")
    assert work_over_ranks(model, DECODE, spread, "attention", "matrix_flops") == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize(("name", "spread"), CASES)
def test_all_ranks_together_read_the_cache_once_for_each_copy(name: str, spread: Parallelism) -> None:
    model = load_model(name)
    mixers = [m for m in model.mixers.values() if isinstance(m, GroupedQuery | Latent)]
    heads = {m.kv_heads if isinstance(m, GroupedQuery) else 1 for m in mixers}
    assert len(heads) == 1
    over = spread.tp * (spread.cp if spread.context == "ulysses" else 1)
    copies, m = max(1, over / heads.pop()), min(spread.pp, B)  # micro-batches read their own sequences' entries
    assert m == step(H200, model, DECODE, spread).micro_batches
    alone = work_over_ranks(model, DECODE, Parallelism(), "attention", "kv_read_bytes")
    found = work_over_ranks(model, DECODE, spread, "attention", "kv_read_bytes")
    assert found == pytest.approx(copies * alone, rel=1e-12)


@pytest.mark.parametrize("name", ["deepseek-v3", "gpt-oss-120b", "mixtral-8x7b"])
@pytest.mark.parametrize("workload", [DECODE, PROMPT], ids=["decode", "prompt"])
def test_all_ranks_together_run_every_token_through_its_experts_once(name: str, workload: Workload) -> None:
    model = load_model(name)
    ffns = [model.ffns[layer.ffn] for layer in model.layer_sequence()]
    by_token = sum(
        2 * (3 if f.gated else 2) * f.top_k * model.hidden_size * f.intermediate for f in ffns if isinstance(f, Experts)
    )
    for spread in (Parallelism(), *layouts_of(name)):
        found = work_over_ranks(model, workload, spread, "moe_experts", "matrix_flops")
        assert found == pytest.approx(by_token * workload.tokens, rel=1e-12), named(spread)


# Context parallelism, by a mask written out.


def seen(position: int, span: Span) -> int:
    """Entries that the token at a position (from 1) attends to."""
    if span.chunk is not None:
        return (position - 1) % span.chunk + 1
    return min(position, span.window or position)


def zigzag(past: int, new: int, ranks: int) -> list[list[int]]:
    """Positions of each rank's tokens: the prompt in 2c pieces, a rank has the r-th and the r-th from the end."""
    piece = new // (2 * ranks)
    pieces = [list(range(past + i * piece + 1, past + (i + 1) * piece + 1)) for i in range(2 * ranks)]
    return [pieces[rank] + pieces[2 * ranks - 1 - rank] for rank in range(ranks)]


def pairs_of_a_rank(past: int, new: int, ranks: int, span: Span, phase: Any) -> int:
    whole = Workload(phase, (Requests(1, past + new, new),))
    share = shared(whole, Parallelism(cp=ranks))
    return share.attention.visible_pairs(span)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("past", [0, 96, 1000])
def test_a_causal_mask_cut_zigzag_gives_every_rank_the_same_pairs(ranks: int, past: int) -> None:
    new = 48 * ranks
    cut = [sum(seen(p, Span()) for p in positions) for positions in zigzag(past, new, ranks)]
    assert sum(cut) == visible_pairs(past + new, new) == sum(range(past + 1, past + new + 1))
    assert set(cut) == {pairs_of_a_rank(past, new, ranks, Span(), "chunk" if past else "prefill")}


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("window", [1, 7, 40, 100, 10_000])
def test_under_a_window_the_rank_with_the_middle_of_the_prompt_is_the_busiest(ranks: int, window: int) -> None:
    new, span = 48 * ranks, Span(window=window)
    cut = [sum(seen(p, span) for p in positions) for positions in zigzag(0, new, ranks)]
    assert pairs_of_a_rank(0, new, ranks, span, "prefill") == max(cut) == cut[-1]


def test_inside_chunks_all_ranks_together_attend_as_much_as_one_gpu() -> None:
    new, ranks, span = 2 * 8192 + 2000, 4, Span(chunk=8192)
    cut = [sum(seen(p, span) for p in positions) for positions in zigzag(0, new, ranks)]
    assert sum(cut) == visible_pairs(new, new, span)
    assert max(cut) >= pairs_of_a_rank(0, new, ranks, span, "prefill") >= sum(cut) / ranks


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("window", [None, 64, 128])
def test_in_decode_a_ring_deals_the_entries_out_one_by_one(ranks: int, window: int | None) -> None:
    """Rank r has the entries r, r + c, … of every sequence; each query meets all of them on its way round."""
    model = _windowed(window)
    contexts = (96, 256, 1000, 4096)
    whole = Workload("decode", tuple(Requests(3, context, 1) for context in contexts))
    spread = Parallelism(cp=ranks)
    attends = one_rank(model, whole, spread).kinds[0].attention.mixer
    share = shared(whole, spread)
    assert isinstance(attends, GroupedQuery)
    met = [0] * ranks
    for context in contexts:
        for entry in range(max(1, context - (window or context) + 1), context + 1):
            met[entry % ranks] += 3
    assert sum(met) == whole.visible_pairs(Span(window=window))
    assert share.attention.visible_pairs(Span(window=attends.window)) == max(met)
    assert share.attention.tokens == whole.tokens  # every query goes everywhere
    assert share.tokens.tokens == -(-whole.tokens // ranks)


def _windowed(window: int | None) -> Model:
    model = load_model("llama-3.1-8b")
    mixer = GroupedQuery(heads=32, kv_heads=8, head_dim=128, window=window)
    return msgspec.structs.replace(model, mixers=dict.fromkeys(model.mixers, mixer))


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize(("tp", "cp"), [(1, 2), (2, 4), (4, 4), (1, 8)])
def test_swapped_heads_see_every_token(phase: Any, tp: int, cp: int) -> None:
    model = load_model("llama-3.1-70b")  # 64 heads, 8 KV heads
    workload = Workload(phase, (Requests(8, 4096, 1 if phase == "decode" else 4096),))
    spread = Parallelism(tp=tp, cp=cp, context="ulysses")
    owned, share = one_rank(model, workload, spread).kinds[0], shared(workload, spread)
    mixer, projected = owned.attention.mixer, owned.shard.mixer
    assert isinstance(mixer, GroupedQuery) and isinstance(projected, GroupedQuery)
    assert share.attention.requests == workload.requests
    assert (mixer.heads, mixer.kv_heads) == (64 // (tp * cp), max(1, 8 // (tp * cp)))
    assert (projected.heads, projected.kv_heads) == (64 // tp, 8 // tp)  # projections: all heads of fewer tokens
    assert share.tokens.tokens * cp == workload.tokens


def test_a_chunk_beside_decode_is_attended_once_under_context_parallelism() -> None:
    model = load_model("llama-3.1-8b")
    mixed = Workload("mixed", (Requests(4, 4096, 1), Requests(1, 2048, 2048)))
    alone = work_over_ranks(model, mixed, Parallelism(), "attention", "matrix_flops")
    assert work_over_ranks(model, mixed, Parallelism(cp=4), "attention", "matrix_flops") == pytest.approx(alone, 0.01)


def test_a_latent_that_is_expanded_for_its_heads_is_expanded_once() -> None:
    """Ulysses: a rank has H/c heads of all tokens, so it expands all latents for these alone."""
    model = load_model("deepseek-v3")
    prompt = Workload("prefill", (Requests(1, 4096, 4096),))
    for stage in ("absorb_query", "absorb_value"):
        alone = work_over_ranks(model, prompt, Parallelism(), stage, "matrix_flops")
        spread = Parallelism(cp=2, context="ulysses")
        assert work_over_ranks(model, prompt, spread, stage, "matrix_flops") == pytest.approx(alone)


@pytest.mark.parametrize("degree", ["cp", "pp", "ep", "attention_dp"])
def test_attention_alone_is_sliced_by_heads_only(degree: str) -> None:
    one, two = (kvperf.analyze(heads=32, seq=4096, stack="none", tp=tp).step for tp in (1, 2))
    assert 2 * two.matrix_flops == one.matrix_flops
    with pytest.raises(KvperfError, match="beside --heads"):
        kvperf.analyze(heads=32, **{degree: 2})  # type: ignore[arg-type]


# Sequences dealt out to attention groups.


def hands(contexts: Sequence[int], groups: int) -> list[list[int]]:
    """The longest first, one after the other to group 0, 1, …"""
    dealt: list[list[int]] = [[] for _ in range(groups)]
    for place, context in enumerate(sorted(contexts, reverse=True)):
        dealt[place % groups].append(context)
    return dealt


def ragged(seed: int) -> tuple[list[int], tuple[Requests, ...]]:
    """A batch with some contexts several times, and its groups of requests in any order."""
    draw = random.Random(seed)
    lengths = [draw.choice((128, 500, 512, 4096, draw.randint(1, 9000))) for _ in range(draw.randint(1, 40))]
    counted = {length: lengths.count(length) for length in lengths}
    return lengths, tuple(Requests(count, length, 1) for length, count in counted.items())


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("groups", [2, 3, 8])
def test_a_ragged_batch_is_dealt_out_by_length(seed: int, groups: int) -> None:
    lengths, requests = ragged(seed)
    workload = Workload("decode", requests)
    share = shared(workload, Parallelism(attention_dp=groups))
    dealt = hands(lengths, groups)
    mine = sorted((r.context_tokens for r in share.tokens.requests for _ in range(r.count)), reverse=True)
    assert mine == dealt[0]
    # It is the busiest, whatever is counted, and no sequence is lost.
    assert sorted(itertools.chain(*dealt)) == sorted(lengths)
    assert share.attention.visible_pairs() == sum(mine) == max(sum(hand) for hand in dealt)
    assert len(mine) == max(len(hand) for hand in dealt) == -(-len(lengths) // groups)
    # Every group's experts serve all.
    assert share.tokens.expert_tokens == len(lengths)
    part = micro_batch(workload, groups)
    assert sorted((r.context_tokens for r in part.requests for _ in range(r.count)), reverse=True) == dealt[0]


@pytest.mark.parametrize("decoding", [pytest.param(31), 32])
def test_the_group_with_the_prompt_chunk_is_the_busiest(decoding: int) -> None:
    mixed = Workload("mixed", (Requests(decoding, 4096, 1), Requests(1, 512, 512)))
    share = shared(mixed, Parallelism(attention_dp=8))
    assert share.tokens.tokens >= 512


# One rank against more.

UNIFORM = ("llama-3.1-70b", "qwen3-32b", "deepseek-v3", "gpt-oss-120b", "mixtral-8x7b")


@pytest.mark.parametrize("name", UNIFORM)
def test_more_tensor_ranks_never_read_more(name: str) -> None:
    model = load_model(name)
    mixer = next(iter(model.mixers.values()))
    heads = mixer.kv_heads if isinstance(mixer, GroupedQuery) else 1
    degrees = [t for t in (1, 2, 4, 8, 16, 32, 64) if mixer.heads % t == 0]  # type: ignore[union-attr]
    routed = any(isinstance(ffn, Experts) for ffn in model.ffns.values())
    spreads = {t: Parallelism(tp=t, ep=min(t, 8) if routed else 1) for t in degrees}
    busiest = {t: step(H200, model, DECODE, spread).busiest.work for t, spread in spreads.items()}
    for fewer, more in itertools.pairwise(degrees):
        assert busiest[more].weight_bytes < busiest[fewer].weight_bytes
        for figure in ("kv_read_bytes", "kv_write_bytes"):
            assert getattr(busiest[more], figure) <= getattr(busiest[fewer], figure)
    for t in degrees:
        assert busiest[t].kv_read_bytes == pytest.approx(busiest[1].kv_read_bytes / min(t, heads), rel=1e-12)
    assert degrees[-1] > heads  # where it has stopped falling


ONES = ["--tp", "1", "--pp", "1", "--cp", "1", "--ep", "1", "--attention-dp", "1"]


@pytest.mark.parametrize("model", ["llama-3.1-8b", "deepseek-v3", "nemotron-h-56b"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_degrees_of_one_change_no_byte_of_the_record(
    model: str, phase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["analyze", "--gpu", "h200", "--model", model, "--phase", phase, "--format", "json"]
    printed = []
    for more in ([], ONES):
        code = run([*asked, *more])
        printed.append((code, *capsys.readouterr()))
    assert printed[0] == printed[1]
    assert printed[0][0] == (1 if model == "deepseek-v3" else 0)  # its weights do not fit one GPU
    assert json.loads(printed[0][1])["step"]["link_bytes"] == 0
    record = kvperf.analyze("h200", model, phase=phase, tp=1, pp=1, cp=1, ep=1, attention_dp=1)  # type: ignore[arg-type]
    assert [s.name for s in record.stages if s.link_bytes] == []
    assert (record.step.link_bytes, record.step.network_bytes, record.step.resources.link_s) == (0, 0, 0)
    assert (record.replicated, record.memory.collective_buffer_bytes) == ((), 0)
