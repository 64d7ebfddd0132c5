"""Views of a validation: one line a group, errors in percent."""

from __future__ import annotations

import math
from typing import Any

from kvperf.render.table import Table
from kvperf.validate.record import Dropped, Line, Validation, Without


def table(record: Validation) -> Table:
    """Errors by family, GPU, stack and format; `cover` is the share of rows inside the 80 % interval."""
    headers = (
        "family", "GPU", "stack", "group", "rows", "naive\n%", "mean\n%", "median\n%", "p90\n%", "bias", "cover\n%"
    )  # fmt: skip
    return Table(headers, tuple(_cells(line) for line in record.lines), left=4)


def ablation_table(record: Validation) -> Table:
    headers = ("family", "GPU", "stack", "without", "mean\n%", "points\nmore")
    return Table(headers, tuple(_without(found) for found in record.ablation), left=4)


def dropped_table(record: Validation) -> Table:
    headers = ("table", "GPU", "stack", "rule", "rows", "of", "%")
    return Table(headers, tuple(_dropped(found) for found in record.dropped), left=4)


def csv_rows(record: Validation) -> list[dict[str, Any]]:
    """The lines; where a record has none, its ablation or what lint dropped."""
    found = record.lines or record.ablation or record.dropped
    return [{name: getattr(row, name) for name in row.__struct_fields__} for row in found]


def _cells(line: Line) -> tuple[str, ...]:
    shares = (percent(value) for value in (line.naive, line.mean, line.median, line.p90))
    return (
        line.family, line.gpu, line.stack, line.group, str(line.rows), *shares, f"{line.bias:.2f}",
        percent(line.coverage, 0),
    )  # fmt: skip


def _without(found: Without) -> tuple[str, ...]:
    points = f"{found.points:+.1f}"
    return found.family, found.gpu, found.stack, found.term, percent(found.mean), points


def _dropped(found: Dropped) -> tuple[str, ...]:
    share = f"{100 * found.rows / found.of:.2f}" if found.of else "–"
    return found.table, found.gpu, found.stack, found.rule, str(found.rows), str(found.of), share


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"
