"""Views of measurements: a record's tables, one case with its gap, two records side by side. Unknown is –.

What is the same in all rows of a table, and what nobody knows, stands in the line above it. A table wider than 80
columns is split by regime or by the size with the fewest values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from kvperf.arith import total
from kvperf.bench.compare import Comparison
from kvperf.bench.pairs import field_name
from kvperf.bench.record import Case, Record
from kvperf.render.bench_lines import (
    UNKNOWN,
    Line,
    against_line,
    case_line,
    compared_line,
    counted_line,
    left_out_lines,
)
from kvperf.render.table import Table, plain
from kvperf.units import binary, decimal, significant

WIDTH = 80
# What a view is made of: lines of text, and tables.
View = list[list[str] | Table]
# Why reading stopped, where it was the same for a whole table.
STOPPED = {"yes": "all confident", "no": "all stopped by the budget"}


def record_view(record: Record) -> View:
    """Where and how it ran, a table for each family, what was refused, and who was left out."""
    view: View = [_where(record)]
    taken = [case for case in record.cases if case.refused is None]
    row = counted_line if record.emulated else case_line
    for family, cases in _fields(taken).items():
        lines = [row(case) for case in cases]
        empty = [line.subject for line in lines if record.emulated and set(line.figures.values()) == {UNKNOWN}]
        view += _family(family, [line for line in lines if line.subject not in empty])
        view += [[f"nothing to count: {', '.join(dict.fromkeys(empty))}"]] if empty else []
        view += [part for case in cases if case.beside for part in _beside(case)]
    notes = [f"{case.label}: {case.verdict}" for case in taken if "behind the gate" in case.verdict]
    refused = [f"refused: {case.label}: {case.refused}" for case in record.cases if case.refused is not None]
    remarks = notes + refused + left_out_lines(record.left_out)
    return [*view, remarks] if remarks else view


def _fields(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by family; a user's own kernels stand with ours."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(field_name(case.family), []).append(case)
    return found


def _beside(case: Case) -> View:
    """What a step is compared with: each stage over its layers, read alone, and their sum."""
    measured_s = case.statistics.median_s if case.statistics else None
    last = [name for name in case.beside if name.startswith("sum")]
    rows = [(name, case.beside[name]) for name in case.beside if name not in last]
    rows += [(name, case.beside[name]) for name in last]
    rows += [(f"{case.subject}, whole", measured_s)] if measured_s else []
    cells = tuple(
        (name, significant(s * 1e6, 4), f"{100 * s / measured_s:.1f}" if measured_s else UNKNOWN) for name, s in rows
    )
    totals = len(last) + bool(measured_s)
    return [
        ["beside it: each stage over its layers, read alone"],
        Table(("", "time\nµs", "% of\nit"), cells, totals=totals),
    ]


def case_view(case: Case) -> View:
    """One case: its samples, its kernel, and where the time went beyond the bound."""
    lines = [case.label, *_sample_lines(case), *_kernel_lines(case)]
    if case.refused is not None:
        return [[*lines, f"refused: {case.refused}"]]
    if case.statistics is None:
        return [[*lines, "no reading"]]
    if case.bound_s is None or not case.gap:
        return [[*lines, f"measured {decimal(case.statistics.median_s, 's', 4)}, gap unknown"]]
    verdict = [[case.verdict]] if case.verdict else []
    return [lines, waterfall(case.bound_s, case.gap, case.statistics.median_s), *verdict]


def waterfall(bound_s: float, gap: dict[str, float], measured_s: float) -> Table:
    """From the bound to the measured time. Times and shares add up as printed: running sums are rounded, not parts.

    Where the parts do not sum to the measured time, the rest has a line of its own.
    """
    parts = {"bound": bound_s} | gap
    rest = measured_s - total(parts.values())
    if abs(rest) >= 0.5e-9:
        parts["not accounted for"] = rest
    nanoseconds = _in_whole(list(parts.values()), 1e9)
    permille = _in_whole(list(parts.values()), 1000 / measured_s)
    rows = [
        (name, f"{time / 1000:.3f}", f"{share / 10:.1f} %")
        for name, time, share in zip(parts, nanoseconds, permille, strict=True)
    ]
    rows.append(("measured", f"{sum(nanoseconds) / 1000:.3f}", f"{sum(permille) / 10:.1f} %"))
    return Table(("", "time\nµs", "share of\nmeasured"), tuple(rows), totals=1)


def _in_whole(parts: list[float], scale: float) -> list[int]:
    """The parts in whole units, summing to the rounded sum."""
    whole, done, running = [], 0, 0.0
    for part in parts:
        running += part
        whole.append(round(running * scale) - done)
        done += whole[-1]
    return whole


def comparison_view(found: Comparison) -> View:
    """Two records: a table for each family, the mean of the ratios, and the remarks."""
    view: View = [
        [f"{name}: {run.gpu} · {run.started} · {run.command}" for name, run in (("A", found.a), ("B", found.b))]
    ]
    for family in dict.fromkeys(field_name(one.family) for one in found.cases):
        view += _family(family, [compared_line(one) for one in found.cases if field_name(one.family) == family])
    mean = "unknown" if found.geometric_mean is None else f"{found.geometric_mean:.4f}"
    return [*view, [f"geometric mean of {len(found.cases)} ratios B / A: {mean}", *remarks(found)]]


def against_view(record: Record, found: Comparison, name: str) -> View:
    """Every subject beside the one called so: a table for each family, and what has none."""
    view: View = [[*_where(record), f"ratio: how long it takes over how long {name} takes, sample by sample"]]
    for family in dict.fromkeys(field_name(one.family) for one in found.cases):
        view += _family(family, [against_line(one, name) for one in found.cases if field_name(one.family) == family])
    return [*view, remarks(found)] if found.left_out else view


def remarks(found: Comparison) -> list[str]:
    """What to know beside the ratios: what else differs, and what was not compared."""
    return [
        *(f"warning: {warning}" for warning in found.warnings),
        *(f"not compared: {one.case}: {one.reason}" for one in found.left_out),
        *(f"only in A: {label}" for label in found.only_a),
        *(f"only in B: {label}" for label in found.only_b),
    ]


def csv_rows(cases: tuple[Case, ...]) -> list[dict[str, Any]]:
    """One flat row a case without its samples; what is nested has its parent's name in front."""
    rows = []
    for case in cases:
        gap = {f"{name}_s": part for name, part in case.gap.items()}
        rows.append(_flat(msgspec.to_builtins(case) | {"samples": {}, "gap": gap}))
    return _even(rows)


