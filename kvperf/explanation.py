"""A stage explained: its printed formulas evaluated, and the resources of its bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.analysis import cited
from kvperf.bound import resources
from kvperf.errors import unknown_name
from kvperf.layout import one_rank
from kvperf.pipeline import pipeline
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


def explain_stage(gpu: Gpu, model: Model, workload: Workload, name: str, tp: int = 1) -> ExplainedStage:
    """Explain the stage called `name`. Raises KvperfError where the step has no such stage."""
    stages = {stage.name: stage for stage in pipeline(one_rank(model, workload, tp), workload)}
    name = name.lower().replace("-", "_")
    if name not in stages:
        raise unknown_name("stage of this step", name, stages)
    stage = stages[name]
    parts: list[ExplainedPart] = []
    for part in stage.parts:
        found = ExplainedPart(part.layers, explain(part.formula, part.shard, workload), _divided(part, gpu, workload))
        same = next((i for i, p in enumerate(parts) if p.explanation == found.explanation), None)
        if same is None:
            parts.append(found)
        else:  # kinds of layers that differ elsewhere only
            parts[same] = msgspec.structs.replace(found, layers=parts[same].layers + part.layers)
    busy = resources(stage.work, gpu)
    busy_s = {"tensor": busy.tensor_s, "hbm": busy.hbm_s, "link": busy.link_s}
    return ExplainedStage(name, gpu.name, tuple(parts), busy_s, busy.longest_s)


def _divided(part: Any, gpu: Gpu, workload: Workload) -> tuple[Divided, ...]:
    work = part.formula(part.shard, workload)
    found = []
    for operand, flops in work.matrix_by_operand.items():
        peak = gpu.peak(operand)
        seconds = flops / peak.flops_per_s
        found.append(Divided("tensor", flops, "FLOP", peak.flops_per_s, cited(gpu, peak.source), seconds))
    hbm, sources = gpu.hbm_bytes_per_s, cited(gpu, gpu.profile.memory.hbm.bandwidth.source)
    found.append(Divided("hbm", work.compulsory_bytes, "B", hbm, sources, work.compulsory_bytes / hbm))
    pcie = gpu.profile.links.pcie
    if work.host_bytes and pcie:
        rate, sources = float(pcie.per_direction.value), cited(gpu, pcie.per_direction.source)
        found.append(Divided("link", work.host_bytes, "B", rate, sources, work.host_bytes / rate))
    return tuple(found)
