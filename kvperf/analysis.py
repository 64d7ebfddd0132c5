"""Make the record of one step: bound every stage, add it up, see what fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvperf import __version__
from kvperf.arith import Number
from kvperf.bound import Resources, achievable_s, resources, ridge_flops_per_byte
from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES, Memory
from kvperf.ceilings import ceilings, mma_utilisation
from kvperf.evaluation import Step
from kvperf.evaluation import step as evaluated
from kvperf.layout import ALONE, Layout, Parallelism
from kvperf.model.architecture import MODULES, Experts, GroupedQuery, Model
from kvperf.model.parameters import parameters
from kvperf.predict.step import Options
from kvperf.record import (
    Analysis,
    AttentionFacts,
    GpuFacts,
    ModelFacts,
    RequestFacts,
    StageFigures,
    StepFigures,
    UsedPeak,
    WorkloadFacts,
)
from kvperf.replication import fullest, replicated
from kvperf.workload import Requests, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.work import Work


def analyse(
    gpu: Gpu,
    model: Model,
    workload: Workload,
    parallelism: Parallelism = ALONE,
    stack: str = "none",
    options: Options = Options(),
    memory_fraction: float = MEMORY_FRACTION,
    reserve_bytes: int = RESERVE_BYTES,
    find_fit: bool = False,
) -> Analysis:
    """Bound and predict every stage of one step; where it does not fit, `find_fit` looks for what would.

    Raises KvperfError where the layout does not divide the model.
    """
    whole = evaluated(gpu, model, workload, parallelism, stack, options)
    rank, gpu = whole.busiest, whole.gpu
    kept = fullest(model, whole, workload, memory_fraction, reserve_bytes)
    figures = _step(whole, workload)
    would_fit = ()
    if find_fit and kept.fits is False:
        from kvperf.fitting import Tried, nearest

        would_fit = nearest(Tried(gpu, model, workload, parallelism, memory_fraction, reserve_bytes), kept)
    return Analysis(
        schema_version="kvperf.analysis/1",
        version=__version__,
        gpu=_gpu_facts(gpu, work := rank.work),
        model=_model_facts(model, workload),
        workload=_workload_facts(model, whole, workload, stack, options),
        stages=tuple(_stage(whole, index, figures) for index in range(len(rank.stages))),
        step=figures,
        memory=kept,
        attention=_attention_facts(rank.layout, workload, work, figures) if workload.scope == "attention" else None,
        replicated=replicated(model, whole, workload),
        would_fit=would_fit,
        warnings=(*_warnings(gpu, model, workload, kept), *rank.predicted.warnings),
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
        "link_bytes": work.link_bytes + work.network_bytes + work.host_bytes,
        "network_bytes": work.network_bytes,
        "flops_per_byte": work.matrix_flops / hbm_bytes if hbm_bytes else None,
        "mma_utilisation": mma_utilisation(work, gpu),
        "resources": busy,
        "bound_s": busy.longest_s,
        "bound_by": busy.binding(),
        "ceilings": ceilings(work, gpu),
        "achievable_s": achievable_s(work, gpu),
    }


def _stage(whole: Step, index: int, step: StepFigures) -> StageFigures:
    """A stage of the busiest rank, over all micro-batches."""
    rank, rest, times = whole.busiest, whole.rest, (whole.larger, whole.micro_batches - whole.larger)
    stage, work = rank.stages[index], _both(rank.stages[index].work, rest.stages[index].work, times)
    figures = _figures(work, resources(work, whole.gpu), whole.gpu)
    own, all_s = figures["bound_s"], step.serial_bound_s
    if rank.predicted.stages:
        found, other = rank.predicted.stages[index], rest.predicted.stages[index]
        own, all_s = _both(found.seconds, other.seconds, times), step.predicted_s
        figures |= {
            "predicted_s": own,
            "predicted_low_s": _both(found.low_s, other.low_s, times),
            "predicted_high_s": _both(found.high_s, other.high_s, times),
            "calibration": found.calibration,
            "launches": _both(found.launches, other.launches, times),
            "covered_by": found.covered_by,
        }
    return StageFigures(name=stage.name, layers=stage.layers, share=own / all_s if all_s else 0.0, **figures)


def _both(first: Any, second: Any, times: tuple[Any, Any]) -> Any:
    """A figure of the larger micro-batches and of the rest, each as often as there are such."""
    if times == (1, 0):
        return first
    if hasattr(first, "times"):
        return first.times(times[0]) + second.times(times[1]) if times[1] else first.times(times[0])
    return times[0] * first + times[1] * second


def _step(whole: Step, workload: Workload) -> StepFigures:
    rank, rest, gpu = whole.busiest, whole.rest, whole.gpu
    times = whole.larger, whole.micro_batches - whole.larger
    work = _both(rank.work, rest.work, times)
    figures = _figures(work, resources(work, gpu), gpu) | {"bound_s": whole.bound_s}
    # A measured ceiling holds for the step where it holds for every stage of it.
    if any(achievable_s(stage.work, gpu) is None for stage in rank.stages):
        figures["achievable_s"] = None
    if whole.predicted_s is not None:
        figures |= {
            "predicted_s": whole.predicted_s,
            "predicted_low_s": whole.predicted_low_s,
            "predicted_high_s": whole.predicted_high_s,
            "calibration": rank.predicted.calibration,
            "launches": _both(rank.predicted.launches, rest.predicted.launches, times),
            "host_s": whole.host_s,
            "tokens_per_s_predicted": workload.tokens / whole.predicted_s,
        }
    return StepFigures(
        serial_bound_s=_both(rank.serial_bound_s, rest.serial_bound_s, times) + whole.bound_wait_s,
        tokens_per_s_bound=workload.tokens / whole.bound_s,
        pipeline_wait_s=whole.wait_s,
        **figures,
    )


def _gpu_facts(gpu: Gpu, work: Work) -> GpuFacts:
    used = {unit: gpu.peak(unit) for unit in work.matrix_by_operand}
    main = max(work.matrix_by_operand, key=lambda unit: work.matrix_by_operand[unit], default=None)
    return GpuFacts(
        name=gpu.name,
        title=gpu.title,
        architecture=gpu.architecture.name,
        sms=gpu.sms,
        peaks=tuple(
            UsedPeak(
                unit,
                p.flops_per_s,
                p.dtype,
                p.accumulator,
                p.path,
                p.kind,
                cited(gpu, p.source),
                gpu.measured_peak(unit),
            )
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


def _workload_facts(model: Model, whole: Step, workload: Workload, stack: str, options: Options) -> WorkloadFacts:
    layout = whole.busiest.layout
    spread = layout.parallelism
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
        tp=spread.tp,
        pp=spread.pp,
        cp=spread.cp,
        ep=spread.ep,
        attention_dp=spread.attention_dp,
        gpus=spread.gpus,
        nodes=spread.nodes,
        network=whole.gpu.cluster.network.name if whole.gpu.cluster.network and spread.nodes > 1 else None,
        micro_batches=whole.micro_batches,
        context_scheme=spread.context if spread.cp > 1 else None,
        sequence_parallel=layout.ends.sequence_parallel,
        redundant_experts=spread.redundant_experts,
        expert_imbalance=spread.expert_imbalance,
        routed_nodes=spread.routed_nodes,
        all_reduce=options.all_reduce,
        overlap=options.overlap,
        stack=None if stack == "none" else stack,
        cuda_graphs=options.cuda_graphs,
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


def _warnings(gpu: Gpu, model: Model, workload: Workload, kept: Memory) -> tuple[str, ...]:
    found = []
    longest = max(r.context_tokens for r in workload.requests)
    if longest > model.max_context_tokens:
        found.append(f"context {longest} is beyond {model.name}'s maximum of {model.max_context_tokens} tokens")
    if kept.fits is False and kept.capacity_bytes is not None:
        found.append(
            f"this step does not fit: it needs {_gib(_needed(kept))} of the "
            f"{_gib(kept.capacity_bytes * kept.usable_fraction)} that {kept.usable_fraction:.0%} of {gpu.name} gives"
        )
    return tuple(found)


def _needed(kept: Memory) -> Number:
    held = kept.resident_weight_bytes + kept.kv_cache_bytes + kept.activation_peak_bytes
    return held + kept.reserve_bytes + kept.collective_buffer_bytes


def _gib(size: Number) -> str:
    return f"{size / 2**30:.1f} GiB"
