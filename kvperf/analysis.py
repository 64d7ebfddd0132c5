"""The record of one analysis: `kvperf.analysis/1`. Every view renders it and computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kvperf import __version__
from kvperf.arith import Number
from kvperf.bound import Resources, achievable_s, resources, ridge_flops_per_byte
from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES, Memory, memory
from kvperf.ceilings import Ceilings, ceilings, mma_utilisation
from kvperf.layout import Layout, one_rank
from kvperf.model.architecture import MODULES, Experts, GroupedQuery, Model
from kvperf.model.parameters import parameters
from kvperf.pipeline import StageWork, pipeline, total_work
from kvperf.workload import Requests, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.work import Work


class UsedPeak(msgspec.Struct, frozen=True):
    """A dense matrix peak that the bound used, and where it comes from."""

    operand: str
    flops_per_s: Number
    dtype: str
    accumulator: str
    path: str
    kind: str
    source: tuple[str, ...]


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
    stack: str | None = None
    cuda_graphs: bool = True
    cache_state: Literal["cold", "warm"] = "cold"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage and a step have in common: totals over their layers, on the busiest GPU."""

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
    """One stage of the step. `share` is of predicted_s where there is one, else of bound_s."""

    name: str
    layers: int
    share: Number


class StepFigures(Figures, frozen=True, kw_only=True):
    """The whole step. Stages may overlap in bound_s; serial_bound_s is the sum of their bounds."""

    serial_bound_s: Number
    tokens_per_s_bound: Number
    tokens_per_s_predicted: Number | None = None


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
    warnings: tuple[str, ...] = ()


def analyse(
    gpu: Gpu,
    model: Model,
    workload: Workload,
    tp: int = 1,
    memory_fraction: float = MEMORY_FRACTION,
    reserve_bytes: int = RESERVE_BYTES,
) -> Analysis:
    """Bound every stage of one step. Raises KvperfError where `tp` does not divide the model."""
    layout = one_rank(model, workload, tp)
    stages = pipeline(layout, workload)
    kept = memory(model, layout, workload, stages, gpu.hbm_capacity_bytes, memory_fraction, reserve_bytes)
    busy = [resources(stage.work, gpu) for stage in stages]
    step = _step(stages, busy, gpu, workload)
    return Analysis(
        schema_version="kvperf.analysis/1",
        version=__version__,
        gpu=_gpu_facts(gpu, step_work := total_work(tuple(stage.work for stage in stages))),
        model=_model_facts(model, workload),
        workload=_workload_facts(model, layout, workload),
        stages=tuple(_stage(stage, b, gpu, step.serial_bound_s) for stage, b in zip(stages, busy, strict=True)),
        step=step,
        memory=kept,
        attention=_attention_facts(layout, workload, step_work, step) if workload.scope == "attention" else None,
        warnings=_warnings(gpu, model, workload, kept, tp),
    )


def _figures(work: Work, busy: Resources, gpu: Gpu) -> dict[str, Any]:
    hbm_bytes = work.hbm_bytes
    return {
        "kernels": work.kernels,
        "flops": work.flops,
        "matrix_flops": work.matrix_flops,
        "weight_bytes": work.weight_bytes,
        "activation_bytes": work.activation_bytes,
        "kv_read_bytes": work.kv_read_bytes,
        "kv_write_bytes": work.kv_write_bytes,
        "hbm_bytes": hbm_bytes,
        "compulsory_bytes": work.compulsory_bytes,
        "link_bytes": work.link_bytes + work.host_bytes,
        "flops_per_byte": work.matrix_flops / hbm_bytes if hbm_bytes else None,
        "mma_utilisation": mma_utilisation(work, gpu),
        "resources": busy,
        "bound_s": busy.longest_s,
        "bound_by": busy.binding(),
        "ceilings": ceilings(work, gpu),
        "achievable_s": achievable_s(work, gpu),
    }


def _stage(stage: StageWork, busy: Resources, gpu: Gpu, serial_bound_s: float) -> StageFigures:
    share = busy.longest_s / serial_bound_s if serial_bound_s else 0.0
    return StageFigures(name=stage.name, layers=stage.layers, share=share, **_figures(stage.work, busy, gpu))


def _step(stages: tuple[StageWork, ...], busy: list[Resources], gpu: Gpu, workload: Workload) -> StepFigures:
    work = total_work(tuple(stage.work for stage in stages))
    together = resources(work, gpu)
    serial = 0.0
    for stage in busy:
        serial = serial + stage.longest_s
    figures = _figures(work, together, gpu)
    # A measured ceiling holds for the step where it holds for every stage of it.
    if any(achievable_s(stage.work, gpu) is None for stage in stages):
        figures["achievable_s"] = None
    return StepFigures(serial_bound_s=serial, tokens_per_s_bound=workload.tokens / together.longest_s, **figures)


