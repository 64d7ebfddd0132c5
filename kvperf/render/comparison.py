"""Views of a comparison: its head, its tables, its rows. Nothing is computed here but units and shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

from kvperf.comparison import DEGREES, Column, Comparison, title
from kvperf.render.analysis import cell
from kvperf.render.table import Table, plain
from kvperf.units import prefix_for

WIDTH = 80
UPRIGHT = 5  # columns beside each other; more stand below each other
NARROW = 9  # a header that does not fit is broken at its hyphens, to no less than this
# The options whose values head a column of their own where the compared things stand below each other.
OPTION_HEADS = {"gpu": "GPU", "weight_dtype": "weights", "kv_dtype": "KV", **DEGREES}
NAMED = ("gpus", "nodes", "weight_dtype", "kv_dtype")  # said in the head, or in the headers, or in rows
STEP_TIMES = ("bound_s", "predicted_s", "predicted_low_s", "predicted_high_s")
# Figures of a step of a whole model, not of attention alone.
OF_A_MODEL = (
    *("tokens_per_s_bound", "tokens_per_s_predicted", "tokens_per_s_per_gpu", "resident_weight_bytes"),
    *("kv_cache_bytes", "needed_bytes", "fits", "spare_bytes", "max_batch", "max_context_tokens"),
)

Text = Callable[[Column], str]


class Metric(NamedTuple):
    """A row of the table: its name with the unit, the figure it shows, and the text of a column's cell."""

    name: str
    figure: str
    text: Text


def tables(comparison: Comparison) -> list[Table]:
    """One table with a column for each thing; for many or wide ones tables with a row for each, 80 columns wide."""
    found = metrics(comparison)
    if len(comparison.columns) <= UPRIGHT:
        for width in (WIDTH, 13, NARROW):
            table = _upright(comparison, found, width)
            if _width(table) <= WIDTH:
                return [table]
    return _lying(comparison, found)


def markdown_table(comparison: Comparison) -> Table:
    """One table whose headers are labels, the best figures in bold."""
    found = metrics(comparison)
    rows = (tuple(_marked(column, metric, "**", "**") for column in comparison.columns) for metric in found)
    names = (metric.name for metric in found)
    return Table(
        ("", *(column.label for column in comparison.columns)),
        tuple((name, *row) for name, row in zip(names, rows, strict=True)),
    )


