"""One rank's part of a layer: heads, KV heads, experts' widths, vocabulary rows, and the dtypes of its matrices.

Tensor parallelism follows Megatron-LM: QKV and gate/up by columns, output and down by rows, the vocabulary by rows,
attention by heads; KV heads are replicated once there are more ranks than KV heads, and MLA latents always. Expert
parallelism gives each group of ranks whole experts instead of slices of all. Shapes are divided here, before any
formula is evaluated; finished work is never divided by the number of GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvperf.arith import ceil_div
from kvperf.dtypes import DType, dtype
from kvperf.errors import KvperfError
from kvperf.layout.parallelism import Group, Parallelism
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
    ranks   tensor-parallel ranks;  tensor, context, pipeline, exchange: the groups that it talks in
    expert_ranks  groups of ranks that share out the routed experts; those of a group slice each expert
    redundant_experts  copies beside the model's experts;  expert_imbalance: tokens of the busiest experts over the mean
    routed_nodes  the most nodes that one token's experts are on
    exchanges     whether tokens must travel to their experts
    swaps_heads   context ranks swap tokens for heads (Ulysses)
    sequence_parallel  norms on 1/ranks of the tokens
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
    tensor: Group = Group()
    context: Group = Group()
    pipeline: Group = Group()
    exchange: Group = Group()
    redundant_experts: int = 0
    expert_imbalance: float = 1.0
    routed_nodes: int | None = None
    exchanges: bool = False
    swaps_heads: bool = False
    sequence_parallel: bool = False

    def input_format(self, module: str) -> DType:
        """The dtype in which a matrix of `module` receives its input."""
        if self.quantised_input is not None and module in self.formats.quantised:
            return self.quantised_input
        return self.activation


def step_dtypes(checkpoint: Checkpoint, workload: Workload) -> tuple[DType, DType, DType | None, DType]:
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


def kept_in(index: int | None, checkpoint: Checkpoint, workload: Workload) -> frozenset[str]:
    """Modules of layer `index` (None: the ends of the model) that are not quantised."""
    if workload.weight_dtype is not None:
        return KEPT_WHEN_CHOSEN
    if checkpoint.quantised is None:
        # A chosen activation dtype quantises the inputs of the layers' matrices, whatever these are stored in.
        return frozenset(MODULES) if workload.activation_dtype is None else KEPT_WHEN_CHOSEN
    return frozenset(k.module for k in checkpoint.kept if k.layers is None or (index is not None and index in k.layers))


def formats(base: DType, kept: frozenset[str], checkpoint: Checkpoint, workload: Workload) -> Formats:
    name = workload.weight_dtype or checkpoint.quantised
    quantised = dtype(name) if name else base
    formats = {module: base if module in kept else quantised for module in MODULES}
    if workload.weight_dtype is None and checkpoint.experts:
        formats["experts"] = dtype(checkpoint.experts)
    return Formats(base=base, quantised=frozenset(MODULES) - kept, **formats)


def _divide(count: int, ranks: int, what: str, option: str = "--tp") -> int:
    if count % ranks:
        raise KvperfError(
            f"{option} {ranks} does not divide the {count} {what}",
            f"use a tensor-parallel degree that divides {count}"
            if option == "--tp"
            else f"their product must divide {count}",
        )
    return count // ranks


def split_mixer(mixer: Mixer, tp: int, option: str = "--tp") -> Mixer:
    """One rank's heads of a mixer. Latents, indexers and shared keys are whole on every rank."""
    if tp == 1 or isinstance(mixer, NoMixer):
        return mixer
    replace = msgspec.structs.replace
    if isinstance(mixer, GroupedQuery):
        heads = _divide(mixer.heads, tp, "query heads", option)
        if mixer.kv_heads % tp and tp % mixer.kv_heads:
            raise KvperfError(
                f"{option} {tp} neither divides the {mixer.kv_heads} KV heads nor is a multiple of them",
                f"use a divisor or a multiple of {mixer.kv_heads}",
            )
        return replace(mixer, heads=heads, kv_heads=max(1, mixer.kv_heads // tp))
    if isinstance(mixer, Latent | Lightning):
        return replace(mixer, heads=_divide(mixer.heads, tp, "attention heads", option))
    if isinstance(mixer, Compressed):
        heads = _divide(mixer.heads, tp, "attention heads", option)
        return replace(mixer, heads=heads, output_groups=_divide(mixer.output_groups, tp, "output groups", option))
    if isinstance(mixer, DeltaNet):
        k_heads = _divide(mixer.k_heads, tp, "key heads of the linear attention", option)
        return replace(mixer, k_heads=k_heads, v_heads=_divide(mixer.v_heads, tp, "value heads", option))
    assert isinstance(mixer, Mamba2)
    heads = _divide(mixer.heads, tp, "state-space heads", option)
    groups = mixer.groups // tp if mixer.groups % tp == 0 else mixer.groups
    return replace(mixer, heads=heads, groups=groups)


def narrowed(mixer: Mixer, ranks: int) -> Mixer:
    """A mixer on every `ranks`-th entry of the cache: of a window, a chunk or a selection it meets that share."""
    replace = msgspec.structs.replace
    if isinstance(mixer, GroupedQuery):
        return replace(mixer, window=_share(mixer.window, ranks), chunk=_share(mixer.chunk, ranks))
    if isinstance(mixer, Latent):
        indexer = mixer.indexer and replace(mixer.indexer, top_k=_share(mixer.indexer.top_k, ranks))
        return replace(mixer, indexer=indexer, selected_tokens=_share(mixer.selected_tokens, ranks))
    if isinstance(mixer, Compressed):
        indexer = mixer.indexer and replace(mixer.indexer, top_k=_share(mixer.indexer.top_k, ranks))
        return replace(mixer, window=_share(mixer.window, ranks), indexer=indexer)
    return mixer


def _share(tokens: int | None, ranks: int) -> int | None:
    return None if tokens is None else int(ceil_div(tokens, ranks))


def check_experts(model: Model, parallelism: Parallelism) -> None:
    """Refuse expert groups that do not share out the model's experts evenly. Raises KvperfError."""
    ep, copies = parallelism.ep, parallelism.redundant_experts
    experts = [ffn.experts for ffn in model.ffns.values() if isinstance(ffn, Experts)]
    if not experts and (ep > 1 or copies):
        said = f"--ep {ep}" if ep > 1 else f"--redundant-experts {copies}"
        raise KvperfError(f"{said}, but {model.name} has no experts", f"leave {said.split()[0]} out")
    if parallelism.expert_imbalance > 1 and ep == 1:
        raise KvperfError(
            f"--expert-imbalance {parallelism.expert_imbalance:g} without --ep", "every GPU has a part of every expert"
        )
    if parallelism.stage_gpus % ep:
        raise KvperfError(
            f"--ep {ep} does not divide the GPUs that hold the experts, {parallelism.stage_gpus}",
            "they are those of a pipeline stage, --tp × --cp × --attention-dp: give more of these, or fewer groups",
        )
    for count in experts:
        if (count + copies) % ep:
            beside = f" and their {copies} copies" if copies else ""
            missing = ep - (count + copies) % ep
            raise KvperfError(
                f"--ep {ep} does not divide the {count} experts{beside}",
                f"use a divisor of {count + copies}, or --redundant-experts {copies + missing}",
            )


def split_ffn(ffn: Ffn, tp: int, slices: int | None = None) -> Ffn:
    """One rank's columns of an FFN; of a routed expert, one of `slices` (None: of tp)."""
    slices = tp if slices is None else slices
    if isinstance(ffn, NoFfn) or tp == slices == 1:
        return ffn
    replace = msgspec.structs.replace
    if isinstance(ffn, Dense):
        return replace(ffn, intermediate=_divide(ffn.intermediate, tp, "columns of the FFN"))
    assert isinstance(ffn, Experts)
    if ffn.intermediate % slices:
        raise KvperfError(
            f"{slices} ranks cannot slice the {ffn.intermediate} columns of an expert evenly",
            "give each expert to fewer ranks: a larger --ep, up to the GPUs of a stage",
        )
    shared = _divide(ffn.shared_intermediate, tp, "columns of the shared experts")
    dense = split_ffn(ffn.dense, tp) if ffn.dense else None
    return replace(ffn, intermediate=ffn.intermediate // slices, shared_intermediate=shared, dense=dense)
