"""The same step on other GPUs: the nearest slower, faster ones, familiar ones, and one where it fits."""

from __future__ import annotations

import functools
from math import isclose

from kvperf.errors import KvperfError
from kvperf.hardware import Gpu, gpu_names, load_gpu
from kvperf.record import Analysis
from kvperf.report import predicted
from kvperf.report.document import Block, Line, Table, line, row
from kvperf.report.subject import BOUND_BY, Subject
from kvperf.report.values import bytes_per_s, held, seconds, share, times, word

FASTER = 2
NEAR = 0.02  # of the bound: as fast as now
FAMILIAR = ("h200-sxm", "b200")


@functools.cache
def shipped(name: str) -> Gpu:
    return load_gpu(name)


def blocks(subject: Subject) -> list[Block]:
    found: dict[str, Analysis] = {}
    for name in gpu_names():
        if name == subject.gpu.name:
            continue
        analysed = subject.tried(gpu=shipped(name))
        if not isinstance(analysed, KvperfError):
            found[name] = analysed
    shown = _chosen(subject, found)
    now = subject.analysis.step.bound_s
    rows = [_row(subject.gpu.name, subject.gpu.name, subject.analysis, now)]
    for name in shown:
        alike = [name, *(n for n in found if n not in shown and _is_alike(found[n], found[name]))]
        rows.append(_row(", ".join(alike), name, found[name], now))
    return [
        Table(
            "The same step on other GPUs",
            (
                "GPU",
                "memory",
                "bandwidth",
                "bound",
                "speed-up",
                "against now",
                "fits",
                "bound by",
                "kernels",
                "constants",
            ),
            tuple(rows),
            notes=(
                line(
                    "Of the profiles that kvperf has: the nearest slower, the next faster and the fastest{}{}; nearer "
                    "than {} is neither. Names in one row have the same bound and memory.",
                    f", and {' and '.join(FAMILIAR)}" if subject.gpu.vendor == "nvidia" else "",
                    "; as the step does not fit, also the smallest memory where it does, if any"
                    if subject.analysis.memory.fits is False
                    else "",
                    share("gpu.near", NEAR),
                ),
                *_predicted(subject),
                line("A faster memory stops paying where a step is no longer bound by it; price is not modelled."),
            ),
        )
    ]


def _predicted(subject: Subject) -> list[Line]:
    stack = subject.analysis.workload.stack
    if stack is None:
        return []
    return [
        line(
            "Kernels: those of {} as predicted, on the first GPU of a row, without host time, which is fitted for few "
            "GPUs. Borrowed: some constants were "
            "fitted on another GPU or stack, and the ranking of such GPUs is less sure than that of their bounds.",
            word("predicted.stack", stack),
        )
    ]


def _kernels_s(found: Analysis) -> float | None:
    """The predicted step without what the host takes beside the kernels."""
    step = found.step
    return None if step.predicted_s is None else float(step.predicted_s) - float(step.host_s or 0)


def _chosen(subject: Subject, found: dict[str, Analysis]) -> list[str]:
    """Which to show, slowest first, one of those that are alike."""
    now = subject.analysis.step.bound_s
    ordered: list[str] = []
    preferred = sorted(found, key=lambda name: (-found[name].step.bound_s, name not in FAMILIAR))
    for name in preferred:
        if not any(_is_alike(found[name], found[other]) for other in ordered):
            ordered.append(name)
    slower = [name for name in ordered if found[name].step.bound_s > now * (1 + NEAR)]
    faster = [name for name in ordered if found[name].step.bound_s < now * (1 - NEAR)]
    wanted = {*slower[-1:], *faster[:FASTER], *faster[-1:]}
    if subject.gpu.vendor == "nvidia":
        wanted |= {name for name in FAMILIAR if name in found}
    if subject.analysis.memory.fits is False:
        room = [name for name in ordered if found[name].memory.fits]
        room.sort(key=lambda name: (found[name].gpu.hbm_capacity_bytes, found[name].step.bound_s))
        wanted |= set(room[:1])
    return [name for name in preferred if name in wanted]


def _is_alike(one: Analysis, other: Analysis) -> bool:
    return one.gpu.hbm_capacity_bytes == other.gpu.hbm_capacity_bytes and isclose(
        one.step.bound_s, other.step.bound_s, rel_tol=1e-9
    )


def _row(title: str, name: str, found: Analysis, now: float) -> tuple:
    key, kept = f"gpu.{name}", found.memory.fits
    return row(
        title,
        held(f"{key}.memory", found.gpu.hbm_capacity_bytes),
        bytes_per_s(f"{key}.bandwidth", found.gpu.hbm_bytes_per_s),
        seconds(f"{key}.bound_s", found.step.bound_s, 4),
        times(f"{key}.speed_up", now / found.step.bound_s),
        word(f"{key}.against", against(found.step.bound_s, now)),
        word(f"{key}.fits", None if kept is None else "yes" if kept else "no"),
        word(f"{key}.bound_by", BOUND_BY[found.step.bound_by]),
        seconds(f"{key}.kernels_s", _kernels_s(found), 4),
        word(f"{key}.constants", predicted.borrowed(found)),
    )


def against(bound_s: float, now: float) -> str:
    """How another bound compares; the last bits of a quotient apart."""
    if isclose(bound_s, now, rel_tol=1e-9):
        return "as fast"
    return "faster" if bound_s < now else "slower"
