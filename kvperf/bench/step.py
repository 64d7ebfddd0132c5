"""Stages of a step at their real shapes, each alone; and one whole step as one CUDA graph.

A stage is read with the weights and caches of one layer after another, so that they come from memory; where all of
them together stay below four times the L2, the L2 is flushed before each call. A step's graph runs every stage of
every layer in order.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import msgspec

from kvperf.arith import total
from kvperf.bench.attention import Plan
from kvperf.bench.ceiling_calls import empty_call, flush_of
from kvperf.bench.network import Network, Operation
from kvperf.bench.network_reference import logits
from kvperf.bench.outcome import failed, judged, timed
from kvperf.bench.record import Case, Work
from kvperf.bench.rig import Call, Rig, in_turn
from kvperf.bench.standin import Standin
from kvperf.bench.timing import COLD_L2_CAPACITIES, Contestant, Readings, alone, measure
from kvperf.bound import resources
from kvperf.hardware import Gpu
from kvperf.kernel import reference
from kvperf.layout import one_rank
from kvperf.pipeline import StageWork, pipeline, total_work
from kvperf.workload import Workload

CHECKED_LAYERS = 2
# What rounding of half-precision activations adds up to over two layers, against a step that is rounded alike.
LIMITS = {"fp16": 4e-3, "bf16": 2e-2}


def checked(network: Network) -> dict[str, Any]:
    """Error, its limit, and `refused` where it is beyond: the fields of a case.

    The first two layers, with embedding and head, against float64. Call it before anything else runs: it reads caches.
    """
    shallow = dataclasses.replace(
        network,
        layers=min(CHECKED_LAYERS, network.layers),
        weights=network.weights[:CHECKED_LAYERS],
        shared=network.shared,
    )
    error, limit = error_of(shallow), LIMITS[network.dtype]
    if error <= limit:
        return {"error": error, "error_limit": limit}
    found = None if math.isnan(error) else error
    return {"error": found, "error_limit": limit, "refused": f"wrong result: error {error:.2g}, allowed {limit:g}"}


def error_of(network: Network) -> float:
    """Relative norm of the logits' error against float64; NaN where anything is NaN or the wrong token is picked."""
    import numpy as np

    rig, expected = network.rig, logits(network)
    rig.poison(network.shared["logits"])
    in_turn([operation.call for operation in network.operations()])()
    rig.wait()
    found = rig.download(network.shared["logits"]).astype(np.float64)
    picked = rig.download(network.shared["next"])
    if not (picked == found.argmax(-1)).all():
        return float("nan")
    return reference.relative_error(found, expected)


