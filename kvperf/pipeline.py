"""The stages of one step, in order, with the work of each on one rank."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvperf.layers import Planned, StageFunction, ffn_stages, mixer_stages
from kvperf.layout import Layout, Owned, Shard, Share, shared
from kvperf.model.architecture import (
    Experts,
)
from kvperf.stages import attention as attend
from kvperf.stages import (
    collective,
    compressed,
    context,
    embedding,
    indexer,
    kv_update,
    latent,
    lm_head,
    norm,
)
from kvperf.stages import hyper_connection as hyper
from kvperf.stages import sampling as sample
from kvperf.work import Work
from kvperf.workload import Workload


class Part(msgspec.Struct, frozen=True):
    """One formula of a stage, for `layers` layers of one kind; `work` is that of all of them, `of_a_layer` of one.

    workload  the tokens that it is run on: the rank's share of the step's
    """

    formula: StageFunction
    shard: Shard
    workload: Workload
    layers: int
    of_a_layer: Work
    work: Work


class StageWork(msgspec.Struct, frozen=True):
    """A stage of the step: its work over all its layers, and the parts it is made of."""

    name: str
    layers: int
    work: Work
    parts: tuple[Part, ...]


def pipeline(layout: Layout, workload: Workload) -> tuple[StageWork, ...]:
    """Every stage of the step in execution order; layers of different kinds share a stage of one name.

    workload  of all ranks: each stage gets this rank's share of it
    """
    parts: dict[str, list[Part]] = {}
    share = shared(workload, layout.parallelism)
    for name, formula, shard, layers in _planned(layout, workload):
        mine = _tokens_of(formula, shard, share)
        work = formula(shard, mine)
        parts.setdefault(name, []).append(Part(formula, shard, mine, layers, work, work.times(layers)))
    return tuple(
        StageWork(name, sum(p.layers for p in same), total_work(tuple(p.work for p in same)), tuple(same))
        for name, same in sorted(parts.items(), key=lambda item: ORDER.index(item[0]))
    )


def total_work(works: tuple[Work, ...]) -> Work:
    """The sum of works, in written order."""
    summed = works[0]
    for work in works[1:]:
        summed = summed + work
    return summed


# The order of execution within a step; a model has those that its layers have.
ORDER = (
    "embedding",
    "position",
    "hyper_connection",
    "attention_norm",
    "qkv_projection",
    "query_down",
    "query_up",
    "kv_down",
    "qk_norm",
    "rope",
    "kv_update",
    "indexer",
    "absorb_query",
    "attention",
    "attention_combine",
    "linear_attention",
    "state_space",
    "absorb_value",
    "activation_quantise",
    "output_projection",
    "mlp_norm",
    "mlp",
    "moe_router",
    "moe_dispatch",
    "moe_experts",
    "shared_experts",
    "moe_combine",
    "all_reduce",
    "reduce_scatter",
    "all_to_all",
    "send_receive",
    "final_norm",
    "lm_head",
    "all_gather",
    "sampling",
)


# Stages of which every rank of a context group has other tokens than of the rest.
_OF_NORMS = (norm.input_norm, norm.attention_norm, norm.mlp_norm)
_OF_ATTENTION = (
    attend.attention,
    latent.latent_attention,
    compressed.compressed_attention,
    indexer.indexer,
    compressed.compressed_indexer,
)
_OF_THE_CACHE = (context.pass_keys,)
# Between the two swaps of tokens for heads and back, where ranks do so; else each rank's own tokens.
_SWAPPED = (
    kv_update.kv_update,
    compressed.compressed_kv_update,
    latent.absorb_query,
    latent.absorb_value,
)


def _attends(formula: StageFunction, shard: Shard) -> bool:
    return formula in _OF_ATTENTION or (shard.swaps_heads and formula in _SWAPPED)


def _tokens_of(formula: StageFunction, shard: Shard, share: Share) -> Workload:
    """The rank's share of the step's tokens as the stage needs it."""
    if _attends(formula, shard):
        return share.attention
    if formula in _OF_NORMS:
        return share.norms
    return share.cache if formula in _OF_THE_CACHE else share.tokens


def _planned(layout: Layout, workload: Workload) -> Iterator[tuple[str, StageFunction, Shard, int]]:
    if workload.scope == "attention":
        yield "attention", attend.attention_alone, layout.first, 1
        return
    ends = layout.ends
    if layout.has_embedding:
        yield from _embedding(ends)
    for owned in layout.kinds:
        for name, formula, shard in _layer(owned, workload):
            if name == "attention_norm" and owned.shard is layout.first and layout.has_embedding:
                yield name, norm.input_norm, shard, 1
                if owned.layers > 1:
                    yield name, formula, shard, owned.layers - 1
            else:
                yield name, formula, shard, owned.layers
    if layout.has_head:
        yield from _head(ends)
    else:
        yield "send_receive", collective.hand_over, ends, 1


def _embedding(ends: Shard) -> Iterator[tuple[str, StageFunction, Shard, int]]:
    yield "embedding", embedding.embedding, ends, 1
    if ends.ranks > 1:
        for name, formula in _sums(ends):
            yield name, formula, ends, 1
    if ends.learned_positions:
        yield "position", embedding.position, ends, 1


def _head(ends: Shard) -> Iterator[tuple[str, StageFunction, Shard, int]]:
    if ends.hyper_streams:
        yield "hyper_connection", hyper.hyper_head, ends, 1
    if ends.final_norm:
        yield "final_norm", norm.final_norm, ends, 1
    yield "lm_head", lm_head.lm_head, ends, 1
    if ends.ranks > 1:
        yield "all_gather", collective.all_gather, ends, 1
    yield "sampling", sample.sampling, ends, 1


def _sums(shard: Shard) -> list[Planned]:
    """How the partial sums of tensor-parallel ranks become whole; under sequence parallelism, each rank's tokens."""
    if shard.sequence_parallel:
        return [("reduce_scatter", collective.scatter_sums), ("all_gather", collective.gather_tokens)]
    return [("all_reduce", collective.all_reduce)] if shard.ranks > 1 else []


def _layer(owned: Owned, workload: Workload) -> Iterator[tuple[str, StageFunction, Shard]]:
    """The stages of one layer."""
    shard = owned.shard
    if norm.mixer_norms(shard):
        yield "attention_norm", norm.attention_norm, shard
    mixer, ffn, sums = mixer_stages(shard), ffn_stages(shard), _sums(shard)
    after = [("all_gather", collective.gather_tokens)] if _combines_alone(shard) else sums
    attends = context.meets_a_cache(shard) and shard.context.ranks > 1
    for name, formula in mixer + (_context(shard, workload) if attends else []) + (sums if mixer else []):
        yield name, formula, owned.attention if _attends(formula, shard) else shard
    if norm.ffn_norms(shard):
        yield "mlp_norm", norm.mlp_norm, shard
    for name, formula in ffn + (after if ffn else []):
        yield name, formula, shard


def _combines_alone(shard: Shard) -> bool:
    """Whether tokens come back from their experts as sums, each to one tensor-parallel rank, with nothing to add."""
    ffn = shard.ffn
    if not isinstance(ffn, Experts) or not shard.exchanges or shard.ranks == 1:
        return False
    return not ffn.shared_intermediate and ffn.dense is None


def _context(shard: Shard, workload: Workload) -> list[Planned]:
    """What context-parallel ranks send around an attention."""
    if shard.swaps_heads:
        return [("all_to_all", context.swap_heads)]
    if workload.reads_prompts:
        return [("send_receive", context.pass_keys)]
    return [("all_gather", context.share_queries), ("reduce_scatter", context.join_outputs)]
