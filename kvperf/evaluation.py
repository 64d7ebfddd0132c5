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
from kvperf.layout import ALONE, Layout, Parallelism, micro_batch, micro_batches, on_nodes, one_rank, stages
from kvperf.pipeline import StageWork, pipeline, total_work
from kvperf.predict.calibration import Constants
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
    micro_batches  m, of which `larger` have a sequence more than the others;  rest: one of these on the busiest rank
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
    larger: Any
    rest: RankStep
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
    constants: Constants | None = None,
) -> Step:
    """Bound and predict one step, with `constants` of the GPU and stack where a search has them already.

    Raises KvperfError where the layout does not divide the model or fit the cluster.
    """
    one_rank(model, workload, parallelism)  # what does not divide the model is told before what does not fit the nodes
    parallelism = placed(gpu, parallelism)
    layouts = stages(model, workload, parallelism)
    gpu = joined(gpu, parallelism.gpus, parallelism.nodes)
    m = micro_batches(workload, parallelism)
    ranks = _ranks(gpu, layouts, micro_batch(workload, m), stack, options, constants)
    if parallelism.pp == 1:
        return _alone(gpu, ranks[0], workload)
    larger, rest = _uneven(workload, m), ranks
    if isinstance(larger, int) and larger < m:
        rest = _ranks(gpu, layouts, micro_batch(workload, m, last=True), stack, options, constants)
    return _pipelined(gpu, ranks, rest, m, larger, workload)


def _ranks(
    gpu: Gpu,
    layouts: Sequence[Layout],
    part: Workload,
    stack: str,
    options: Options,
    constants: Constants | None,
) -> tuple[RankStep, ...]:
    """One micro-batch on a rank of every stage; stages that hold the same are evaluated once."""
    known = {id(layout): rank_step(gpu, layout, part, stack, options, constants) for layout in layouts}
    return tuple(known[id(layout)] for layout in layouts)


def _uneven(workload: Workload, m: Any) -> Any:
    """How many micro-batches have a sequence more than the others; all, where they are alike."""
    sequences = workload.sequences
    if not (isinstance(sequences, int) and isinstance(m, int)):
        return m  # over arrays every micro-batch counts as the largest
    return sequences % m or m


def placed(gpu: Gpu, parallelism: Parallelism) -> Parallelism:
    """The layout on nodes as large as the GPU's are."""
    return parallelism if parallelism.gpus == 1 else on_nodes(parallelism, node_size(gpu))


def rank_step(
    gpu: Gpu,
    layout: Layout,
    workload: Workload,
    stack: str,
    options: Options,
    constants: Constants | None = None,
) -> RankStep:
    """One micro-batch (`workload`, of all ranks) on one rank."""
    parts = pipeline(layout, workload)
    busy = tuple(resources(stage.work, gpu) for stage in parts)
    bounds_s = [each.longest_s for each in busy]
    predicted = predict_step(parts, bounds_s, workload, gpu, stack, options, constants)
    return RankStep(layout, parts, busy, predicted)


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
        larger=1,
        rest=rank,
        predicted_s=found.seconds,
        predicted_low_s=found.low_s,
        predicted_high_s=found.high_s,
        host_s=found.host_s,
    )


def _pipelined(
    gpu: Gpu, ranks: tuple[RankStep, ...], rest: tuple[RankStep, ...], m: Any, larger: Any, workload: Workload
) -> Step:
    once = workload.reads_prompts
    bounds, others = ([resources(rank.work, gpu).longest_s for rank in part] for part in (ranks, rest))
    bound_s, bound_wait_s = _passed(bounds, others, larger, m, once)
    if any(rank.predicted.seconds is None for rank in ranks):
        at = _largest(bounds)
        return Step(gpu, ranks, ranks[at], m, bound_s, bound_wait_s, bound_wait_s, larger, rest[at])
    kernels, others = _kernels(ranks, "seconds"), _kernels(rest, "seconds")
    at = _largest(kernels)
    host_s = _hosts_s(ranks[at], rest[at], larger, m)
    beside_s = 0.0 if host_s is None else host_s
    predicted_s, wait_s = _passed(kernels, others, larger, m, once)
    low_s, high_s = (
        _passed(_kernels(ranks, name), _kernels(rest, name), larger, m, once)[0] for name in ("low_s", "high_s")
    )
    return Step(
        gpu=gpu,
        ranks=ranks,
        busiest=ranks[at],
        micro_batches=m,
        bound_s=bound_s,
        bound_wait_s=bound_wait_s,
        wait_s=wait_s,
        larger=larger,
        rest=rest[at],
        predicted_s=predicted_s + beside_s,
        predicted_low_s=low_s + beside_s,
        predicted_high_s=high_s + beside_s,
        host_s=host_s,
    )


def _hosts_s(rank: RankStep, rest: RankStep, larger: Any, m: Any) -> Any:
    """The scheduler's time for all micro-batches; None where no load test showed it."""
    if rank.predicted.host_s is None or rest.predicted.host_s is None:
        return None
    return larger * rank.predicted.host_s + (m - larger) * rest.predicted.host_s


def _kernels(ranks: Sequence[RankStep], name: str) -> list[Any]:
    """A time of each rank's micro-batch without the host's part."""
    return [getattr(rank.predicted, name) - _host_s(rank) for rank in ranks]


def _host_s(rank: RankStep) -> Any:
    return 0.0 if rank.predicted.host_s is None else rank.predicted.host_s


def _passed(times: list[Any], others: list[Any], larger: Any, m: Any, once: bool) -> tuple[Any, Any]:
    """How long m micro-batches take through the stages, `larger` of them as `times` say, the rest as `others`.

    A prompt's pass ends when the slowest stage has done all and the last has gone on. Returns that, and what of it the
    stage that works longest waits.
    """
    working = [larger * t + (m - larger) * o for t, o in zip(times, others, strict=True)]
    busy: Any = 0.0
    for each in working:
        busy = most(busy, each)
    whole = most(busy, total(times))
    if once:
        last = others if not isinstance(larger, int) or larger < m else times
        whole = 0.0
        for at, each in enumerate(working):
            whole = most(whole, total(times[:at]) + each + total(last[at + 1 :]))
    return whole, whole - busy


def _largest(times: list[Any]) -> int:
    """Index of the longest time; of arrays, at their last point."""
    last = [float(t if isinstance(t, int | float) else t[-1]) for t in times]
    return max(range(len(last)), key=last.__getitem__)
