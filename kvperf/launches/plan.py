"""What a stack launches for each stage of a step: the one place that joins stages with kernel families.

A stage whose work a measured kernel already contains is covered by the stage of that kernel and adds nothing: the
attention operation of every stack, as it is measured, writes the new keys and values and combines its splits, and the
experts' operation sorts the tokens and adds up their results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kvperf.dtypes import DType, dtype, operand
from kvperf.launches import communication, mixing
from kvperf.launches.collective import Algorithm
from kvperf.launches.experts import FORMATS, kernel_of
from kvperf.launches.experts import Experts as ExpertLaunch
from kvperf.launches.gemm import Gemm
from kvperf.launches.planned import Plan, Planned
from kvperf.launches.small import Kind, Small, argmax, sampling
from kvperf.layout import Shard
from kvperf.model.architecture import Compressed, Dense, Experts, GroupedQuery, Latent, NoMixer
from kvperf.stages.moe import expert_tokens, experts_held
from kvperf.stages.projection import mixer_inputs, mixer_outputs
from kvperf.work import Work
from kvperf.workload import Workload


class Asked(msgspec.Struct, frozen=True):
    """A stage for one layer: what it is of, what it does, and who runs it.

    formula     name of the stage's function, where several share the stage's name
    all_reduce  the algorithm of all-reduces, `stack` for the stack's own choice
    network_bytes_per_s, network_latency_s  between nodes, where the layout has several
    """

    name: str
    shard: Shard
    workload: Workload
    work: Work
    stack: str
    architecture: str
    formula: str = ""
    all_reduce: Algorithm = "stack"
    network_bytes_per_s: Any = None
    network_latency_s: Any = None


BLACKWELL = ("sm_100", "sm_103")
# Formats that the tables of experts name, where both factors are in it.
TABLE_NAMES = {
    "bf16": "bf16",
    "fp16": "bf16",
    "fp8": "fp8",
    "fp8-block": "fp8_block",
    "mxfp8": "fp8_block",
    "nvfp4": "nvfp4",
}

# The stage whose kernel does the work of this one.
COVERED = {
    "kv_update": "attention",
    "attention_combine": "attention",
    "moe_dispatch": "moe_experts",
    "moe_combine": "moe_experts",
    "activation_quantise": "output_projection",
}


def plan(asked: Asked) -> Plan:
    """The launches of a stage that no other covers, in order."""
    return PLANNERS.get(asked.name, _other)(asked)


def covered_by(name: str, shard: Shard) -> str | None:
    """The stage that does the work of the stage called `name`, if another does."""
    if name == "kv_down" and isinstance(shard.mixer, Latent) and shard.mixer.q_lora_rank:
        return "query_down"
    if name == "kv_update" and isinstance(shard.mixer, Compressed):
        return None  # its attention is no measured operation
    if name == "shared_experts" and fused_experts(shard):
        return "moe_experts"
    return COVERED.get(name)


def fused_experts(shard: Shard) -> int:
    """Shared experts that run with the routed ones, as so many more of them that every token goes to.

    SGLang makes them one launch; vLLM and TensorRT-LLM run them beside it on a second stream. None where a gate scales
    them, where their width is no multiple of a routed expert's, or where ranks hold whole experts.
    """
    ffn = shard.ffn
    if not isinstance(ffn, Experts) or ffn.shared_gate or ffn.latent is not None:
        return 0
    if shard.expert_ranks > 1 or shard.exchanges:
        return 0
    return 0 if ffn.shared_intermediate % ffn.intermediate else ffn.shared_intermediate // ffn.intermediate


def _small(kind: Kind) -> Callable[[Asked], Plan]:
    """Kernels that stream activations: as many as the stage has, each with its share of the bytes."""

    def planned(asked: Asked) -> Plan:
        return (Planned("small", Small(kind, asked.work.hbm_bytes, asked.work.kernels)),)

    return planned


def _other(asked: Asked) -> Plan:
    """A stage that no calibrated family prices: as many small kernels as it has, at the pace of a stream."""
    return _small("norm")(asked)


def gemm(asked: Asked, rows: Any, outputs: Any, inner: Any, weight: DType, given: DType) -> Planned:
    launch = Gemm(rows, outputs, inner, weight.name, given.name, asked.stack)
    fused = asked.stack == "trtllm" and launch.kind in ("fp8", "nvfp4") and _llama(asked.shard)
    return Planned("gemm", msgspec.structs.replace(launch, arrives_quantised=fused))


def _llama(shard: Shard) -> bool:
    """Whether TensorRT-LLM runs its code for Llama: norms, activations and attention write fp8 and nvfp4 themselves.

    That of other models (modeling_qwen3.py and on) has kernels of their own for it (tensorrt_llm/_torch/models).
    """
    mixer = shard.mixer
    plain = isinstance(mixer, NoMixer) or (isinstance(mixer, GroupedQuery) and mixer.qk_norm == "none")
    return plain and not isinstance(shard.ffn, Experts)


def _qkv_projection(asked: Asked) -> Plan:
    shard, rows = asked.shard, asked.workload.tokens
    mixer, weight, given = shard.mixer, shard.formats.attention, shard.input_format("attention")
    if asked.workload.qkv_gemms == 3 and isinstance(mixer, GroupedQuery):
        queries = mixer.heads * mixer.head_dim * (2 if mixer.output_gate else 1)
        widths = (queries, mixer.kv_heads * mixer.head_dim, mixer.kv_heads * mixer.value_dim)
        return tuple(gemm(asked, rows, width, shard.hidden_size, weight, given) for width in widths)
    return (gemm(asked, rows, mixer_inputs(mixer), shard.hidden_size, weight, given),)


def _output_projection(asked: Asked) -> Plan:
    shard = asked.shard
    weight, given = shard.formats.attention, shard.input_format("attention")
    rows, mixer, inputs = asked.workload.tokens, shard.mixer, mixer_outputs(shard.mixer)
    if isinstance(mixer, Compressed):  # group by group to a low rank, then to the hidden size
        ranks = mixer.output_groups * mixer.output_lora_rank
        down = gemm(asked, rows, ranks, inputs // mixer.output_groups, weight, given)
        return down, gemm(asked, rows, shard.hidden_size, ranks, weight, given)
    return (gemm(asked, rows, shard.hidden_size, inputs, weight, given),)


def _mlp(asked: Asked) -> Plan:
    ffn = asked.shard.ffn.dense if isinstance(asked.shard.ffn, Experts) else asked.shard.ffn
    assert isinstance(ffn, Dense)
    return _dense(asked, ffn.intermediate, ffn.gated, "mlp")


def _shared_experts(asked: Asked) -> Plan:
    """A dense FFN; where a gate scales its output, a kernel that reads the hidden state for it."""
    ffn = asked.shard.ffn
    assert isinstance(ffn, Experts)
    planned = _dense(asked, ffn.shared_intermediate, ffn.gated, "shared_experts")
    if not ffn.shared_gate:
        return planned
    read = asked.workload.tokens * asked.shard.hidden_size * asked.shard.activation.element_bytes
    return (*planned, Planned("small", Small("activation", read)))


def _dense(asked: Asked, width: int, gated: bool, module: str) -> Plan:
    """Gate and up in one product, the activation, down."""
    shard, rows = asked.shard, asked.workload.tokens
    weight: DType = getattr(shard.formats, module)
    given, columns = shard.input_format(module), (2 if gated else 1) * width
    moved = rows * (shard.activation.element_bytes * columns + given.element_bytes * width)
    return (
        gemm(asked, rows, columns, shard.hidden_size, weight, given),
        Planned("small", Small("activation", moved)),
        gemm(asked, rows, shard.hidden_size, width, weight, given),
    )


def _router(asked: Asked) -> Plan:
    shard, rows = asked.shard, asked.workload.tokens
    assert isinstance(shard.ffn, Experts)
    scores = gemm(asked, rows, shard.ffn.experts, shard.hidden_size, shard.formats.router, shard.input_format("router"))
    return scores, Planned("small", Small("activation", 8.0 * rows * (shard.ffn.experts + shard.ffn.top_k)))


def _experts(asked: Asked) -> Plan:
    shard = asked.shard
    ffn = shard.ffn
    assert isinstance(ffn, Experts)
    name = expert_format(shard.formats.experts, shard.input_format("experts"), asked.architecture)
    shared = fused_experts(shard)
    launch = ExpertLaunch(
        tokens=asked.workload.tokens,
        hidden=ffn.latent or shard.hidden_size,
        inter=ffn.intermediate * (slices := shard.exchange.ranks // shard.expert_ranks),
        topk=ffn.top_k + shared,
        experts=ffn.experts + shard.redundant_experts + shared,
        moe_tp=slices,
        moe_ep=shard.expert_ranks,
        dtype=name,
        gated=ffn.gated,
        kernel=kernel_of(asked.stack, asked.architecture, name, shard.expert_ranks),
        distribution="uniform",
    )
    if shard.exchanges or shard.expert_imbalance != 1:
        launch = _of_this_rank(launch, shard, asked)
    if ffn.latent is None:
        return (Planned("experts", launch),)
    # Experts that work in a latent: a product into it and one out of it, which every rank has whole.
    rows, weight, given = asked.workload.tokens, shard.formats.experts, shard.input_format("experts")
    into = gemm(asked, rows, ffn.latent, shard.hidden_size, weight, given)
    return into, Planned("experts", launch), gemm(asked, rows, shard.hidden_size, ffn.latent, weight, given)


def _of_this_rank(launch: ExpertLaunch, shard: Shard, asked: Asked) -> ExpertLaunch:
    """The experts of this rank alone, with the rows that have arrived for them: each has one expert."""
    rows, held = expert_tokens(shard, asked.workload), experts_held(shard)
    kernel = kernel_of(asked.stack, asked.architecture, launch.dtype, 1)
    return msgspec.structs.replace(launch, tokens=rows, topk=1, experts=held, moe_ep=1, kernel=kernel)


def expert_format(weight: DType, given: DType, architecture: str) -> str:
    """The format of the tables that stores and multiplies as these do; the closest where none does both.

    Blackwell's kernels for MXFP4 take bf16 activations as MXFP8.
    """
    if weight.name == "mxfp4" and architecture in BLACKWELL:
        return "w4a8_mxfp4_mxfp8"
    multiplied = operand(weight, given)
    table = TABLE_NAMES.get(weight.name)
    if table is not None and multiplied == weight.operand:
        return table
    for name, (stored, unit) in FORMATS.items():
        if stored == weight.name and dtype(unit).operand == multiplied:
            return name
    same_size = [name for name, (stored, _) in FORMATS.items() if dtype(stored).bits == weight.bits]
    return same_size[0] if same_size else "bf16"


def _lm_head(asked: Asked) -> Plan:
    shard = asked.shard
    weight, given = shard.formats.lm_head, shard.input_format("lm_head")
    return (gemm(asked, asked.workload.logit_rows, shard.vocab_size, shard.hidden_size, weight, given),)


def _sampling(asked: Asked) -> Plan:
    """Greedy: one pass and a join; drawing at random, on the GPU or the host, as vLLM's chain of kernels."""
    rows, vocabulary = asked.workload.logit_rows, asked.shard.vocab_size
    chosen = argmax if asked.workload.sampling == "argmax" else sampling
    return (Planned("small", chosen(rows, vocabulary)),)


PLANNERS: dict[str, Callable[[Asked], Plan]] = {
    "embedding": _small("embedding"),
    "attention_norm": _small("norm"),
    "mlp_norm": _small("norm"),
    "final_norm": _small("norm"),
    "qk_norm": _small("norm"),
    "rope": _small("rope"),
    "qkv_projection": _qkv_projection,
    "output_projection": _output_projection,
    "query_down": mixing.query_down,
    "query_up": mixing.query_up,
    "kv_down": mixing.kv_down,
    "absorb_query": mixing.absorb_query,
    "absorb_value": mixing.absorb_value,
    "attention": mixing.attention,
    "mlp": _mlp,
    "shared_experts": _shared_experts,
    "moe_router": _router,
    "moe_experts": _experts,
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive"), communication.plan),
    "lm_head": _lm_head,
    "sampling": _sampling,
}


def is_streamed(name: str) -> bool:
    """Whether no family prices the stage: it counts as so many small kernels."""
    return name not in PLANNERS and name not in COVERED and name not in ("kv_down", "position")