def stages(rig: Rig, gpu: Gpu | None, network: Network, workload: Workload, how: Plan) -> list[Case]:
    """A case for each stage, of one layer."""
    calls: dict[str, list[Call]] = {}
    for operation in network.operations():
        calls.setdefault(operation.stage, []).append(operation.call)
    works = {stage.name: stage for stage in _pipeline(network, workload)}
    contestants = [alone("launch", "cold", [empty_call(rig)])]
    flush = flush_of(rig, "memset-read")
    for name, own in calls.items():
        size = int(_read_bytes(works[name]))
        small = (len(own) - 1) * size < COLD_L2_CAPACITIES * rig.facts.l2_bytes
        contestants.append(alone(name, "cold", own, size, flush if small else None))
    found = _measured(rig, contestants, how)
    launch_s = found["launch"].median_s
    done = []
    for contestant in contestants[1:]:
        stage = works[contestant.name]
        case = _stage_case(network, stage, gpu)
        case = msgspec.structs.replace(case, flush="memset-read" if contestant.before else "rotation")
        if found[contestant.name].failure:
            done.append(failed(case, f"failed: {found[contestant.name].failure}"))
            continue
        case = timed(case, contestant, found[contestant.name])
        launches = max(1, int(stage.work.kernels // stage.layers))
        done.append(judged(case, rig.facts, gpu, launch_s=launch_s, launches=launches, levels=how.levels))
    return done


def unread(network: Network, workload: Workload, gpu: Gpu | None, checked: dict[str, Any]) -> Case:
    """A step that is not timed: on the interpreter, or because it is wrong."""
    return msgspec.structs.replace(_whole(network, workload, gpu), **checked)


def counted(rig: Rig, network: Network, workload: Workload, gpu: Gpu | None) -> list[Case]:
    """A case for each stage of one layer, with what the interpreter counted in it."""
    assert isinstance(rig, Standin)
    works = {stage.name: stage for stage in _pipeline(network, workload)}
    first: dict[str, Operation] = {}
    for operation in network.operations():
        first.setdefault(operation.stage, operation)
    done = []
    for name, operation in first.items():
        case = _stage_case(network, works[name], gpu)
        done.append(msgspec.structs.replace(case, counts=rig.counted(operation.call)))
    return done


def read(rig: Rig, network: Network, workload: Workload, how: Plan) -> tuple[Contestant, Readings]:
    """The whole step as one graph."""
    graph = rig.graph([operation.call for operation in network.operations()])
    size = int(sum(_read_bytes(stage) * stage.layers for stage in _pipeline(network, workload)))
    contestant = alone("step", "cold", [graph], size)
    return contestant, _measured(rig, [contestant], how)["step"]


def step(
    rig: Rig,
    gpu: Gpu | None,
    network: Network,
    workload: Workload,
    parts: list[Case],
    checked: dict[str, Any],
    read: tuple[Contestant, Readings],
    how: Plan,
) -> Case:
    """The case of the step; `parts`: its stages, which it is compared with; `checked`: its error."""
    contestant, found = read
    case = msgspec.structs.replace(_whole(network, workload, gpu), beside=_beside(parts), **checked)
    if found.failure:
        return failed(case, f"failed: {found.failure}")
    return judged(timed(case, contestant, found), rig.facts, gpu, levels=how.levels)


def _stage_case(network: Network, stage: StageWork, gpu: Gpu | None) -> Case:
    """The case of one layer of a stage, before anything is read."""
    return Case(
        family="stage",
        subject=stage.name,
        regime="cold",
        shape=_shape(network) | {"layers": stage.layers},
        work=_work(stage.work, network.dtype, 1 / stage.layers),
        bound_s=_bound_s(stage.work, gpu, stage.layers),
    )


def _measured(rig: Rig, contestants: list[Contestant], how: Plan) -> dict[str, Readings]:
    return measure(rig, contestants, budget_s=how.budget_s, seed=how.seed, progress=how.progress, stopped=how.stopped)


def _whole(network: Network, workload: Workload, gpu: Gpu | None) -> Case:
    """The case of the whole step, before anything is read."""
    whole = total_work(tuple(stage.work for stage in _pipeline(network, workload)))
    return Case(
        family="step",
        subject="step",
        regime="cold",
        shape=_shape(network) | {"layers": network.layers},
        work=_work(whole, network.dtype, 1.0),
        bound_s=_bound_s(whole, gpu, 1),
    )


def believed(cases: list[Case], checked: dict[str, Any]) -> list[Case]:
    """The cases, all of them refused where the step that they are of is wrong."""
    problem = checked.get("refused")
    return [failed(case, case.refused or problem) for case in cases] if problem else cases


def _beside(stages: list[Case]) -> dict[str, float]:
    """Each stage over its layers, as read alone, and the sum of all where none is missing.

    The sum is an upper estimate of the step: alone, each stage also starts cold, activations included.
    """
    believed = [case for case in stages if case.statistics and case.refused is None]
    parts = {c.subject: c.statistics.median_s * int(c.shape["layers"]) for c in believed if c.statistics}
    return parts | ({"sum of stages": total(parts.values())} if len(parts) == len(stages) else {})


def _pipeline(network: Network, workload: Workload) -> tuple[StageWork, ...]:
    return pipeline(one_rank(network.model, workload), workload)


def _read_bytes(stage: StageWork) -> float:
    """Weights and cached K and V of one layer: what one call reads from memory."""
    return float(stage.work.weight_bytes + stage.work.kv_read_bytes) / stage.layers


def _work(whole: Any, operand: str, share: float) -> Work:
    """The stage formulas' work, or one layer's share of it."""
    return Work(
        compulsory_bytes=float(whole.compulsory_bytes) * share,
        requested_bytes=float(whole.hbm_bytes) * share,
        operations={"flop": float(whole.matrix_flops) * share} if whole.matrix_flops else {},
        operand=operand,
    )


def _bound_s(whole: Any, gpu: Gpu | None, layers: int) -> float | None:
    """The floor of one layer."""
    return float(resources(whole, gpu).longest_s) / layers if gpu else None


def _shape(network: Network) -> dict[str, int | float | str]:
    return {
        "model": network.model.name,
        "batch": network.batch,
        "seq": network.seq,
        "new_tokens": network.new_tokens,
        "dtype": network.dtype,
    }
