"""Printing an analysis: the record in the asked-for format, its warnings on standard error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvperf.render import output as out

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.layout import Parallelism
    from kvperf.model.architecture import Model
    from kvperf.record import Analysis
    from kvperf.workload import Workload


def analysis(record: Analysis, ceilings: bool, format: str, output: Path | None) -> None:
    """Write the record to a file or standard output."""
    for warning in record.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if format == "json":
        out.write(out.json_text(record), output)
        return
    from kvperf.render import analysis as view

    if format == "csv":
        out.write(out.csv_text(view.csv_rows(record)), output)
    elif format == "md":
        out.write(_markdown(record, view, ceilings), output)
    else:
        _text(record, view, ceilings, output)


def explanation(
    prepared: tuple[Gpu, Model, Workload], stage: str, layout: Parallelism, format: str, output: Path | None
) -> None:
    """Write a stage's explanation: text, or JSON."""
    from kvperf.errors import KvperfError
    from kvperf.explanation import explain_stage

    if format in ("csv", "md"):
        raise KvperfError(f"--explain has no --format {format}", "it prints text (table) or json")
    gpu, model, workload = prepared
    found = explain_stage(gpu, model, workload, stage, layout)
    if format == "json":
        out.write(out.json_text(found), output)
        return
    from kvperf.render.explain import explanation_text

    out.write(explanation_text(found), output)


def _tables(record: Analysis, view: Any, ceilings: bool, wide: bool = False) -> list[Any]:
    tables = [view.stage_table(record, wide)]
    return [*tables, view.ceiling_table(record)] if ceilings else tables


def _markdown(record: Analysis, view: Any, ceilings: bool) -> str:
    from kvperf.render.analysis_lines import summary
    from kvperf.render.layout_lines import layout
    from kvperf.render.table import markdown

    tables = "\n".join(markdown(table) for table in _tables(record, view, ceilings, wide=True))
    notes = "".join(f"- {line}\n" for line in summary(record))
    head = "\n\n".join([*layout(record), view.precision(record)])
    return f"**{view.headline(record)}**\n\n{head}\n\n{tables}\n{notes}"


def _text(record: Analysis, view: Any, ceilings: bool, output: Path | None) -> None:
    from kvperf.render import table
    from kvperf.render.analysis_lines import summary
    from kvperf.render.layout_lines import layout

    head = view.folded([view.headline(record), *layout(record), view.precision(record)]) + "\n"
    foot = view.folded(summary(record))
    if output is None and table.is_terminal():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(head, end="", markup=False, soft_wrap=True)
        for drawn in _tables(record, view, ceilings):
            table.on_terminal(drawn, console)
            console.print()
        console.print(foot, end="", markup=False, soft_wrap=True)
        return
    body = "\n".join(table.plain(drawn) for drawn in _tables(record, view, ceilings))
    out.write(f"{head}{body}\n{foot}", output)
