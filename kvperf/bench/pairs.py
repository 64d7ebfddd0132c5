"""The subjects of one record side by side: what was read in the same rounds, on one shape in one regime, is paired.

Ours, a library's and a user's own kernel are one field. How a kernel keeps its cache is its own affair, and no
difference of the shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import kvperf
from kvperf.bench.compare import Compared, Comparison, LeftOut, judged, mean, measured, run_of, unfit
from kvperf.bench.record import Case, Record, label
from kvperf.errors import KvperfError

OWN_SIZES = ("kv_dtype", "page_tokens", "repeats")


def field_name(family: str) -> str:
    """The family that a case is compared in: a user's own kernels stand beside ours."""
    return "attention" if family == "kernel" else family


def within(record: Record) -> tuple[Compared, ...]:
    """Each two subjects on the same shape in the same regime, by paired ratio, in the record's order.

    The first of the two is A. Their samples were read in rounds: sample i of both belongs to round i.
    """
    measured(record, "the record")
    return tuple(
        judged(first, second, pair=True)
        for group in _groups(record).values()
        for first, second in combinations(_readable(group), 2)
        if first.subject != second.subject
    )


def against(record: Record, name: str) -> Comparison:
    """Every subject against the one called `name`, by paired ratio: below 1 it is faster.

    `name` may be what several names begin with, as `torch`: each shape then has the fastest of them. Raises KvperfError
    where the record has no such subject, or nothing to compare with it.
    """
    measured(record, "the record")
    rivals = _rivals(record, name)
    found: list[Compared] = []
    left_out: list[LeftOut] = []
    for group in _groups(record).values():
        readable = _readable(group)
        theirs = [case for case in readable if case.subject in rivals]
        others = [case for case in group if case.subject not in rivals]
        if not theirs:
            left_out += _without(name, others)
            continue
        rival = min(theirs, key=_median_s)
        found += [judged(rival, case, pair=True) for case in others if case in readable]
        left_out += [LeftOut(case.label, unfit(case) or "") for case in others if case not in readable]
    if not found:
        raise KvperfError(f"nothing was read beside '{name}'", "the record needs a valid reading of it, and of others")
    side = run_of(record)
    return Comparison(
        schema_version="kvperf.bench-comparison/1",
        version=kvperf.__version__,
        a=side,
        b=side,
        warnings=(),
        geometric_mean=mean(found),
        cases=tuple(found),
        left_out=tuple(left_out),
        lost=(),
        only_a=(),
        only_b=(),
    )


def _rivals(record: Record, name: str) -> set[str]:
    subjects = dict.fromkeys(case.subject for case in record.cases)
    rivals = {name} if name in subjects else {subject for subject in subjects if name and subject.startswith(name)}
    if not rivals:
        raise KvperfError(f"the record has no subject '{name}'", f"it has {', '.join(subjects) or 'none'}")
    return rivals


def _groups(record: Record) -> dict[Any, list[Case]]:
    """Cases that were read in the same rounds. Ceilings of one size are read again beside each shape: by turns."""
    groups: dict[Any, list[Case]] = {}
    for case in record.cases:
        sizes = tuple(sorted((n, size) for n, size in case.shape.items() if n not in OWN_SIZES))
        groups.setdefault((field_name(case.family), case.regime, case.flush, sizes), []).append(case)
    return groups


def _readable(group: list[Case]) -> list[Case]:
    return [case for case in group if not unfit(case)]


def _without(name: str, others: list[Case]) -> Iterator[LeftOut]:
    """A shape that `name` was not read on; ceilings and the like have no rival anywhere."""
    fit = [case for case in others if not unfit(case) and field_name(case.family) == "attention"]
    if fit:
        first = fit[0]
        shape = {n: size for n, size in first.shape.items() if n not in OWN_SIZES}
        yield LeftOut(
            label(f"{len(fit)} subjects", first.regime, first.flush, shape), f"no reading of {name} beside them"
        )


def _median_s(case: Case) -> float:
    assert case.statistics is not None
    return case.statistics.median_s
