"""Make the record of one step: bound every stage, add it up, see what fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvperf import __version__
from kvperf.arith import Number
from kvperf.bound import Resources, achievable_s, resources
from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES, Memory
from kvperf.ceilings import ceilings, mma_utilisation
from kvperf.evaluation import Step
from kvperf.evaluation import step as evaluated
from kvperf.facts import attention_facts, gpu_facts, model_facts, workload_facts
from kvperf.layout import ALONE, Parallelism
from kvperf.model.architecture import DeltaNet, Lightning, Mamba2, Model
from kvperf.predict.step import Options
from kvperf.record import (
    Analysis,
    StageFigures,
    StepFigures,
)
from kvperf.replication import fullest, replicated
from kvperf.workload import Workload

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
    cautions = dict.fromkeys(warning for each in whole.ranks for warning in each.predicted.warnings)
    would_fit = ()
    if find_fit and kept.fits is False:
        from kvperf.fitting import Tried, nearest

        would_fit = nearest(Tried(gpu, model, workload, parallelism, memory_fraction, reserve_bytes), kept)
    return Analysis(
        schema_version="kvperf.analysis/1",
        version=__version__,
        gpu=gpu_facts(gpu, work := rank.work),
        model=model_facts(model, workload),
        workload=workload_facts(model, whole, workload, stack, options),
        stages=tuple(_stage(whole, index, figures) for index in range(len(rank.stages))),
        step=figures,
        memory=kept,
        attention=attention_facts(rank.layout, workload, work, figures) if workload.scope == "attention" else None,
        replicated=replicated(model, whole, workload),
        would_fit=would_fit,
        warnings=(*_warnings(gpu, model, workload, kept, rank.layout.parallelism), *cautions),
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
            "hidden_s": _both(rank.predicted.hidden_s, rest.predicted.hidden_s, times),
            "tokens_per_s_predicted": workload.tokens / whole.predicted_s,
        }
    return StepFigures(
        serial_bound_s=_both(rank.serial_bound_s, rest.serial_bound_s, times) + whole.bound_wait_s,
        tokens_per_s_bound=workload.tokens / whole.bound_s,
        pipeline_wait_s=whole.wait_s,
        **figures,
    )


def _warnings(gpu: Gpu, model: Model, workload: Workload, kept: Memory, parallelism: Parallelism) -> tuple[str, ...]:
    found = []
    cluster = gpu.cluster
    have = (cluster.node_gpus or 0) * (cluster.nodes or 0)
    if have > parallelism.gpus:
        found.append(
            f"the layout uses {parallelism.gpus} of the cluster's {have} GPUs: --tp, --pp and the like use more"
        )
    if parallelism.cp > 1 and any(isinstance(m, DeltaNet | Lightning | Mamba2) for m in model.mixers.values()):
        found.append("states of recurrent layers pass from one context rank to the next: that is not counted")
    longest = max(r.context_tokens for r in workload.requests)
    if longest > model.max_context_tokens:
        found.append(f"context {longest} is beyond {model.name}'s maximum of {model.max_context_tokens} tokens")
    if kept.fits is False and kept.capacity_bytes is not None:
        found.append(
            f"this step does not fit: it needs {_gib(kept.needed_bytes)} of the "
            f"{_gib(kept.capacity_bytes * kept.usable_fraction)} that {kept.usable_fraction:.0%} of {gpu.name} gives"
        )
    return tuple(found)


def _gib(size: Number) -> str:
    return f"{size / 2**30:.1f} GiB"
