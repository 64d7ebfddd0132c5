"""Rows of the tables of measurements: what stands in each column. Unknown is –."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kvperf.bench.compare import Compared
from kvperf.bench.record import Case
from kvperf.units import binary, decimal, significant

UNKNOWN = "–"
# What a ceiling counts that is quoted by the time of one.
IN_TURN = ("steps", "launches")


class Line(msgspec.Struct, frozen=True):
    """One row to be: `sizes` become columns where they differ, `figures` where one is known."""

    subject: str
    sizes: dict[str, str]
    figures: dict[str, str]


def case_line(case: Case) -> Line:
    found = case.statistics
    half = (found.high_s - found.low_s) / found.median_s / 2 if found and found.count >= 6 else None
    rated = case.family in ("ceiling", "host")
    rate = {"rate": _rate(case)} if rated else {"GB/s": _scaled(case.bytes_per_s, 1e-9, 3)}
    return Line(
        case.subject,
        _sizes(case.regime, case.flush, case.shape),
        {
            "time\nµs": _scaled(found.median_s if found else None, 1e6, 4),
            "±\n%": UNKNOWN if half is None else f"{100 * half:.2f}",
            **rate,
            "% of\nsheet": _percent(case.share_of_datasheet),
            "% of\nread": _percent(case.share_of_read),
            "bound\nµs": _scaled(case.bound_s, 1e6, 4),
            "pre-\ndicted\nµs": _scaled(case.predicted_s, 1e6, 4),
            "error": UNKNOWN if case.error is None else f"{case.error:.0e}",
            "confi-\ndent": UNKNOWN if found is None else "yes" if found.stopped == "confident" else "no",
        },
    )


def counted_line(case: Case) -> Line:
    """A case of the interpreter: its error, and what it asked for against the closed form."""
    moved = [n for name, n in case.counts.items() if name.startswith(("loads", "stores"))]
    products = [n for name, n in case.counts.items() if name.startswith("m16")]
    said = case.work.requested_bytes
    return Line(
        case.subject,
        _sizes(case.regime, case.flush, case.shape),
        {
            "error": UNKNOWN if case.error is None else f"{case.error:.0e}",
            "counted\nbytes": f"{sum(moved):.0f}" if moved else UNKNOWN,
            "closed form\nbytes": f"{said:.0f}" if said else UNKNOWN,
            "FMAs": f"{case.counts['fma']:.0f}" if case.counts.get("fma") else UNKNOWN,
            "MMAs": f"{sum(products):.0f}" if products else UNKNOWN,
            "bound\nµs": _scaled(case.bound_s, 1e6, 4),
        },
    )


def compared_line(one: Compared) -> Line:
    return Line(
        one.subject,
        _sizes(one.regime, one.flush, one.shape),
        {
            "A\nµs": _scaled(one.a_s, 1e6, 4),
            "B\nµs": _scaled(one.b_s, 1e6, 4),
            "B / A": f"{one.ratio.ratio:.4f}",
            "95 %\nfrom": _scaled(one.ratio.low, 1, 4),
            "\nto": _scaled(one.ratio.high, 1, 4),
            "verdict": one.verdict,
        },
    )


def against_line(one: Compared, name: str) -> Line:
    """A subject beside the one it is compared with, which is the fastest of those that `name` begins."""
    rival = {} if one.against == name else {"against": one.against or UNKNOWN}
    return Line(
        one.subject,
        _sizes(one.regime, one.flush, one.shape) | rival,
        {
            "time\nµs": _scaled(one.b_s, 1e6, 4),
            f"{name}\nµs": _scaled(one.a_s, 1e6, 4),
            "ratio": f"{one.ratio.ratio:.4f}",
            "95 %\nfrom": _scaled(one.ratio.low, 1, 4),
            "\nto": _scaled(one.ratio.high, 1, 4),
            "verdict": one.verdict,
        },
    )


def left_out_lines(messages: Iterable[str]) -> list[str]:
    """Who does not take part, and why: one line for those that share a reason."""
    from kvperf.kernel.catalogue import KERNELS

    reasons: dict[str, list[str]] = {}
    for message in messages:
        first, _, rest = message.partition(" ")
        name, reason = (first, rest) if first in KERNELS else ("", message)
        reasons.setdefault(reason, []).append(name)
    lines = []
    for reason, names in reasons.items():
        if len(names) == 1:
            lines.append(f"left out: {names[0]} {reason}".replace("  ", " "))
        else:
            lines.append(f"left out: {len(names)} kernels, each {reason}: {', '.join(names)}")
    return lines


def _sizes(regime: str, flush: str, shape: dict[str, Any]) -> dict[str, str]:
    """Sizes by their names; what emptied the L2 is said of cold cases."""
    emptied = flush if regime == "cold" else UNKNOWN
    sizes = {name.removesuffix("_bytes"): _size(name, value) for name, value in shape.items()}
    return {"regime": regime, "flush": emptied} | sizes


def _size(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name == "bytes" or name.endswith("_bytes"):
        return binary(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rate(case: Case) -> str:
    """Of a ceiling: bytes of memory in a second, or else of what it counts; of steps one after the other, the time."""
    if case.bytes_per_s is not None:
        return decimal(case.bytes_per_s, "B/s")
    if not case.rate or case.rate_of is None:
        return UNKNOWN
    if case.rate_of in IN_TURN:
        return f"{decimal(1 / case.rate, 's')} each"
    unit = "B" if case.rate_of.endswith("_bytes") else "FLOP" if case.rate_of == "flop" else f" {case.rate_of}"
    return decimal(case.rate, f"{unit}/s")


def _scaled(value: float | None, scale: float, digits: int) -> str:
    return UNKNOWN if value is None else significant(value * scale, digits)


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f}"
