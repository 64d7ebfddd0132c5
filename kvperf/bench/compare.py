"""Which is faster: the cases of two records, or the subjects of one.

A verdict is of an interval, never of one number: SAME where all of it lies within 1 % of equal, FASTER or SLOWER where
all of it lies on one side of equal, otherwise AMBIGUOUS. NaN or an unknown bound is AMBIGUOUS. What was refused as a
measurement, and what only one record has, is listed and not compared. B is judged against A. As a gate, what A
measured and B did not has failed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

import kvperf
from kvperf.arith import total
from kvperf.bench.record import Case, Record, label
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
    flush: str = "rotation"
    shape: dict[str, int | float | str]
    against: str | None = None
    a_s: float
    b_s: float
    ratio: Ratio
    verdict: Verdict

    @property
    def label(self) -> str:
        """The case in one line."""
        return label(self.subject, self.regime, self.flush, self.shape)


class LeftOut(msgspec.Struct, frozen=True):
    """A case that was not compared, and why."""

    case: str
    reason: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Which record stood on one side."""

    version: str
    command: str
    started: str
    gpu: str
    complete: bool


class Comparison(msgspec.Struct, frozen=True, kw_only=True, rename={"schema_version": "schema"}):
    """Two records; or the subjects of one record, which then stands on both sides.

    geometric_mean  of the ratios of all cases; null where none was compared
    left_out        cases of both records without a valid reading in one;  lost: what A measured and B did not
    """

    schema_version: Literal["kvperf.bench-comparison/1"]
    version: str
    a: Run
    b: Run
    warnings: tuple[str, ...]
    geometric_mean: float | None
    cases: tuple[Compared, ...]
    left_out: tuple[LeftOut, ...]
    lost: tuple[LeftOut, ...]
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
    """Every case that both records measured, in the order of A. Raises KvperfError where they have none in common."""
    in_a, in_b = _by_key(a, "A"), _by_key(b, "B")
    found, left_out, lost = [], [], []
    for key, first in in_a.items():
        second = in_b.get(key)
        problem = None if second is None else unfit(second, " in B")
        if not unfit(first) and (second is None or problem):
            lost.append(LeftOut(first.label, problem or "missing in B"))
        reason = unfit(first, " in A") or problem
        if second is not None and reason:
            left_out.append(LeftOut(first.label, reason))
        elif second is not None:
            found.append(judged(first, second, pair=False))
    only_a = tuple(case.label for key, case in in_a.items() if key not in in_b)
    only_b = tuple(case.label for key, case in in_b.items() if key not in in_a)
    if not found and not (left_out and lost):
        counts = f"{len(only_a)} cases are only in A, {len(only_b)} only in B, {len(left_out)} have no valid reading"
        raise KvperfError(f"nothing to compare: {counts}", "compare two records of the same command")
    return Comparison(
        schema_version="kvperf.bench-comparison/1",
        version=kvperf.__version__,
        a=run_of(a),
        b=run_of(b),
        warnings=tuple(_warnings(a, b)),
        geometric_mean=mean(found),
        cases=tuple(found),
        left_out=tuple(left_out),
        lost=tuple(lost),
        only_a=only_a,
        only_b=only_b,
    )


def failures(found: Comparison, slowdown: float) -> tuple[str, ...]:
    """Why B does not pass a gate that allows `slowdown` (0.03 for 3 %), one line each."""
    lines = [] if found.b.complete else ["incomplete: the run of B was interrupted or ran out of time"]
    lines += [f"lost: {one.case}: {one.reason}" for one in found.lost]
    for one in found.cases:
        if one.verdict in ("SLOWER", "AMBIGUOUS") and one.ratio.ratio > 1 + slowdown:
            said = f"{one.ratio.ratio:.4f} times as long, over {100 * slowdown:g}%"
            lines.append(f"{one.verdict.lower()}: {one.label}: {said}")
    return tuple(lines)


def mean(found: Sequence[Compared]) -> float | None:
    """The geometric mean of the ratios."""
    return math.exp(total(math.log(one.ratio.ratio) for one in found) / len(found)) if found else None


def judged(first: Case, second: Case, *, pair: bool) -> Compared:
    """The second against the first. A loop that turned more often in one of them is counted by its turns."""
    a, b = first.samples.seconds, second.samples.seconds
    turns = [case.shape.get("repeats") for case in (first, second)]
    if turns[0] != turns[1] and isinstance(turns[0], int) and isinstance(turns[1], int):
        b = tuple(seconds * turns[0] / turns[1] for seconds in b)
    try:
        ratio = paired(a, b) if pair else unpaired(a, b)
        medians = median(a), median(b)
    except KvperfError as problem:
        raise KvperfError(f"{second.label}: {problem.message}", problem.hint) from None
    return Compared(
        family=second.family,
        subject=second.subject,
        regime=second.regime,
        flush=second.flush,
        shape=second.shape,
        against=first.subject if first.subject != second.subject else None,
        a_s=medians[0],
        b_s=medians[1],
        ratio=ratio,
        verdict=verdict(ratio),
    )


def unfit(case: Case, where: str = "") -> str | None:
    """Why the case cannot be compared."""
    if case.refused is not None:
        return f"refused{where}: {case.refused}"
    return None if case.samples.seconds else f"no reading{where}"


def _by_key(record: Record, name: str) -> dict[Any, Case]:
    """Cases by what they are. A ceiling is read again beside each shape: the n-th of A meets the n-th of B."""
    measured(record, name)
    found: dict[Any, Case] = {}
    for case in record.cases:
        turn = 0
        while (case.key, turn) in found:
            if case.family != "ceiling":
                raise KvperfError(f"{name} has '{case.label}' twice", "a record holds each case once")
            turn += 1
        found[case.key, turn] = case
    return found


def measured(record: Record, name: str) -> None:
    """Raises KvperfError for a record of the interpreter."""
    if record.emulated:
        raise KvperfError(
            f"{name} is emulated: it holds no reading to compare", "`kvperf bench show` prints its counts and errors"
        )


def run_of(record: Record) -> Run:
    """What a comparison says of a record."""
    return Run(
        version=record.version,
        command=record.command,
        started=record.started,
        gpu=record.environment.gpu,
        complete=record.complete,
    )


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
