"""Which is faster: the cases of two records, or the subjects of one.

A verdict is of an interval, never of one number: SAME where all of it lies within 1 % of equal, FASTER or SLOWER where
all of it lies on one side of equal, otherwise AMBIGUOUS. NaN or an unknown bound is AMBIGUOUS. What was refused as a
measurement, and what only one record has, is listed and not compared. B is judged against A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Literal

import msgspec

import kvperf
from kvperf.arith import total
from kvperf.bench.record import Case, Record
from kvperf.bench.statistics import Ratio, median, paired, unpaired
from kvperf.errors import KvperfError

SCHEMA = "kvperf.bench-comparison/1"
SAME_WITHIN = 0.01
Verdict = Literal["SAME", "FASTER", "SLOWER", "AMBIGUOUS"]

# Fields of the environment that explain a difference by themselves, as a warning calls them.
CONDITIONS = {
    "gpu": "GPU",
    "driver": "driver",
    "cuda": "CUDA",
    "code_hash": "kernel code",
    "sm_clock_max_hz": "SM clock limit",
    "memory_clock_max_hz": "memory clock limit",
    "power_cap_w": "power cap",
    "ecc": "ECC",
    "mig": "MIG",
}


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One case in A and in B, or two subjects on one shape in one regime.

    against      the subject of A, where it is another one
    a_s and b_s  medians
    """

    family: str
    subject: str
    regime: str
    shape: dict[str, int | float | str]
    against: str | None = None
    a_s: float
    b_s: float
    ratio: Ratio
    verdict: Verdict

    @property
    def label(self) -> str:
        """The case in one line."""
        sizes = " ".join(f"{name}={value}" for name, value in self.shape.items())
        return f"{self.subject} {self.regime} {sizes}".strip()


class LeftOut(msgspec.Struct, frozen=True):
    """A case of both records that was not compared, and why."""

    case: str
    reason: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Which record stood on one side."""

    version: str
    command: str
    started: str
    gpu: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True, rename={"schema_version": "schema"}):
    """Two records. `geometric_mean` is of the ratios of all cases."""

    schema_version: Literal["kvperf.bench-comparison/1"]
    version: str
    a: Run
    b: Run
    warnings: tuple[str, ...]
    geometric_mean: float
    cases: tuple[Compared, ...]
    left_out: tuple[LeftOut, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def verdict(ratio: Ratio) -> Verdict:
    """What the interval allows to say of B."""
    if ratio.low is None or ratio.high is None:
        return "AMBIGUOUS"
    if ratio.low >= 1 - SAME_WITHIN and ratio.high <= 1 + SAME_WITHIN:
        return "SAME"
    if ratio.low <= ratio.high < 1:
        return "FASTER"
    if 1 < ratio.low <= ratio.high:
        return "SLOWER"
    return "AMBIGUOUS"


def compare(a: Record, b: Record) -> Comparison:
    """Every case that both records measured, in the order of A. Raises KvperfError where there is none."""
    in_a, in_b = _by_key(a, "A"), _by_key(b, "B")
    found, left_out = [], []
    for key, first in in_a.items():
        if key not in in_b:
            continue
        reason = _unfit(first, " in A") or _unfit(in_b[key], " in B")
        if reason:
            left_out.append(LeftOut(first.label, reason))
        else:
            found.append(_judged(first, in_b[key], pair=False))
    only_a = tuple(case.label for key, case in in_a.items() if key not in in_b)
    only_b = tuple(case.label for key, case in in_b.items() if key not in in_a)
    if not found:
        counts = f"{len(only_a)} cases are only in A, {len(only_b)} only in B, {len(left_out)} have no valid reading"
        raise KvperfError(f"nothing to compare: {counts}", "compare two records of the same command")
    return Comparison(
        schema_version="kvperf.bench-comparison/1",
        version=kvperf.__version__,
        a=_run(a),
        b=_run(b),
        warnings=tuple(_warnings(a, b)),
        geometric_mean=math.exp(total(math.log(one.ratio.ratio) for one in found) / len(found)),
        cases=tuple(found),
        left_out=tuple(left_out),
        only_a=only_a,
        only_b=only_b,
    )


def within(record: Record) -> tuple[Compared, ...]:
    """Each two subjects of one family on the same shape in the same regime, by paired ratio, in the record's order.

    The first of the two is A. Their samples were read in rounds: sample i of both belongs to round i.
    """
    _measured(record, "the record")
    groups: dict[Any, list[Case]] = {}
    for case in record.cases:
        family, _, *conditions = case.key
        if not _unfit(case):
            groups.setdefault((family, *conditions), []).append(case)
    pairs = (pair for group in groups.values() for pair in combinations(group, 2))
    return tuple(_judged(first, second, pair=True) for first, second in pairs)


def _judged(first: Case, second: Case, pair: bool) -> Compared:
    a, b = first.samples.seconds, second.samples.seconds
    try:
        ratio = paired(a, b) if pair else unpaired(a, b)
        medians = median(a), median(b)
    except KvperfError as problem:
        raise KvperfError(f"{second.label}: {problem.message}", problem.hint) from None
    return Compared(
        family=second.family,
        subject=second.subject,
        regime=second.regime,
        shape=second.shape,
        against=first.subject if first.subject != second.subject else None,
        a_s=medians[0],
        b_s=medians[1],
        ratio=ratio,
        verdict=verdict(ratio),
    )


def _unfit(case: Case, where: str = "") -> str | None:
    """Why the case cannot be compared."""
    if case.refused is not None:
        return f"refused{where}: {case.refused}"
    return None if case.samples.seconds else f"no reading{where}"


def _by_key(record: Record, name: str) -> dict[Any, Case]:
    _measured(record, name)
    found: dict[Any, Case] = {}
    for case in record.cases:
        if case.key in found:
            raise KvperfError(f"{name} has '{case.label}' twice", "a record holds each case once")
        found[case.key] = case
    return found


def _measured(record: Record, name: str) -> None:
    if record.emulated:
        raise KvperfError(
            f"{name} is emulated: it holds no reading to compare", "`kvperf bench show` prints its counts and errors"
        )


def _run(record: Record) -> Run:
    return Run(version=record.version, command=record.command, started=record.started, gpu=record.environment.gpu)


def _warnings(a: Record, b: Record) -> Iterator[str]:
    """What else than the code under test may have changed the times."""
    for field, name in CONDITIONS.items():
        yield from _difference(name, getattr(a.environment, field), getattr(b.environment, field))
    yield from _difference("seed", a.seed, b.seed)
    for name, record in (("A", a), ("B", b)):
        if not record.complete:
            yield f"{name} is incomplete: its run was interrupted or ran out of time"


def _difference(name: str, in_a: object, in_b: object) -> Iterator[str]:
    if in_a != in_b:
        said = ["unknown" if value is None else f"{value}" for value in (in_a, in_b)]
        yield f"{name} differs: {said[0]} in A, {said[1]} in B"
