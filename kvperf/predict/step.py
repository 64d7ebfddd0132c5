"""The predicted time of a step: the launches of its stages, priced with fitted constants, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import least, most, power
from kvperf.errors import KvperfError
from kvperf.launches.plan import covered_by, plan
from kvperf.predict.asked import Options, asked_of, unmeasured
from kvperf.predict.calibration import Constants
from kvperf.predict.families import FAMILIES

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.pipeline import Part, StageWork
    from kvperf.workload import Workload

# What the host needs to launch one operation where no CUDA graph does it: eager all-reduce calls take that much longer
# than the same calls in a graph, on every GPU of the tables (median of the differences; aiconfigurator-core 0.12.0).
EAGER_LAUNCH_S = 17e-6


# Stages in which ranks talk to one another.
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive")


class Margin(msgspec.Struct, frozen=True):
    """How far a time may be off, down and up: 80 % of measured times lie between."""

    down_s: Any
    up_s: Any


class Predicted(msgspec.Struct, frozen=True):
    """What a stage is predicted to take, over its layers.

    margins      of its launches, by the family that priced them
    launches     operations that the stack launches for it
    covered_by   the stage whose kernel does this one's work: it adds nothing
    calibration  whose constants priced it; where several did, borrowed ones first, published ones last
    """

    seconds: Any = 0.0
    margins: dict[str, Margin] = {}
    launches: Any = 0
    covered_by: str | None = None
    calibration: str | None = None
    floor_s: Any = 0.0

    @property
    def low_s(self) -> Any:
        return most(self.seconds - _joined([m.down_s for m in self.margins.values()]), self.floor_s)

    @property
    def high_s(self) -> Any:
        return self.seconds + _joined([m.up_s for m in self.margins.values()])


class PredictedStep(msgspec.Struct, frozen=True):
    """The stages of a step and their sum; no stages where nothing could be predicted, and `warnings` says why.

    hidden_s  communication that runs beside the kernels
    host_s  beside the kernels: the scheduler, or without CUDA graphs the launches that take longer than the kernels
    """

    stages: tuple[Predicted, ...] = ()
    seconds: Any = None
    low_s: Any = None
    high_s: Any = None
    host_s: Any = None
    hidden_s: Any = 0.0
    launches: Any = None
    calibration: str | None = None
    warnings: tuple[str, ...] = ()


def predict_step(
    stages: Sequence[StageWork],
    bounds_s: Sequence[Any],
    workload: Workload,
    gpu: Gpu,
    stack: str,
    options: Options = Options(),
    constants: Constants | None = None,
) -> PredictedStep:
    """Price every stage once: by its own launches, or by those of the stage that covers it.

    bounds_s   of the stages: no prediction is below what it covers
    constants  of the GPU and stack, where a search has them already
    """
    if stack == "none":
        return PredictedStep()
    if workload.fusion != "serving":
        why = f"no prediction for --fusion {workload.fusion}: the measured stacks run with serving fusion"
        return PredictedStep(warnings=(why,))
    scalar = _without_matrix_unit(stages, gpu)
    if scalar:
        why = f"no prediction: {gpu.name} multiplies {scalar} on no matrix unit, and no measured stack runs so"
        return PredictedStep(warnings=(f"{why}; it has fp16" if scalar == "bf16" else why,))
    if gpu.sms is None:
        return PredictedStep(warnings=(f"no prediction: nobody says how many SMs {gpu.name} has",))
    constants = constants or Constants(gpu, stack)
    try:
        priced = [_stage(stage, gpu, constants, options) for stage in stages]
    except KvperfError as problem:
        return PredictedStep(warnings=(f"no prediction: {problem.message}",))
    names = [stage.name for stage in stages]
    floors: dict[str, Any] = dict.fromkeys(names, 0.0)
    for name, found, bound_s in zip(names, priced, bounds_s, strict=True):
        target = found.covered_by or name
        floors[target] = floors[target] + bound_s
    priced = [_not_below(found, floors[name]) for name, found in zip(names, priced, strict=True)]
    cautions = unmeasured(stages, gpu, constants, options)
    if workload.scope == "attention":
        return _summed(names, tuple(priced), 0.0, None, options, cautions)
    kind = "experts" if "moe_experts" in names else "dense"
    host_s, ends = _host_s(constants, stages), constants.whole_step(kind)
    return _summed(names, tuple(priced), host_s, ends, options, cautions)


def _host_s(constants: Constants, stages: Sequence[StageWork]) -> Any:
    """The scheduler's time of a step and of each of its rank's requests; None where no load test showed it."""
    host = constants.host()
    if host is None:
        return None
    numbers = host.numbers()
    requests: Any = 0
    for stage in stages:  # context-parallel ranks share out the tokens, and all attend to every sequence
        requests = most(requests, stage.parts[0].workload.sequences)
    return numbers["step_s"] + numbers["request_s"] * requests


def _summed(
    names: Sequence[str],
    stages: tuple[Predicted, ...],
    host_s: Any,
    ends: tuple[float, float] | None,
    options: Options,
    cautions: tuple[str, ...],
) -> PredictedStep:
    """The stages one after another and the host beside them.

    ends  80 % interval of whole steps: kernels that overlap or wait for one another are in no kernel's own interval
    """
    whole = Predicted()
    for stage in stages:
        whole = _plus(whole, stage)
    beside_s: Any = 0.0 if host_s is None else host_s
    hidden_s: Any = _hidden_s(names, stages) if options.overlap else 0.0
    if not options.cuda_graphs:
        beside_s = host_s = beside_s + most(whole.launches * EAGER_LAUNCH_S - whole.seconds, 0.0)
    seconds = whole.seconds - hidden_s + beside_s
    low_s, high_s = most(whole.low_s - hidden_s, 0.0) + beside_s, whole.high_s - hidden_s + beside_s
    if ends is not None:
        floor_s = _longer_s(names, stages, "floor_s") if options.overlap else whole.floor_s
        low_s, high_s = most(least(low_s, seconds * ends[0]), floor_s), most(high_s, seconds * ends[1])
    return PredictedStep(
        stages=stages,
        seconds=seconds,
        low_s=low_s,
        high_s=high_s,
        host_s=host_s,
        hidden_s=hidden_s,
        launches=whole.launches,
        calibration=whole.calibration,
        warnings=cautions,
    )


def _hidden_s(names: Sequence[str], stages: tuple[Predicted, ...]) -> Any:
    """The shorter of communication and the rest: what overlap at its best hides."""
    return least(*_apart_s(names, stages, "seconds"))


def _longer_s(names: Sequence[str], stages: tuple[Predicted, ...], time: str) -> Any:
    return most(*_apart_s(names, stages, time))


def _apart_s(names: Sequence[str], stages: tuple[Predicted, ...], time: str) -> tuple[Any, Any]:
    """A time of all communication, and of the rest."""
    talking: Any = 0.0
    working: Any = 0.0
    for name, stage in zip(names, stages, strict=True):
        if name in COLLECTIVES:
            talking = talking + getattr(stage, time)
        else:
            working = working + getattr(stage, time)
    return talking, working


def _without_matrix_unit(stages: Sequence[StageWork], gpu: Gpu) -> str | None:
    """The operand format of a product that only the GPU's vector units can multiply."""
    for stage in stages:
        for operand in stage.work.matrix_by_operand:
            if not gpu.peak(operand).is_matrix:
                return operand
    return None