def _gpu_facts(gpu: Gpu, work: Work) -> GpuFacts:
    used = {unit: gpu.peak(unit) for unit in work.matrix_by_operand}
    main = max(work.matrix_by_operand, key=lambda unit: work.matrix_by_operand[unit], default=None)
    return GpuFacts(
        name=gpu.name,
        title=gpu.title,
        architecture=gpu.architecture.name,
        sms=gpu.sms,
        peaks=tuple(
            UsedPeak(unit, p.flops_per_s, p.dtype, p.accumulator, p.path, p.kind, cited(gpu, p.source))
            for unit, p in used.items()
        ),
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
        hbm_source=cited(gpu, gpu.profile.memory.hbm.bandwidth.source),
        hbm_capacity_bytes=gpu.hbm_capacity_bytes,
        l2_capacity_bytes=gpu.l2_capacity_bytes,
        l2_bytes_per_s=gpu.l2_bytes_per_s,
        link_bytes_per_s=gpu.link_bytes_per_s,
        measured_hbm_bytes_per_s=gpu.measured_hbm_bytes_per_s,
        ridge_flops_per_byte=ridge_flops_per_byte(used[main].flops_per_s, gpu.hbm_bytes_per_s) if main else None,
        mma_tile_rows=gpu.mma_rows,
    )


def cited(gpu: Gpu, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The sources that `keys` stand for in the GPU's profile, spelled out."""
    return tuple(str(gpu.profile.sources[key]) for key in keys)


def _model_facts(model: Model, workload: Workload) -> ModelFacts:
    if workload.scope == "attention":
        return ModelFacts(None, None, None, None, None, model.source)
    count = parameters(model)
    return ModelFacts(
        name=model.name,
        parameters=count.total,
        active_parameters=count.active,
        streamed_parameters=count.active_streamed,
        max_context_tokens=model.max_context_tokens,
        source=model.source,
    )


def _workload_facts(model: Model, layout: Layout, workload: Workload) -> WorkloadFacts:
    longest = max(workload.requests, key=lambda r: r.context_tokens)
    shards = [owned.shard for owned in layout.kinds]
    first = shards[0]
    dtypes = {}
    for module in MODULES:
        names = {getattr(shard.formats, module).name for shard in shards}
        dtypes[module] = names.pop() if len(names) == 1 else "mixed"
    weight = workload.weight_dtype or model.checkpoint.quantised or first.formats.base.name
    routed = any(isinstance(shard.ffn, Experts) for shard in shards)
    return WorkloadFacts(
        phase=workload.phase,
        batch=workload.sequences,
        context_tokens=longest.context_tokens,
        new_tokens=longest.new_tokens,
        requests=tuple(_request_facts(r) for r in workload.requests),
        weight_dtype=weight,
        activation_dtype=(first.quantised_input or first.activation).name,
        kv_dtype=first.kv.name,
        module_dtypes=dtypes,
        page_tokens=workload.page_tokens,
        fusion=workload.fusion,
        qkv_gemms=3 if workload.fusion == "eager" else workload.qkv_gemms,
        sampling=workload.sampling,
        routing="uniform" if routed else None,
        tp=layout.tp,
    )


def _request_facts(requests: Requests) -> RequestFacts:
    return RequestFacts(requests.count, requests.context_tokens, requests.new_tokens)


def _attention_facts(layout: Layout, workload: Workload, work: Work, step: StepFigures) -> AttentionFacts:
    shard = layout.first
    mixer = shard.mixer
    assert isinstance(mixer, GroupedQuery)
    rows = workload.tokens * mixer.heads * shard.activation.element_bytes
    key_share = mixer.head_dim / (mixer.head_dim + mixer.value_dim)
    pairs = workload.visible_pairs()
    return AttentionFacts(
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_dim=mixer.head_dim,
        qk_flops=2 * mixer.heads * mixer.head_dim * pairs,
        av_flops=2 * mixer.heads * mixer.value_dim * pairs,
        query_bytes=rows * mixer.head_dim,
        key_bytes=work.kv_read_bytes * key_share,
        value_bytes=work.kv_read_bytes * (1 - key_share),
        output_bytes=rows * mixer.value_dim,
        flops_per_byte=work.matrix_flops / work.hbm_bytes,
        tensor_s=step.resources.tensor_s,
        hbm_s=step.resources.hbm_s,
        mma_utilisation_by_tile_rows={
            str(tile): work.matrix_flops / padded for tile, padded in work.padded_flops.items()
        },
    )


def _warnings(gpu: Gpu, model: Model, workload: Workload, kept: Memory, tp: int) -> tuple[str, ...]:
    found = []
    longest = max(r.context_tokens for r in workload.requests)
    if longest > model.max_context_tokens:
        found.append(f"context {longest} is beyond {model.name}'s maximum of {model.max_context_tokens} tokens")
    if kept.fits is False:
        found.append(
            f"this step does not fit: it needs {_gib(_needed(kept))}, {gpu.name} has {_gib(kept.capacity_bytes)} "
            f"of which {kept.usable_fraction:.0%} are used"
        )
    if tp > 1 and workload.scope == "step":
        found.append(f"the collectives of --tp {tp} are not in these figures: the bound is one rank's own work")
    return tuple(found)


def _needed(kept: Memory) -> Number:
    return kept.resident_weight_bytes + kept.kv_cache_bytes + kept.activation_peak_bytes + kept.reserve_bytes


def _gib(size: Number | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
