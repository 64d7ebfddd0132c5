"""Printing a comparison: the record in the asked-for format, its warnings on standard error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvperf.render import output as out

if TYPE_CHECKING:
    from kvperf.comparison import Comparison
    from kvperf.render.table import Table

DOES_NOT_FIT = "this step does not fit"  # the warning that the row `fits` says too


def comparison(record: Comparison, format: str, output: Path | None) -> None:
    """Write the record to a file or standard output."""
    figured = len([column for column in record.columns if column.refused is None])
    for warning, labels in _warnings(record).items():
        of = "" if len(labels) == figured else f"{', '.join(labels)}: "
        print(f"warning: {of}{warning}", file=sys.stderr)
    if format == "json":
        out.write(out.json_text(record), output)
    elif format == "csv":
        from kvperf.render.comparison import csv_rows

        out.write(out.csv_text(csv_rows(record)), output)
    elif format == "md":
        out.write(_markdown(record), output)
    else:
        _text(record, output)


def _warnings(record: Comparison) -> dict[str, list[str]]:
    """Each warning once, with the columns that it is of."""
    found: dict[str, list[str]] = {}
    for column in record.columns:
        for warning in column.warnings:
            if not warning.startswith(DOES_NOT_FIT):
                found.setdefault(warning, []).append(column.label)
    return found


def _markdown(record: Comparison) -> str:
    from kvperf.render.comparison import markdown_table
    from kvperf.render.comparison_lines import head, notes
    from kvperf.render.table import markdown

    first, *more = head(record)
    said = "\n\n".join([f"**{first}**", *more])
    lines = "".join(f"- {line}\n" for line in notes(record, "bold:"))
    return f"{said}\n\n{markdown(markdown_table(record))}\n{lines}"


def _text(record: Comparison, output: Path | None) -> None:
    from kvperf.render.analysis import folded
    from kvperf.render.comparison import tables
    from kvperf.render.comparison_lines import head, notes
    from kvperf.render.table import is_terminal, plain

    before, after, drawn = folded(head(record)), folded(notes(record)), tables(record)
    if output is None and is_terminal():
        _on_terminal(before, drawn, after)
        return
    body = "\n".join(plain(table) for table in drawn)
    out.write(f"{before}\n{body}\n{after}", output)


def _on_terminal(before: str, drawn: list[Table], after: str) -> None:
    """The same text with the marked figures in bold."""
    from rich.console import Console
    from rich.text import Text

    from kvperf.render.table import plain

    console = Console(highlight=False)
    console.print(before, markup=False, soft_wrap=True)
    for table in drawn:
        text = Text(plain(table))
        text.highlight_regex(r"[\d.]+\*", "bold")
        console.print(text, soft_wrap=True)
    console.print(after, end="", markup=False, soft_wrap=True)
