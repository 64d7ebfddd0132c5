"""From a stage's part to what the stack is asked to run, and what of that no table measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from kvperf.dtypes import dtype
from kvperf.launches.collective import Algorithm
from kvperf.launches.plan import Asked, covered_by, is_streamed, plan
from kvperf.launches.planned import Planned
from kvperf.predict.calibration import Constants
from kvperf.predict.families import FAMILIES

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.pipeline import Part, StageWork


class Options(msgspec.Struct, frozen=True):
    """How the stack runs its launches.

    cuda_graphs  replayed from a graph, or each by the host
    all_reduce   the algorithm of all-reduces: the stack's own choice, or one that is forced
    overlap      communication runs beside the kernels: the longer of the two counts, not their sum
    """

    cuda_graphs: bool = True
    all_reduce: Algorithm = "stack"
    overlap: bool = False


def asked_of(name: str, part: Part, gpu: Gpu, constants: Constants, options: Options) -> Asked:
    return Asked(
        name,
        part.shard,
        part.workload,
        part.of_a_layer,
        constants.stack,
        gpu.architecture.name,
        part.formula.__name__,
        options.all_reduce,
        gpu.network_bytes_per_s,
        gpu.network_latency_s,
    )


def unmeasured(
    stages: Sequence[StageWork], gpu: Gpu, constants: Constants, options: Options = Options()
) -> tuple[str, ...]:
    """What no table measures and the prediction rests on: stages without a family, formats with a stand-in."""
    streamed = [stage.name for stage in stages if is_streamed(stage.name)]
    found = []
    if streamed:
        names = " and ".join(name.replace("_", " ") for name in streamed)
        found.append(f"no kernel of {names} was measured: priced as streams of bytes, which real ones outlast")
    standing = {}
    for stage in stages:
        for part in stage.parts:
            if covered_by(stage.name, part.shard) is None:
                for planned in plan(asked_of(stage.name, part, gpu, constants, options)):
                    stands_in(planned, constants, standing)
    return (*found, *standing.values())


def stands_in(planned: Planned, constants: Constants, found: dict[str, str]) -> None:
    """Note a launch whose format was not measured."""
    if planned.family == "small":
        return
    label = FAMILIES[planned.family].label(planned.launch)
    used = constants.of(planned.family)
    if label not in used.intervals:
        measured = ", ".join(used.intervals)
        found[f"{planned.family} {label}"] = (
            f"{planned.family.replace('_', ' ')} in {label} was not measured with {used.label}: "
            f"the constants of {measured} stand in"
        )
    elif planned.family == "gemm" and planned.launch.kind == "bf16" and dtype(planned.launch.weight).bits < 16:
        found["gemm weights"] = (
            f"products of {planned.launch.weight} weights with 16-bit inputs were not measured: 16-bit ones that read "
            "fewer bytes stand in"
        )
    elif planned.family == "decode_attention" and dtype(planned.launch.kv).bits < 8:
        found["kv"] = f"attention over a {planned.launch.kv} cache was not measured: that of fp8 stands in"