def comparison_rows(found: Comparison) -> list[dict[str, Any]]:
    """One flat row a case that was compared."""
    return _even([_flat(msgspec.to_builtins(one) | msgspec.to_builtins(one.ratio)) for one in found.cases])


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            row |= _flat(value, f"{prefix}{name}_")
        elif not (value is None and name in ("statistics", "resources")):
            row[prefix + name.replace(" ", "_")] = value
    return row


def _even(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the same columns, unknown ones empty."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def _where(record: Record) -> list[str]:
    place = record.environment
    versions = [f"{name} {said}" for name, said in (("driver", place.driver), ("CUDA", place.cuda)) if said]
    lines = [" · ".join([place.gpu, *versions, record.started, f"seed {record.seed}"]), record.command]
    if record.emulated:
        lines.append("emulated: counts and errors of the interpreter; nothing was timed")
    if not record.complete:
        lines.append("incomplete: the run was interrupted or ran out of time")
    return lines


def _family(family: str, lines: list[Line]) -> Iterator[list[str] | Table]:
    """The tables of a family. Where nothing but the rotation of buffers made calls cold, it is not said."""
    if all(line.sizes["flush"] in ("rotation", UNKNOWN) for line in lines):
        for line in lines:
            del line.sizes["flush"]
    if lines:
        yield from _tables(family, lines)


def _tables(family: str, lines: list[Line]) -> Iterator[list[str] | Table]:
    """A line that says what all rows share, and the table below it; several of them where one is too wide."""
    sizes = dict.fromkeys(name for line in lines for name in line.sizes)
    texts = {name: [line.sizes.get(name, UNKNOWN) for line in lines] for name in sizes}
    varying = [name for name, column in texts.items() if len(set(column)) > 1]
    figures = {name: [line.figures[name] for line in lines] for name in lines[0].figures}
    unknown = [name for name, column in figures.items() if set(column) == {UNKNOWN}]
    confident = set(figures.get("confi-\ndent", ()))
    shown = [n for n in figures if n not in unknown and (n != "confi-\ndent" or len(confident) > 1)]
    table = Table(
        ("subject", *varying, *shown),
        tuple(
            (line.subject, *(texts[name][i] for name in varying), *(figures[name][i] for name in shown))
            for i, line in enumerate(lines)
        ),
        left=2 if varying[:1] == ["regime"] else 1,
    )
    if varying and max(len(row) for row in plain(table).splitlines()) > WIDTH:
        split = min(varying, key=lambda name: len(set(texts[name])))
        for value in dict.fromkeys(texts[split]):
            yield from _tables(family, [line for line, text in zip(lines, texts[split], strict=True) if text == value])
        return
    shared = [
        column[0] if name == "regime" else f"{name} {column[0]}"
        for name, column in texts.items()
        if name not in varying and column[0] != UNKNOWN
    ]
    shared += [STOPPED[one] for one in confident if len(confident) == 1 and one in STOPPED]
    names = [name.replace("-\n", "").replace("\n", " ") for name in unknown]
    yield [" · ".join([family, *shared]), *([f"unknown: {', '.join(names)}"] if names else [])]
    yield table


def _sample_lines(case: Case) -> list[str]:
    """What was read, and the state of the GPU meanwhile."""
    lines, found, samples = [], case.statistics, case.samples
    if found is not None and case.refused is None:
        middle, low, high = (decimal(t, "s", 4) for t in (found.median_s, found.low_s, found.high_s))
        meaning = "95 % confidence" if found.count >= 6 else "all samples"
        lines.append(f"{found.count} samples, median {middle}, {meaning} {low} to {high}; stopped: {found.stopped}")
    state = [
        f"{name} {_middle(column) * scale:.0f} {unit}"
        for name, column, scale, unit in (
            ("SM clock", samples.sm_clock_hz, 1e-6, "MHz"),
            ("memory clock", samples.memory_clock_hz, 1e-6, "MHz"),
            ("power", samples.power_w, 1, "W"),
        )
        if any(value is not None for value in column)
    ]
    if state:
        lines.append(f"medians: {', '.join(state)}")
    reasons = [reason for reason in samples.throttled if reason]
    if reasons:
        lines.append(f"throttled in {len(reasons)} of {len(samples.throttled)}: {', '.join(dict.fromkeys(reasons))}")
    return lines


def _middle(column: tuple[float | None, ...]) -> float:
    known = sorted(value for value in column if value is not None)
    return known[len(known) // 2]


def _kernel_lines(case: Case) -> list[str]:
    """Its correctness, its buffers, its resources; of the interpreter its counts."""
    lines = []
    if case.error is not None:
        limit = "" if case.error_limit is None else f", limit {case.error_limit:.1e}"
        lines.append(f"error {case.error:.1e}{limit}")
    if case.rotation > 1:
        lines.append(f"{case.rotation} sets of buffers in rotation, {decimal(case.rotated_bytes, 'B')}")
    if case.flush != "rotation":
        lines.append(f"L2 flushed by {case.flush}")
    kernel = case.resources
    if kernel is not None:
        lines.append(
            f"{kernel.registers} registers, {kernel.spill_bytes} bytes spilled, {binary(kernel.shared_bytes)} shared; "
            f"{kernel.blocks} blocks, {kernel.blocks_per_sm} an SM, {kernel.waves:.2f} waves"
        )
    return lines + [f"{name} {count:,.0f}" for name, count in case.counts.items()]