def _stage(stage: StageWork, gpu: Gpu, constants: Constants, options: Options) -> Predicted:
    priced = Predicted()
    for part in stage.parts:
        priced = _plus(priced, _part(stage.name, part, gpu, constants, options))
    return priced


def _part(name: str, part: Part, gpu: Gpu, constants: Constants, options: Options) -> Predicted:
    """The launches of one layer, times the layers."""
    covering = covered_by(name, part.shard)
    if covering is not None:
        return Predicted(covered_by=covering)
    layers = Predicted()
    for planned in plan(asked_of(name, part, gpu, constants, options)):
        used, times = constants.of(planned.family), part.layers * planned.times
        family = FAMILIES[planned.family]
        seconds = family.seconds(planned.launch, gpu, used.constants) * times
        low, high = used.interval(family.label(planned.launch))
        margin = {planned.family: Margin(seconds * (1 - low), seconds * (high - 1))}
        layers = _plus(layers, Predicted(seconds, margin, times, None, used.label))
    return layers


def _not_below(priced: Predicted, floor_s: Any) -> Predicted:
    if priced.covered_by is not None:
        return priced
    return msgspec.structs.replace(priced, seconds=most(priced.seconds, floor_s), floor_s=floor_s)


def _plus(first: Predicted, second: Predicted) -> Predicted:
    labels = sorted((label for label in (first.calibration, second.calibration) if label), key=_standing)
    margins = dict(first.margins)
    for family, margin in second.margins.items():
        there = margins.get(family)
        margins[family] = Margin(there.down_s + margin.down_s, there.up_s + margin.up_s) if there else margin
    return Predicted(
        first.seconds + second.seconds,
        margins,
        first.launches + second.launches,
        second.covered_by,
        (labels or [None])[0],
        first.floor_s + second.floor_s,
    )


def _standing(label: str) -> int:
    """Which of several labels is told: borrowed constants first, then fitted ones, then published ones."""
    return 0 if label.endswith("borrowed") else 2 if label == "published" else 1


def _joined(margins: list[Any]) -> Any:
    """Launches of one family are off together, families independently: the root of the sum of squares."""
    squares: Any = 0.0
    for margin in margins:
        squares = squares + margin * margin
    return power(squares, 0.5)
