"""The same step on other GPUs: the next faster ones, the fastest, and the nearest that is no faster."""

from __future__ import annotations

import functools
from math import isclose

from kvperf.errors import KvperfError
from kvperf.hardware import Gpu, gpu_names, load_gpu
from kvperf.record import Analysis
from kvperf.report.document import Block, Table, line, row
from kvperf.report.subject import BOUND_BY, Subject
from kvperf.report.values import bytes_per_s, held, seconds, times, word

FASTER = 2


@functools.cache
def _shipped(name: str) -> Gpu:
    return load_gpu(name)


def blocks(subject: Subject) -> list[Block]:
    found: dict[str, Analysis] = {}
    for name in gpu_names():
        if name == subject.gpu.name:
            continue
        analysed = subject.tried(gpu=_shipped(name))
        if not isinstance(analysed, KvperfError):
            found[name] = analysed
    now = subject.analysis.step.bound_s
    faster = sorted((name for name in found if found[name].step.bound_s < now), key=lambda n: -found[n].step.bound_s)
    others = sorted((name for name in found if found[name].step.bound_s >= now), key=lambda n: found[n].step.bound_s)
    shown = [*others[:1], *faster[:FASTER], *faster[FASTER:][-1:]]
    rows = [_row(subject.gpu.name, subject.analysis, now), *(_row(name, found[name], now) for name in shown)]
    return [
        Table(
            "The same step on other GPUs",
            ("GPU", "memory", "bandwidth", "bound", "speed-up", "against now", "fits", "step bound by"),
            tuple(rows),
            notes=(
                line(
                    "The nearest that is no faster, the next faster ones and the fastest of those that kvperf has "
                    "profiles of."
                ),
                line("A faster memory stops paying where a step is no longer bound by it; price is not modelled."),
            ),
        )
    ]


def _row(name: str, found: Analysis, now: float) -> tuple:
    key, kept = f"gpu.{name}", found.memory.fits
    return row(
        name,
        held(f"{key}.memory", found.gpu.hbm_capacity_bytes),
        bytes_per_s(f"{key}.bandwidth", found.gpu.hbm_bytes_per_s),
        seconds(f"{key}.bound_s", found.step.bound_s, 4),
        times(f"{key}.speed_up", now / found.step.bound_s),
        word(f"{key}.against", against(found.step.bound_s, now)),
        word(f"{key}.fits", None if kept is None else "yes" if kept else "no"),
        word(f"{key}.bound_by", BOUND_BY[found.step.bound_by]),
    )


def against(bound_s: float, now: float) -> str:
    """How another bound compares; the last bits of a quotient apart."""
    if isclose(bound_s, now, rel_tol=1e-9):
        return "as fast"
    return "faster" if bound_s < now else "slower"
