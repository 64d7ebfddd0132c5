"""The stages of one step, in order, with the work of each on the busiest rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from kvperf.layout import Layout, Shard
from kvperf.model.architecture import (
    Compressed,
    DeltaNet,
    Dense,
    Experts,
    GroupedQuery,
    Latent,
    Lightning,
    Mamba2,
    NoMixer,
)
from kvperf.stages import attention as attend
from kvperf.stages import (
    collective,
    compressed,
    embedding,
    indexer,
    kv_update,
    latent,
    lm_head,
    mlp,
    moe,
    norm,
    projection,
    recurrent,
)
from kvperf.stages import hyper_connection as hyper
from kvperf.stages import rope as rotary
from kvperf.stages import sampling as sample
from kvperf.work import Work
from kvperf.workload import Workload

StageFunction = Callable[[Shard, Workload], Work]


class Part(msgspec.Struct, frozen=True):
    """One formula of a stage, for `layers` layers of one kind; `work` is that of all of them."""

    formula: StageFunction
    shard: Shard
    layers: int
    work: Work


class StageWork(msgspec.Struct, frozen=True):
    """A stage of the step: its work over all its layers, and the parts it is made of."""

    name: str
    layers: int
    work: Work
    parts: tuple[Part, ...]


Planned = tuple[str, StageFunction]


def pipeline(layout: Layout, workload: Workload) -> tuple[StageWork, ...]:
    """Every stage of the step in execution order; layers of different kinds share a stage of one name."""
    parts: dict[str, list[Part]] = {}
    for name, formula, shard, layers in _planned(layout, workload):
        work = formula(shard, workload).times(layers)
        parts.setdefault(name, []).append(Part(formula, shard, layers, work))
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
    "final_norm",
    "lm_head",
    "all_gather",
    "sampling",
)


def _planned(layout: Layout, workload: Workload) -> Iterator[tuple[str, StageFunction, Shard, int]]:
    if workload.scope == "attention":
        yield "attention", attend.attention_alone, layout.first, 1
        return
    ends = layout.ends
    yield "embedding", embedding.embedding, ends, 1
    if ends.ranks > 1:
        yield "all_reduce", collective.all_reduce, ends, 1
    if ends.learned_positions:
        yield "position", embedding.position, ends, 1
    for owned in layout.kinds:
        for name, formula in _layer(owned.shard):
            if name == "attention_norm" and owned.shard is layout.first:
                yield name, norm.input_norm, owned.shard, 1
                if owned.layers > 1:
                    yield name, formula, owned.shard, owned.layers - 1
            else:
                yield name, formula, owned.shard, owned.layers
    if ends.hyper_streams:
        yield "hyper_connection", hyper.hyper_head, ends, 1
    if ends.final_norm:
        yield "final_norm", norm.final_norm, ends, 1
    yield "lm_head", lm_head.lm_head, ends, 1
    if ends.ranks > 1:
        yield "all_gather", collective.all_gather, ends, 1
    yield "sampling", sample.sampling, ends, 1


def _layer(shard: Shard) -> list[Planned]:
    """The stages of one layer."""
    stages: list[Planned] = []
    if norm.mixer_norms(shard):
        stages.append(("attention_norm", norm.attention_norm))
    sums = [("all_reduce", collective.all_reduce)] if shard.ranks > 1 else []
    mixer, ffn = _mixer(shard), _ffn(shard)
    stages += mixer + (sums if mixer else [])
    if norm.ffn_norms(shard):
        stages.append(("mlp_norm", norm.mlp_norm))
    return stages + ffn + (sums if ffn else [])


def _mixer(shard: Shard) -> list[Planned]:
    mixer = shard.mixer
    if isinstance(mixer, NoMixer):
        return []
    if isinstance(mixer, Latent):
        stages = _latent(mixer)
    elif isinstance(mixer, Compressed):
        stages = _compressed(mixer)
    elif isinstance(mixer, GroupedQuery):
        stages = _grouped_query(mixer)
    elif isinstance(mixer, Mamba2):
        stages = [("qkv_projection", projection.qkv_projection), ("state_space", recurrent.state_space)]
    else:
        assert isinstance(mixer, DeltaNet | Lightning)
        stages = [("qkv_projection", projection.qkv_projection), ("linear_attention", recurrent.linear_attention)]
    if shard.quantised_input is not None and "attention" in shard.formats.quantised:
        stages.append(("activation_quantise", projection.activation_quantise))
    grouped = isinstance(mixer, Compressed)
    output = projection.grouped_output_projection if grouped else projection.output_projection
    return [*stages, ("output_projection", output)]


def _grouped_query(mixer: GroupedQuery) -> list[Planned]:
    stages: list[Planned] = [("qkv_projection", projection.qkv_projection)]
    if mixer.qk_norm != "none":
        stages.append(("qk_norm", norm.qk_norm))
    if mixer.rotary_dim:
        stages.append(("rope", rotary.rope))
    return [*stages, ("kv_update", kv_update.kv_update), ("attention", attend.attention)]


def _latent(mixer: Latent) -> list[Planned]:
    stages: list[Planned] = [("query_down", latent.query_down)] if mixer.q_lora_rank else []
    stages += [("query_up", latent.query_up), ("kv_down", latent.kv_down), ("rope", rotary.rope)]
    stages.append(("kv_update", kv_update.kv_update))
    if mixer.indexer:
        stages.append(("indexer", indexer.indexer))
    return [
        *stages,
        ("absorb_query", latent.absorb_query),
        ("attention", latent.latent_attention),
        ("absorb_value", latent.absorb_value),
    ]


def _compressed(mixer: Compressed) -> list[Planned]:
    stages: list[Planned] = [
        ("hyper_connection", hyper.hyper_connection),
        ("query_down", latent.query_down),
        ("query_up", latent.query_up),
        ("kv_down", compressed.compressed_kv_down),
        ("rope", rotary.rope),
        ("kv_update", compressed.compressed_kv_update),
    ]
    if mixer.indexer:
        stages.append(("indexer", compressed.compressed_indexer))
    return [*stages, ("attention", compressed.compressed_attention)]


def _ffn(shard: Shard) -> list[Planned]:
    ffn = shard.ffn
    if isinstance(ffn, Dense):
        return [("mlp", mlp.mlp)]
    if not isinstance(ffn, Experts):
        return []
    stages: list[Planned] = [("mlp", mlp.mlp)] if ffn.dense else []
    stages += [("moe_router", moe.moe_router), ("moe_dispatch", moe.moe_dispatch), ("moe_experts", moe.moe_experts)]
    if ffn.shared_intermediate:
        stages.append(("shared_experts", moe.shared_experts))
    return [*stages, ("moe_combine", moe.moe_combine)]
