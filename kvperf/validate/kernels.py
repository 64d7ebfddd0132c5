"""Kernel tables against the shipped constants, on the rows that no fit has seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kvperf.calibrate.family import calibrated, cold, coverage
from kvperf.calibrate.score import score
from kvperf.hardware import load_gpu
from kvperf.predict.calibration import Constants, Used
from kvperf.predict.families import FAMILIES
from kvperf.silicon.catalogue import TABLES, tables
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import STACKS, SYSTEMS
from kvperf.validate.record import Line, Without


def kernel_lines(
    gpus: Iterable[str] = tuple(SYSTEMS),
    stacks: Iterable[str] = STACKS,
    families: Iterable[str] = tuple(TABLES),
    lent: bool = False,
) -> Iterator[Line]:
    """One line for each format of each family that a GPU's and stack's tables measure.

    lent  every GPU as if it had no constants of its own: with those of the nearest other one
    """
    for gpu in gpus:
        device = load_gpu(gpu)
        for stack in stacks:
            constants = Constants(device, stack, lent)
            for family in families:
                found = tables(family, gpu, stack)
                for group in found.groups if found else ():
                    rows = group.rows.where(group.rows.parts() == "score")
                    if rows.keys:
                        yield line(family, gpu, stack, group.label, rows, constants.of(family))


def line(family: str, gpu: str, stack: str, label: str, rows: Rows, used: Used) -> Line:
    """Score rows of one group. Raises ValueError where a prediction is not a number."""
    import numpy as np

    device, kind = load_gpu(gpu), FAMILIES[family]
    predicted_s = kind.seconds(rows.launch, device, used.constants)
    floor_s, naive_s = kind.floor(rows.launch, device), kind.floor(cold(rows.launch), device)
    ends = used.interval(label)
    found = score(predicted_s, rows.measured_s)
    low_s = np.maximum(predicted_s * ends[0], floor_s)
    return Line(
        family=family,
        gpu=gpu,
        stack=stack,
        group=label,
        rows=found.rows,
        mean=found.mean,
        median=found.median,
        p90=found.p90,
        bias=found.bias,
        bound=score(floor_s, rows.measured_s).mean,
        naive=score(naive_s, rows.measured_s).mean,
        coverage=coverage(predicted_s, rows.measured_s, floor_s, ends),
        width=float(np.median(ends[1] - low_s / predicted_s)),
        calibration=used.label,
    )


def ablation(gpu: str, stack: str, families: Iterable[str]) -> Iterator[Without]:
    """Fit each family again without each term that can be taken out, and score it as the whole model is scored."""
    device = load_gpu(gpu)
    for family in families:
        found = tables(family, gpu, stack)
        if found is None:
            continue
        whole = _mean(calibrated(FAMILIES[family], found, device).held_out)
        free = {name for stage in found.stages for name in stage.constants} - set(found.held)
        for constant in FAMILIES[family].constants:
            if constant.neutral is None or constant.name not in free:
                continue
            mean = _mean(calibrated(FAMILIES[family], found, device, without=(constant.name,)).held_out)
            yield Without(family, gpu, stack, constant.name, mean, 100 * (mean - whole))


def _mean(scores: Mapping[str, Any]) -> float:
    rows = sum(found.rows for found in scores.values())
    return sum(found.rows * found.mean for found in scores.values()) / rows
