"""What one rank owns: its layers by kind, and the ends of the model that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvperf.arith import ceil_div
from kvperf.errors import KvperfError
from kvperf.layout.parallelism import ALONE, Parallelism, checked
from kvperf.layout.shard import (
    Formats,
    Shard,
    check_experts,
    formats,
    kept_in,
    narrowed,
    split_ffn,
    split_mixer,
    step_dtypes,
)
from kvperf.model.architecture import Compressed, Ffn, Mixer, NoFfn, NoMixer

if TYPE_CHECKING:
    from kvperf.model.architecture import Model
    from kvperf.workload import Workload


class Owned(msgspec.Struct, frozen=True):
    """Layers of one kind on a rank.

    attention  the same shard as its attention sees it: fewer heads (Ulysses), or windows of every c-th token (ring)
    cache      and as it is cached: the same, in prompts too
    """

    shard: Shard
    layers: int
    attention: Shard
    cache: Shard


class Layout(msgspec.Struct, frozen=True):
    """One rank of a layout: its layers by kind, in order of first appearance, and the two ends of the model.

    first      the kind of the model's first layer, whose input has no residual to add
    has_embedding, has_head  the ends that this rank's pipeline stage holds
    """

    kinds: tuple[Owned, ...]
    ends: Shard
    first: Shard
    parallelism: Parallelism = ALONE
    has_embedding: bool = True
    has_head: bool = True

    @property
    def tp(self) -> int:
        return self.parallelism.tp

    @property
    def ep(self) -> int:
        return self.parallelism.ep

    @property
    def ring_ranks(self) -> int:
        """Ranks that each keep every so many-th entry of a sequence; those that swap heads keep some heads of all."""
        return self.parallelism.cp if self.parallelism.context == "ring" else 1


def one_rank(model: Model, workload: Workload, parallelism: Parallelism = ALONE, stage: int = 0) -> Layout:
    """A rank's part of `model`, in pipeline stage `stage`.

    Raises KvperfError where the degrees do not divide the model.
    """
    checked(parallelism)
    check_experts(model, parallelism)
    cut = _Cut(model, workload, parallelism, stage)
    low, high = stage_layers(len(layers := model.layer_sequence()), parallelism.pp, stage)
    counted: dict[tuple[str, str, int, bool, frozenset[str]], int] = {}
    for index in range(low, high):
        layer = layers[index]
        key = (layer.mixer, layer.ffn, layer.norms, layer.scalar, kept_in(index, model.checkpoint, workload))
        counted[key] = counted.get(key, 0) + 1
    owned = tuple(cut.owned(key, count) for key, count in counted.items())
    kept_ends = kept_in(None, model.checkpoint, workload)
    ends = cut.shard(NoMixer(), NoFfn(), 0, False, cut.formats(kept_ends))
    return Layout(
        kinds=owned,
        ends=ends,
        first=owned[0].shard,
        parallelism=parallelism,
        has_embedding=stage == 0,
        has_head=stage == parallelism.pp - 1,
    )


def stages(model: Model, workload: Workload, parallelism: Parallelism) -> tuple[Layout, ...]:
    """One rank of every pipeline stage, in order; stages that hold the same share one object."""
    found: list[Layout] = []
    for stage in range(parallelism.pp):
        layout = one_rank(model, workload, parallelism, stage)
        found.append(next((same for same in found if same == layout), layout))
    return tuple(found)


def stage_layers(layers: int, pp: int, stage: int) -> tuple[int, int]:
    """The first and last layer (exclusive) of a pipeline stage.

    As even as whole layers allow, the middle stages first: the ends also have the embedding and the head (vLLM,
    distributed/utils.py get_pp_indices). Raises KvperfError for more stages than layers.
    """
    if pp > layers:
        raise KvperfError(f"--pp {pp}, but the model has {layers} layers", f"use at most {layers} pipeline stages")
    sizes = [layers // pp] * pp
    for extra in range(layers % pp):
        sizes[pp - 2 - extra if pp > 1 else 0] += 1
    low = 0
    for size in sizes[:stage]:
        low += size
    return low, low + sizes[stage]


class _Cut:
    """The model's mixers and FFNs as one rank has them."""

    def __init__(self, model: Model, workload: Workload, parallelism: Parallelism, stage: int) -> None:
        self.stage = stage
        self.model, self.workload, self.parallelism = model, workload, parallelism
        self.base, self.activation, self.quantised_input, self.kv = step_dtypes(model.checkpoint, workload)
        tp = parallelism.tp
        self.mixers = {name: split_mixer(mixer, tp) for name, mixer in model.mixers.items()}
        self.ffns = {name: split_ffn(ffn, tp, parallelism.expert_slices) for name, ffn in model.ffns.items()}
        self.streams = max((m.hyper_streams for m in model.mixers.values() if isinstance(m, Compressed)), default=0)

    def owned(self, kind: tuple[str, str, int, bool, frozenset[str]], layers: int) -> Owned:
        mixer, ffn, norms, scalar, kept = kind
        shard = self.shard(self.mixers[mixer], self.ffns[ffn], norms, scalar, self.formats(kept))
        cache = self._cached(shard, self.model.mixers[mixer])
        whole_windows = self.parallelism.context == "ring" and self.workload.reads_prompts
        return Owned(shard, layers, shard if whole_windows else cache, cache)

    def formats(self, kept: frozenset[str]) -> Formats:
        return formats(self.base, kept, self.model.checkpoint, self.workload)

    def _cached(self, shard: Shard, whole: Mixer) -> Shard:
        parallelism = self.parallelism
        if parallelism.cp == 1:
            return shard
        if parallelism.context == "ulysses":
            mixer = split_mixer(whole, parallelism.tp * parallelism.cp, "--tp × --cp")
        else:
            mixer = narrowed(shard.mixer, parallelism.cp)
        return msgspec.structs.replace(shard, mixer=mixer)

    def shard(self, mixer: Mixer, ffn: Ffn, norms: int, scalar: bool, formats: Formats) -> Shard:
        parallelism, model = self.parallelism, self.model
        return Shard(
            hidden_size=model.hidden_size,
            vocab_size=int(ceil_div(model.vocab_size, parallelism.tp)),
            mixer=mixer,
            ffn=ffn,
            norms=norms,
            norm=model.norm,
            formats=formats,
            activation=self.activation,
            quantised_input=self.quantised_input,
            kv=self.kv,
            scalar=scalar,
            lm_head_bias=model.lm_head_bias,
            learned_positions=model.learned_positions,
            hyper_streams=self.streams,
            final_norm=model.final_norm,
            ranks=parallelism.tp,
            expert_ranks=parallelism.ep,
            tensor=parallelism.tensor_group,
            context=parallelism.context_group,
            pipeline=parallelism.hand_over_group(min(self.stage, parallelism.pp - 2)),
            exchange=parallelism.expert_group,
            redundant_experts=parallelism.redundant_experts,
            expert_imbalance=min(parallelism.expert_imbalance, parallelism.ep),
            routed_nodes=parallelism.routed_nodes,
            exchanges=parallelism.shares_tokens,
            swaps_heads=parallelism.cp > 1 and parallelism.context == "ulysses",
            sequence_parallel=parallelism.sequence_parallel and parallelism.tp > 1,
        )
