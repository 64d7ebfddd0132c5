"""A stage explained: its printed formulas evaluated, and the resources of its bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.bound import resources
from kvperf.errors import unknown_name
from kvperf.evaluation import step as evaluated
from kvperf.facts import cited
from kvperf.layout import ALONE, Parallelism
from kvperf.stages.symbols import Explanation, explain

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model
    from kvperf.workload import Workload


class Divided(msgspec.Struct, frozen=True):
    """An amount over a peak: seconds of one resource for one layer."""

    resource: str
    amount: Any
    unit: str
    peak: float
    source: tuple[str, ...]
    seconds: float


class ExplainedPart(msgspec.Struct, frozen=True):
    """One kind of layers of a stage."""

    layers: int
    explanation: Explanation
    resources: tuple[Divided, ...]


class ExplainedStage(msgspec.Struct, frozen=True):
    """A stage and what each of its kinds of layers computes and moves, for one layer.

    busy_s  seconds of each resource over all layers; the longest is the bound
    """

    name: str
    gpu: str
    parts: tuple[ExplainedPart, ...]
    busy_s: dict[str, float]
    bound_s: float


def explain_stage(
    gpu: Gpu, model: Model, workload: Workload, name: str, parallelism: Parallelism = ALONE
) -> ExplainedStage:
    """Explain the stage called `name`, of the busiest rank. Raises KvperfError where the step has no such stage."""
    whole = evaluated(gpu, model, workload, parallelism)
    gpu, stages = whole.gpu, {stage.name: stage for rank in whole.ranks for stage in rank.stages}
    stages |= {stage.name: stage for stage in whole.busiest.stages}
    name = name.lower().replace("-", "_")
    if name not in stages:
        raise unknown_name("stage of this step", name, stages)
    stage = stages[name]
    parts: list[ExplainedPart] = []
    for part in stage.parts:
        found = ExplainedPart(part.layers, explain(part.formula, part.shard, part.workload), _divided(part, gpu))
        same = next((i for i, p in enumerate(parts) if p.explanation == found.explanation), None)
        if same is None:
            parts.append(found)
        else:  # kinds of layers that differ elsewhere only
            parts[same] = msgspec.structs.replace(found, layers=parts[same].layers + part.layers)
    busy = resources(stage.work, gpu)
    busy_s = {"tensor": busy.tensor_s, "hbm": busy.hbm_s, "link": busy.link_s}
    return ExplainedStage(name, gpu.name, tuple(parts), busy_s, busy.longest_s)


def _divided(part: Any, gpu: Gpu) -> tuple[Divided, ...]:
    work = part.of_a_layer
    found = []
    for operand, flops in work.matrix_by_operand.items():
        peak = gpu.peak(operand)
        seconds = flops / peak.flops_per_s
        found.append(Divided("tensor", flops, "FLOP", peak.flops_per_s, cited(gpu, peak.source), seconds))
    hbm, sources = gpu.hbm_bytes_per_s, cited(gpu, gpu.profile.memory.hbm.bandwidth.source)
    found.append(Divided("hbm", work.compulsory_bytes, "B", hbm, sources, work.compulsory_bytes / hbm))
    for moved, link in ((work.link_bytes, _near(gpu)), (work.network_bytes, _far(gpu))):
        if moved and link:
            rate, sources = link
            found.append(Divided("link", moved, "B", rate, sources, moved / rate))
    pcie = gpu.profile.links.pcie
    if work.host_bytes and pcie:
        rate, sources = float(pcie.per_direction.value), cited(gpu, pcie.per_direction.source)
        found.append(Divided("link", work.host_bytes, "B", rate, sources, work.host_bytes / rate))
    return tuple(found)


def _near(gpu: Gpu) -> tuple[float, tuple[str, ...]] | None:
    """The rate of the link between GPUs of a node, and its sources."""
    links = gpu.profile.links
    link = links.gpu if gpu.link_bytes_per_s else links.pcie
    return (float(link.per_direction.value), cited(gpu, link.per_direction.source)) if link else None


def _far(gpu: Gpu) -> tuple[float, tuple[str, ...]] | None:
    """The rate of the network between nodes, and its sources."""
    network = gpu.cluster.network
    if network is None:
        return None
    return network.bytes_per_s, tuple(str(network.sources[key]) for key in network.per_direction.source)
