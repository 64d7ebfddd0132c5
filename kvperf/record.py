"""The record of one analysis, `kvperf.analysis/1`: every view renders it and computes nothing.

`kvperf/schemas/analysis-1.json` is its JSON Schema.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kvperf.arith import Number
from kvperf.bound import Resources
from kvperf.capacity import Memory
from kvperf.ceilings import Ceilings


class UsedPeak(msgspec.Struct, frozen=True):
    """A dense matrix peak that the bound used, where it comes from, and the best reading of it on this GPU."""

    operand: str
    flops_per_s: Number
    dtype: str
    accumulator: str
    path: str
    kind: str
    source: tuple[str, ...]
    measured_flops_per_s: Number | None


class GpuFacts(msgspec.Struct, frozen=True):
    """The figures of the GPU that the analysis used.

    ridge_flops_per_byte  peak of the step's main operand format over the HBM peak
    mma_tile_rows         rows of the matrix tile that mma_utilisation assumes
    """

    name: str
    title: str
    architecture: str
    sms: int | None
    peaks: tuple[UsedPeak, ...]
    hbm_bytes_per_s: Number
    hbm_source: tuple[str, ...]
    hbm_capacity_bytes: int
    l2_capacity_bytes: int | None
    l2_bytes_per_s: Number | None
    link_bytes_per_s: Number | None
    measured_hbm_bytes_per_s: Number | None
    ridge_flops_per_byte: Number | None
    mma_tile_rows: int | None


class ModelFacts(msgspec.Struct, frozen=True):
    """The model: its published name and parameter counts (null for attention alone)."""

    name: str | None
    parameters: int | None
    active_parameters: int | None
    streamed_parameters: int | None
    max_context_tokens: int | None
    source: tuple[str, ...]


class RequestFacts(msgspec.Struct, frozen=True):
    """A group of sequences alike."""

    count: int
    context_tokens: int
    new_tokens: int


class WorkloadFacts(msgspec.Struct, frozen=True):
    """The step as it was asked for, defaults filled in.

    context_tokens, new_tokens  of the longest sequence
    module_dtypes               the dtype of each kind of matrix ("mixed" where layers differ)
    routing                     how experts are chosen, where the model has experts
    tp, pp, cp, ep, attention_dp  degrees of the layout, of `gpus` on `nodes` joined by `network`; the fields after them
                                are those of kvperf.layout.Parallelism, and how the stack talks
    """

    phase: str
    batch: int
    context_tokens: int
    new_tokens: int
    requests: tuple[RequestFacts, ...]
    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    module_dtypes: dict[str, str]
    page_tokens: int
    fusion: str
    qkv_gemms: int
    sampling: str
    routing: str | None
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    attention_dp: int = 1
    gpus: int = 1
    nodes: int = 1
    pipeline_stage: int = 1
    network: str | None = None
    micro_batches: int = 1
    context_scheme: str | None = None
    sequence_parallel: bool = False
    redundant_experts: int = 0
    expert_imbalance: float = 1.0
    routed_nodes: int | None = None
    all_reduce: str = "stack"
    overlap: bool = False
    stack: str | None = None
    cuda_graphs: bool = True
    cache_state: Literal["cold", "warm"] = "cold"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage and a step have in common: totals over their layers, on the busiest GPU.

    predicted_s  what the stack's kernels are predicted to take;  low, high: the ends of its 80 % interval
    link_bytes   that leave the GPU, whichever link they take; network_bytes: those of them for other nodes
    calibration  whose fitted constants made it, `borrowed` where they are another GPU's or stack's
    launches     operations that the stack launches
    """

    kernels: Number
    flops: Number
    matrix_flops: Number
    weight_bytes: Number
    activation_bytes: Number
    kv_read_bytes: Number
    kv_write_bytes: Number
    hbm_bytes: Number
    compulsory_bytes: Number
    link_bytes: Number
    network_bytes: Number
    flops_per_byte: Number | None
    mma_utilisation: Number | None
    resources: Resources
    bound_s: Number
    bound_by: str
    ceilings: Ceilings
    achievable_s: Number | None
    predicted_s: Number | None = None
    predicted_low_s: Number | None = None
    predicted_high_s: Number | None = None
    calibration: str | None = None
    launches: Number | None = None


class StageFigures(Figures, frozen=True, kw_only=True):
    """One stage of the step. `share` is of predicted_s where there is one, else of bound_s.

    covered_by  the stage whose kernel, as it was measured, does this one's work: this one's prediction is 0
    """

    name: str
    layers: int
    share: Number
    covered_by: str | None = None


class StepFigures(Figures, frozen=True, kw_only=True):
    """The whole step. Stages may overlap in bound_s; serial_bound_s is the sum of their bounds.

    host_s  what the step takes beside its kernels: scheduling, or without CUDA graphs the launches; part of predicted_s
    hidden_s  communication that runs beside the kernels (overlap): not in predicted_s
    pipeline_wait_s  what the busiest GPU waits for other pipeline stages; part of predicted_s (without one, of bound_s)
    """

    serial_bound_s: Number
    tokens_per_s_bound: Number
    tokens_per_s_predicted: Number | None = None
    host_s: Number | None = None
    pipeline_wait_s: Number = 0.0
    hidden_s: Number = 0.0


class AttentionFacts(msgspec.Struct, frozen=True):
    """Attention alone: its two products and its operands apart."""

    heads: int
    kv_heads: int
    head_dim: int
    qk_flops: Number
    av_flops: Number
    query_bytes: Number
    key_bytes: Number
    value_bytes: Number
    output_bytes: Number
    flops_per_byte: Number
    tensor_s: Number
    hbm_s: Number
    mma_utilisation_by_tile_rows: dict[str, Number]


class Replicated(msgspec.Struct, frozen=True):
    """What a layout keeps more than once: bytes over all its GPUs beyond those of one GPU that held everything.

    kind  weights, or KV of this step
    """

    name: str
    kind: Literal["weights", "kv"]
    bytes: Number


class Change(msgspec.Struct, frozen=True):
    """An option of `kvperf analyze` and a value with which the step would fit."""

    option: str
    value: str


class Analysis(msgspec.Struct, frozen=True, rename={"schema_version": "schema"}):
    """One step of one model on one GPU (or the busiest of several). All figures in SI base units."""

    schema_version: Literal["kvperf.analysis/1"]
    version: str
    gpu: GpuFacts
    model: ModelFacts
    workload: WorkloadFacts
    stages: tuple[StageFigures, ...]
    step: StepFigures
    memory: Memory
    attention: AttentionFacts | None = None
    replicated: tuple[Replicated, ...] = ()
    would_fit: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()


def json_text(record: object) -> str:
    """A record as indented JSON in base units; unknown, NaN and infinities are null."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n"
