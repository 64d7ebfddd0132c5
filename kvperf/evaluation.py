"""One step on the ranks of a layout: each pipeline stage's work, bound and prediction, and how stages make a step.

A pipeline runs the batch in m micro-batches; t is the time of one on a stage. Decode steps follow each other without a
break: a round in which every sequence gets its token takes max(m·max t, Σt), as a micro-batch cannot start again before
its token is out (and every stage reads its weights m times). A prompt passes once: Σt + (m − 1)·max t.
Source: Narayanan et al. 2021 (arXiv:2104.04473) section 2.2, forward passes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import most, total
from kvperf.bound import Resources, resources
from kvperf.hardware.cluster import joined, node_size
from kvperf.layout import ALONE, Layout, Parallelism, check_nodes, micro_batch, micro_batches, stages
from kvperf.pipeline import StageWork, pipeline, total_work
from kvperf.predict.step import Options, PredictedStep, predict_step

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model
    from kvperf.work import Work
    from kvperf.workload import Workload


class RankStep(msgspec.Struct, frozen=True):
    """One micro-batch on one rank of a pipeline stage."""

    layout: Layout
    stages: tuple[StageWork, ...]
    busy: tuple[Resources, ...]
    predicted: PredictedStep

    @property
    def work(self) -> Work:
        return total_work(tuple(stage.work for stage in self.stages))

    @property
    def serial_bound_s(self) -> Any:
        """The sum of the stages' bounds."""
        return total(busy.longest_s for busy in self.busy) + 0.0


class Step(msgspec.Struct, frozen=True):
    """A step on all ranks.

    gpu            with the links that the layout uses
    ranks          one of every pipeline stage, in order
    busiest        the rank whose micro-batch takes longest
    micro_batches  m
    bound_s, predicted_s (and low, high; None without a prediction)  of the whole step, waiting included
    wait_s         that the busiest rank waits for the others in it: the pipeline's bubble
    host_s         part of predicted_s
    """

    gpu: Gpu
    ranks: tuple[RankStep, ...]
    busiest: RankStep
    micro_batches: Any
    bound_s: Any
    bound_wait_s: Any
    wait_s: Any
    predicted_s: Any = None
    predicted_low_s: Any = None
    predicted_high_s: Any = None
    host_s: Any = None


def step(
    gpu: Gpu,
    model: Model,
    workload: Workload,
    parallelism: Parallelism = ALONE,
    stack: str = "none",
    options: Options = Options(),
) -> Step:
    """Bound and predict one step. Raises KvperfError where the layout does not divide the model or fit the cluster."""
    parallelism = placed(gpu, parallelism)
    layouts = stages(model, workload, parallelism)
    gpu = joined(gpu, parallelism.gpus)
    check_nodes(parallelism)
    m = micro_batches(workload, parallelism)
    part = micro_batch(workload, m)
    known = {id(layout): rank_step(gpu, layout, part, stack, options) for layout in layouts}
    ranks = tuple(known[id(layout)] for layout in layouts)
    if parallelism.pp == 1:
        return _alone(gpu, ranks[0], workload)
    return _pipelined(gpu, ranks, m, workload)


def placed(gpu: Gpu, parallelism: Parallelism) -> Parallelism:
    """The layout on nodes as large as the GPU's are."""
    if parallelism.gpus == 1:
        return parallelism
    return msgspec.structs.replace(parallelism, node_gpus=node_size(gpu))


def rank_step(gpu: Gpu, layout: Layout, workload: Workload, stack: str, options: Options) -> RankStep:
    """One micro-batch (`workload`, of all ranks) on one rank."""
    parts = pipeline(layout, workload)
    busy = tuple(resources(stage.work, gpu) for stage in parts)
    return RankStep(
        layout, parts, busy, predict_step(parts, [b.longest_s for b in busy], workload, gpu, stack, options)
    )


def _alone(gpu: Gpu, rank: RankStep, workload: Workload) -> Step:
    found, bound_s = rank.predicted, resources(rank.work, gpu).longest_s
    return Step(
        gpu=gpu,
        ranks=(rank,),
        busiest=rank,
        micro_batches=1,
        bound_s=bound_s,
        bound_wait_s=0.0,
        wait_s=0.0,
        predicted_s=found.seconds,
        predicted_low_s=found.low_s,
        predicted_high_s=found.high_s,
        host_s=found.host_s,
    )


def _pipelined(gpu: Gpu, ranks: tuple[RankStep, ...], m: Any, workload: Workload) -> Step:
    bounds = [resources(rank.work, gpu).longest_s for rank in ranks]
    bound_s, bound_wait_s = _passed(bounds, m, workload.reads_prompts)
    if any(rank.predicted.seconds is None for rank in ranks):
        busiest = ranks[_largest(bounds)]
        return Step(gpu, ranks, busiest, m, bound_s, bound_wait_s, bound_wait_s)
    kernels, low, high = (_kernels(ranks, name) for name in ("seconds", "low_s", "high_s"))
    hosts = [rank.predicted.host_s for rank in ranks if rank.predicted.host_s is not None]
    host_s = m * hosts[0] if hosts else None
    beside_s = 0.0 if host_s is None else host_s
    predicted_s, wait_s = _passed(kernels, m, workload.reads_prompts)
    return Step(
        gpu=gpu,
        ranks=ranks,
        busiest=ranks[_largest(kernels)],
        micro_batches=m,
        bound_s=bound_s,
        bound_wait_s=bound_wait_s,
        wait_s=wait_s,
        predicted_s=predicted_s + beside_s,
        predicted_low_s=_passed(low, m, workload.reads_prompts)[0] + beside_s,
        predicted_high_s=_passed(high, m, workload.reads_prompts)[0] + beside_s,
        host_s=host_s,
    )


def _kernels(ranks: Sequence[RankStep], name: str) -> list[Any]:
    """A time of each rank's micro-batch without the host's part."""
    return [getattr(rank.predicted, name) - _host_s(rank) for rank in ranks]


def _host_s(rank: RankStep) -> Any:
    return 0.0 if rank.predicted.host_s is None else rank.predicted.host_s


def _passed(times: list[Any], m: Any, once: bool) -> tuple[Any, Any]:
    """How long m micro-batches take through the stages, and what of it the slowest stage waits."""
    longest: Any = 0.0
    for each in times:
        longest = most(longest, each)
    through = total(times)
    whole = through + (m - 1) * longest if once else most(m * longest, through)
    return whole, whole - m * longest


def _largest(times: list[Any]) -> int:
    """Index of the longest time; of arrays, at their last point."""
    last = [float(t if isinstance(t, int | float) else t[-1]) for t in times]
    return max(range(len(last)), key=last.__getitem__)
