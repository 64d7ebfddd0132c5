"""Whether a case agrees with itself: its statistics with its samples, its rates with its work, its time with its bound.

A record is believed because it can be checked. What was refused as a measurement keeps its samples, and needs no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from kvperf.bench.record import Case, Record
from kvperf.bench.statistics import summary
from kvperf.errors import KvperfError

RELATIVE = 1e-9
# Nothing cold is faster than its bound; memory may run some percent above its datasheet.
OF_BOUND = 0.98


def check(record: Record, name: str) -> None:
    """Raises KvperfError for the first case that does not agree with itself; `name` is the record's."""
    peak: float | None = None
    for case in record.cases:
        found = next(disagreements(case), None)
        if found is None and record.emulated and case.samples.seconds:
            found = "it has samples, and the interpreter times nothing"
        if found is None and case.refused is None and case.bytes_per_s and case.share_of_datasheet:
            own = case.bytes_per_s / case.share_of_datasheet
            peak = peak or own
            if not _same(own, peak):
                found = f"share_of_datasheet is of {own:.6g} B/s, that of cases before it of {peak:.6g}"
        if found is not None:
            raise KvperfError(
                f"{name}: {case.label}: {found}", "it was changed after it was written, or half of it; measure it again"
            )


def disagreements(case: Case) -> Iterator[str]:
    """What of the case contradicts the rest of it."""
    yield from _of_samples(case)
    if case.refused is not None:
        return
    if case.error is not None and case.error_limit is not None and not case.error <= case.error_limit:
        yield f"error {case.error:.3g} is above its limit {case.error_limit:.3g}, and it is not refused"
    if case.statistics is not None:
        yield from _of_rates(case, case.statistics.median_s)
        yield from _of_bound(case, case.statistics.median_s)


def _of_samples(case: Case) -> Iterator[str]:
    seconds, stated = case.samples.seconds, case.statistics
    for name in case.samples.__struct_fields__:
        column = getattr(case.samples, name)
        if column and len(column) != len(seconds):
            yield f"{name} has {len(column)} entries for {len(seconds)} samples"
    for i, one in enumerate(seconds):
        if not 0 < one < math.inf:
            yield f"sample {i} of {one} s is no time"
            return
    if stated is None or not seconds:
        if seconds:
            yield "it has samples and no statistics"
        elif stated is not None:
            yield "it has statistics of no samples"
        return
    given = msgspec.structs.asdict(summary(seconds, stated.stopped))
    for name, expected in given.items():
        said = getattr(stated, name)
        if name != "stopped" and not _same(said, expected):
            yield f"{name} is {said:.10g}, its samples give {expected:.10g}"


def _of_rates(case: Case, median_s: float) -> Iterator[str]:
    work = case.work
    if case.rate is not None:
        amount = work.operations.get(case.rate_of or "")
        if amount is None:
            yield f"rate is of {case.rate_of}, which its work does not count"
        elif not _same(case.rate, amount / median_s):
            yield f"rate is {case.rate:.10g}, its work over the median {amount / median_s:.10g}"
    if case.bytes_per_s is not None:
        expected = (work.kv_bytes or work.compulsory_bytes) / median_s
        if not _same(case.bytes_per_s, expected):
            yield f"bytes_per_s is {case.bytes_per_s:.10g}, its bytes over the median {expected:.10g}"
    if case.share_of_read is not None:
        expected = (case.bytes_per_s or 0) / (case.read_bytes_per_s or math.inf)
        if not _same(case.share_of_read, expected):
            yield f"share_of_read is {case.share_of_read:.10g}, its rates give {expected:.10g}"
    if case.share_of_datasheet is not None and case.bytes_per_s is None:
        yield "share_of_datasheet is of an unknown rate"


def _of_bound(case: Case, median_s: float) -> Iterator[str]:
    if case.bound_s is None or case.regime == "warm":
        return
    if median_s < OF_BOUND * case.bound_s:
        yield f"its median of {median_s:.4g} s is below its bound of {case.bound_s:.4g} s, and it is not refused"
    elif case.gap and not abs(case.bound_s + math.fsum(case.gap.values()) - median_s) <= 1e-6 * median_s:
        yield "its gap does not sum to its median less its bound"


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE)
