"""What one rank owns: heads, KV heads, experts' widths, vocabulary rows, layers.

One GPU is the trivial layout. More GPUs divide the shapes here, before any formula is evaluated;
finished work is never divided by the number of GPUs. Tensor parallelism follows Megatron-LM: QKV and
gate/up by columns, output and down by rows, the vocabulary by rows, attention by heads; KV heads are
replicated once there are more ranks than KV heads, and MLA latents always. Expert parallelism gives each group of ranks
whole experts instead of slices of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvperf.arith import ceil_div
from kvperf.dtypes import DType, dtype
from kvperf.errors import KvperfError
from kvperf.model.architecture import (
    MODULES,
    Compressed,
    DeltaNet,
    Dense,
    Experts,
    Ffn,
    GroupedQuery,
    Latent,
    Lightning,
    Mamba2,
    Mixer,
    NoFfn,
    NoMixer,
    Norm,
)

if TYPE_CHECKING:
    from kvperf.model.architecture import Checkpoint, Model
    from kvperf.workload import Workload


class Formats(msgspec.Struct, frozen=True):
    """The dtype of each kind of matrix in one layer, and `base` for norms and biases."""

    base: DType
    attention: DType
    indexer: DType
    mlp: DType
    experts: DType
    shared_experts: DType
    router: DType
    embedding: DType
    lm_head: DType
    quantised: frozenset[str] = frozenset()


class Shard(msgspec.Struct, frozen=True):
    """What one rank owns of one layer, or of the embedding and the head.

    activation  dtype of activations at kernel boundaries;  quantised_input: dtype the inputs of
    quantised matrices are converted to (None: they are not);  kv: dtype of the cache
    expert_ranks  groups of ranks that share out the routed experts; those of a group slice each expert
    """

    hidden_size: int
    vocab_size: int
    mixer: Mixer
    ffn: Ffn
    norms: int
    norm: Norm
    formats: Formats
    activation: DType
    quantised_input: DType | None
    kv: DType
    scalar: bool = False
    lm_head_bias: bool = False
    learned_positions: int | None = None
    hyper_streams: int = 0
    final_norm: bool = True
    ranks: int = 1
    expert_ranks: int = 1

    def input_format(self, module: str) -> DType:
        """The dtype in which a matrix of `module` receives its input."""
        if self.quantised_input is not None and module in self.formats.quantised:
            return self.quantised_input
        return self.activation


class Owned(msgspec.Struct, frozen=True):
    """Layers of one kind on a rank."""

    shard: Shard
    layers: int


class Layout(msgspec.Struct, frozen=True):
    """One rank of a layout: its layers by kind, in order of first appearance, and the two ends of the model.

    first  the kind of the model's first layer, whose input has no residual to add
    """

    kinds: tuple[Owned, ...]
    ends: Shard
    first: Shard
    tp: int = 1
    ep: int = 1


def one_rank(model: Model, workload: Workload, tp: int = 1, ep: int = 1) -> Layout:
    """The busiest rank's part of `model`, of `tp` ranks whose experts are shared out over `ep` groups.

    Raises KvperfError where these do not divide the model.
    """
    if tp < 1:
        raise KvperfError(f"--tp {tp} is not a number of GPUs", "give 1 or more")
    _check_expert_ranks(model, tp, ep)
    base, activation, quantised_input, kv = _step_dtypes(model.checkpoint, workload)
    parts = {name: _split_mixer(mixer, tp) for name, mixer in model.mixers.items()}
    ffns = {name: _split_ffn(ffn, tp, ep) for name, ffn in model.ffns.items()}

    streams = max((m.hyper_streams for m in model.mixers.values() if isinstance(m, Compressed)), default=0)

    def shard(mixer: Mixer, ffn: Ffn, norms: int, scalar: bool, formats: Formats) -> Shard:
        return Shard(
            hidden_size=model.hidden_size,
            vocab_size=int(ceil_div(model.vocab_size, tp)),
            mixer=mixer,
            ffn=ffn,
            norms=norms,
            norm=model.norm,
            formats=formats,
            activation=activation,
            quantised_input=quantised_input,
            kv=kv,
            scalar=scalar,
            lm_head_bias=model.lm_head_bias,
            learned_positions=model.learned_positions,
            hyper_streams=streams,
            final_norm=model.final_norm,
            ranks=tp,
            expert_ranks=ep,
        )

    counted: dict[tuple, int] = {}
    for index, layer in enumerate(model.layer_sequence()):
        kept = _kept_in(index, model.checkpoint, workload)
        key = (layer.mixer, layer.ffn, layer.norms, layer.scalar, kept)
        counted[key] = counted.get(key, 0) + 1
    owned = tuple(
        Owned(shard(parts[mixer], ffns[ffn], norms, scalar, _formats(base, kept, model.checkpoint, workload)), count)
        for (mixer, ffn, norms, scalar, kept), count in counted.items()
    )
    kept_ends = _kept_in(None, model.checkpoint, workload)
    ends = shard(NoMixer(), NoFfn(), 0, False, _formats(base, kept_ends, model.checkpoint, workload))
    return Layout(kinds=owned, ends=ends, first=owned[0].shard, tp=tp, ep=ep)


def _step_dtypes(checkpoint: Checkpoint, workload: Workload) -> tuple[DType, DType, DType | None, DType]:
    """Base, boundary-activation, quantised-input and KV dtypes of a step."""
    weight = dtype(workload.weight_dtype) if workload.weight_dtype else None
    base = weight if weight is not None and weight.bits >= 16 else dtype(checkpoint.dtype)
    if workload.activation_dtype:
        activation = dtype(workload.activation_dtype)
    else:
        activation = dtype(checkpoint.activation) if checkpoint.activation and weight is None else base
    kv = dtype(workload.kv_dtype) if workload.kv_dtype else base
    if activation.bits >= 16:
        return base, activation, None, kv
    return base, base, activation, kv


# A chosen weight dtype is that of the layers' matrices; published quantised checkpoints keep these.
KEPT_WHEN_CHOSEN = frozenset({"router", "embedding", "lm_head"})


def _kept_in(index: int | None, checkpoint: Checkpoint, workload: Workload) -> frozenset[str]:
    """Modules of layer `index` (None: the ends of the model) that are not quantised."""
    if workload.weight_dtype is not None:
        return KEPT_WHEN_CHOSEN
    if checkpoint.quantised is None:
        # A chosen activation dtype quantises the inputs of the layers' matrices, whatever these are stored in.
        return frozenset(MODULES) if workload.activation_dtype is None else KEPT_WHEN_CHOSEN
    return frozenset(k.module for k in checkpoint.kept if k.layers is None or (index is not None and index in k.layers))


def _formats(base: DType, kept: frozenset[str], checkpoint: Checkpoint, workload: Workload) -> Formats:
    name = workload.weight_dtype or checkpoint.quantised
    quantised = dtype(name) if name else base
    formats = {module: base if module in kept else quantised for module in MODULES}
    if workload.weight_dtype is None and checkpoint.experts:
        formats["experts"] = dtype(checkpoint.experts)
    return Formats(base=base, quantised=frozenset(MODULES) - kept, **formats)


def _divide(count: int, tp: int, what: str) -> int:
    if count % tp:
        raise KvperfError(
            f"--tp {tp} does not divide the {count} {what}", f"use a tensor-parallel degree that divides {count}"
        )
    return count // tp


def _split_mixer(mixer: Mixer, tp: int) -> Mixer:
    """One rank's heads of a mixer. Latents, indexers and shared keys are whole on every rank."""
    if tp == 1 or isinstance(mixer, NoMixer):
        return mixer
    replace = msgspec.structs.replace
    if isinstance(mixer, GroupedQuery):
        heads = _divide(mixer.heads, tp, "query heads")
        if mixer.kv_heads % tp and tp % mixer.kv_heads:
            raise KvperfError(
                f"--tp {tp} neither divides the {mixer.kv_heads} KV heads nor is a multiple of them",
                f"use a divisor or a multiple of {mixer.kv_heads}",
            )
        return replace(mixer, heads=heads, kv_heads=max(1, mixer.kv_heads // tp))
    if isinstance(mixer, Latent | Lightning):
        return replace(mixer, heads=_divide(mixer.heads, tp, "attention heads"))
    if isinstance(mixer, Compressed):
        heads = _divide(mixer.heads, tp, "attention heads")
        return replace(mixer, heads=heads, output_groups=_divide(mixer.output_groups, tp, "output groups"))
    if isinstance(mixer, DeltaNet):
        k_heads = _divide(mixer.k_heads, tp, "key heads of the linear attention")
        return replace(mixer, k_heads=k_heads, v_heads=_divide(mixer.v_heads, tp, "value heads"))
    assert isinstance(mixer, Mamba2)
    heads = _divide(mixer.heads, tp, "state-space heads")
    groups = mixer.groups // tp if mixer.groups % tp == 0 else mixer.groups
    return replace(mixer, heads=heads, groups=groups)


def _check_expert_ranks(model: Model, tp: int, ep: int) -> None:
    if ep < 1 or tp % ep:
        raise KvperfError(f"--ep {ep} does not divide the {tp} ranks", f"use a divisor of {tp}")
    experts = [ffn.experts for ffn in model.ffns.values() if isinstance(ffn, Experts)]
    if ep > 1 and not experts:
        raise KvperfError(f"--ep {ep}, but {model.name} has no experts", "leave --ep out")
    for count in experts:
        if count % ep:
            raise KvperfError(f"--ep {ep} does not divide the {count} experts", f"use a divisor of {count}")


def _split_ffn(ffn: Ffn, tp: int, ep: int = 1) -> Ffn:
    """One rank's columns of an FFN; of an expert, those that the ranks of its group slice it into."""
    if tp == 1 or isinstance(ffn, NoFfn):
        return ffn
    replace = msgspec.structs.replace
    if isinstance(ffn, Dense):
        return replace(ffn, intermediate=_divide(ffn.intermediate, tp, "columns of the FFN"))
    assert isinstance(ffn, Experts)
    intermediate = _divide(ffn.intermediate, tp // ep, "columns of the FFN")
    shared = _divide(ffn.shared_intermediate, tp, "columns of the shared experts")
    dense = _split_ffn(ffn.dense, tp) if ffn.dense else None
    return replace(ffn, intermediate=intermediate, shared_intermediate=shared, dense=dense)


__all__ = ["Formats", "Layout", "Owned", "Shard", "one_rank"]
