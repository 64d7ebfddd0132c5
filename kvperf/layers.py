"""The stages of one layer's mixer and of its FFN, by what they are made of."""

from __future__ import annotations

from collections.abc import Callable

from kvperf.layout import Shard
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
from kvperf.stages import compressed, exchange, indexer, kv_update, latent, mlp, moe, norm, projection, recurrent
from kvperf.stages import hyper_connection as hyper
from kvperf.stages import rope as rotary
from kvperf.work import Work
from kvperf.workload import Workload

StageFunction = Callable[[Shard, Workload], Work]
Planned = tuple[str, StageFunction]


def mixer_stages(shard: Shard) -> list[Planned]:
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


def ffn_stages(shard: Shard) -> list[Planned]:
    ffn = shard.ffn
    if isinstance(ffn, Dense):
        return [("mlp", mlp.mlp)]
    if not isinstance(ffn, Experts):
        return []
    stages: list[Planned] = [("mlp", mlp.mlp)] if ffn.dense else []
    out, back = [], []
    if shard.exchanges:
        out, back = [("all_to_all", exchange.expert_dispatch)], [("all_to_all", exchange.expert_combine)]
    stages += [("moe_router", moe.moe_router), *out, ("moe_dispatch", moe.moe_dispatch)]
    stages.append(("moe_experts", moe.moe_experts))
    if ffn.shared_intermediate:
        stages.append(("shared_experts", moe.shared_experts))
    return [*stages, *back, ("moe_combine", moe.moe_combine)]