def csv_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a column of the comparison, in base units; options first."""
    kept = [name for name in Column.__struct_fields__ if name not in ("label", "chosen", "options", "best", "warnings")]
    return [
        {"label": column.label, **column.options}
        | {name: getattr(column, name) for name in kept}
        | {"best": " ".join(column.best), "warnings": "; ".join(column.warnings)}
        for column in comparison.columns
    ]


def metrics(comparison: Comparison) -> list[Metric]:
    """What is shown: figures that at least one column has, each in one unit for all columns."""
    columns, same = comparison.columns, comparison.same
    attention, spread = "heads" in same, any((column.gpus or 1) > 1 for column in columns)
    predicted = any(column.predicted_s is not None for column in columns)
    hidden = {*OF_A_MODEL} if attention else set()
    hidden |= set() if spread else {"communication_s", "communication_share"}
    hidden |= {"tokens_per_s_bound"} if predicted else set()
    hidden |= {name for name in NAMED if name in same or name in comparison.varied}
    return [m for m in _all_metrics(columns) if m.figure not in hidden and any(_known(c, m.figure) for c in columns)]


def _all_metrics(columns: Sequence[Column]) -> list[Metric]:
    step, talk = _unit(columns, STEP_TIMES), _unit(columns, ("communication_s",))
    return [
        Metric("GPUs", "gpus", lambda c: str(c.gpus)),
        Metric("nodes", "nodes", lambda c: str(c.nodes)),
        Metric("weights", "weight_dtype", lambda c: str(c.options["weight_dtype"])),
        Metric("KV", "kv_dtype", lambda c: str(c.options["kv_dtype"])),
        _number(f"bound {step[0]}s", "bound_s", step[1]),
        Metric("bound by", "bound_by", lambda c: str(c.bound_by)),
        _number(f"predicted {step[0]}s", "predicted_s", step[1]),
        _number(f"80 % low {step[0]}s", "predicted_low_s", step[1]),
        _number(f"80 % high {step[0]}s", "predicted_high_s", step[1]),
        _number("at most tokens/s", "tokens_per_s_bound"),
        _number("tokens/s", "tokens_per_s_predicted"),
        _number("tokens/s a GPU", "tokens_per_s_per_gpu"),
        _number("tokens/s a user", "tokens_per_s_per_user"),
        _number(f"collectives {talk[0]}s", "communication_s", talk[1]),
        _number("collectives %", "communication_share", 0.01),
        _number("weights GiB", "resident_weight_bytes", 2**30),
        _number("KV GiB", "kv_cache_bytes", 2**30),
        _number("needs GiB", "needed_bytes", 2**30),
        _number("spare GiB", "spare_bytes", 2**30),
        Metric("fits", "fits", lambda c: {True: "yes", False: "NO", None: "unknown"}[c.fits]),
        _number("largest batch", "max_batch"),
        Metric("largest context", "max_context_tokens", _largest_context),
    ]


def _number(name: str, figure: str, scale: float = 1) -> Metric:
    return Metric(name, figure, lambda c: cell(getattr(c, figure), scale))


def _largest_context(column: Column) -> str:
    if column.max_context_tokens is None and column.fits is not None:
        return "any"
    return cell(column.max_context_tokens, 1)


def _known(column: Column, figure: str) -> bool:
    if figure == "max_context_tokens":
        return column.fits is not None
    return column.options.get(figure, getattr(column, figure, None)) is not None


def _unit(columns: Sequence[Column], figures: Sequence[str]) -> tuple[str, float]:
    """The prefix of the largest figure, or one smaller where the smallest would have no digit before the point."""
    values = [value for c in columns for name in figures if (value := getattr(c, name))]
    if not values:
        return "", 1.0
    largest = prefix_for(max(values))
    largest = ("", 1.0) if largest[1] > 1 else largest  # nobody writes kiloseconds
    return largest if min(values) >= 0.1 * largest[1] else prefix_for(max(values) / 1000)


def _marked(column: Column, metric: Metric, before: str = "", after: str = "*") -> str:
    """A cell; the best figures of a row are marked."""
    if column.refused is not None:
        return "–"
    text = metric.text(column)
    return f"{before}{text}{after}" if metric.figure in column.best else text


def _padded(texts: Sequence[str]) -> list[str]:
    """Numbers below each other stay so beside one with a mark."""
    marks = any(text.endswith("*") for text in texts)
    return [f"{text} " if marks and not text.endswith("*") else text for text in texts]


def _upright(comparison: Comparison, found: Sequence[Metric], width: int) -> Table:
    """A row for each figure; headers in lines no wider than `width`, one or more for each varied option."""
    columns = [_padded([_marked(column, metric) for metric in found]) for column in comparison.columns]
    rows = zip((metric.name for metric in found), *columns, strict=True)
    return Table(("", *_headers(comparison, width)), tuple(tuple(row) for row in rows))


def _headers(comparison: Comparison, width: int) -> list[str]:
    """The header of each column: every option has the same lines in all of them."""
    heads: list[list[str]] = [[] for _ in comparison.columns]
    for option in comparison.varied:
        parts = [_lines(option, text, width) for text in _texts(comparison, option)]
        height = max(len(part) for part in parts)
        for head, part in zip(heads, parts, strict=True):
            head += part + [""] * (height - len(part))
    return ["\n".join(head) for head in heads]


def _lines(option: str, text: str, width: int) -> list[str]:
    if option in ("weight_dtype", "kv_dtype"):
        return text.split(" ")
    return wrap(text, width, break_long_words=False) or [""]


def _texts(comparison: Comparison, option: str) -> list[str]:
    """The value of a varied option in each column, in words."""
    return [title(option, column.chosen[option]) for column in comparison.columns]


def _lying(comparison: Comparison, found: Sequence[Metric]) -> list[Table]:
    """A row for each thing; as many tables as it takes to stay narrow."""
    heads = [OPTION_HEADS.get(option, option) for option in comparison.varied]
    labels = [[str(column.chosen[option]) for option in comparison.varied] for column in comparison.columns]
    drawn: list[Table] = []
    taken: list[Metric] = []
    for metric in found:
        wider = _rows_of(comparison, heads, labels, [*taken, metric])
        if taken and _width(wider) > WIDTH:
            drawn.append(_rows_of(comparison, heads, labels, taken))
            taken = []
        taken.append(metric)
    return [*drawn, _rows_of(comparison, heads, labels, taken)]


def _rows_of(
    comparison: Comparison, heads: Sequence[str], labels: Sequence[Sequence[str]], taken: Sequence[Metric]
) -> Table:
    cells = [_padded([_marked(column, metric) for column in comparison.columns]) for metric in taken]
    names = ["\n".join(wrap(metric.name, 11, break_on_hyphens=False)) for metric in taken]
    rows = tuple((*label, *row) for label, row in zip(labels, zip(*cells, strict=True), strict=True))
    return Table((*heads, *names), rows, left=len(heads))


def _width(table: Table) -> int:
    return max(len(line) for line in plain(table).splitlines())
