"""One table of text cells, drawn for a terminal, a pipe or Markdown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.console import Console


class Table(msgspec.Struct, frozen=True):
    """Cells ready to print. The first `left` columns are text, the others numbers.

    headers  one line each, or two joined by a newline (name above unit)
    totals   how many of the last rows stand below a rule
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    totals: int = 0


def plain(table: Table) -> str:
    """Aligned columns without boxes or colour, never truncated."""
    lines = _header_lines(table)
    widths = _widths(table)

    def line(cells: tuple[str, ...]) -> str:
        aligned = (
            cell.ljust(width) if i < table.left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    body = [line(row) for row in table.rows]
    if table.totals:
        body.insert(len(body) - table.totals, rule)
    return "\n".join([*(line(head) for head in lines), rule, *body]) + "\n"


def markdown(table: Table) -> str:
    """A GitHub Markdown table."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    marks = tuple("---" if i < table.left else "---:" for i in range(len(table.headers)))
    return "\n".join([line(table.headers), line(marks), *(line(row) for row in table.rows)]) + "\n"


def on_terminal(table: Table, console: Console) -> None:
    """Draw with rich: a rule below the headers, totals in bold below another; tighter where it is narrow."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    gap = 2 if sum(_widths(table)) + 2 * len(table.headers) <= console.width else 1
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), show_edge=False)
    for i, header in enumerate(zip(*_header_lines(table), strict=True)):
        drawn.add_column(Text("\n".join(header)), justify="left" if i < table.left else "right", no_wrap=i == 0)
    first_total = len(table.rows) - table.totals
    for i, row in enumerate(table.rows):
        style = "bold" if i >= first_total else None
        drawn.add_row(*(Text(cell) for cell in row), style=style, end_section=i == first_total - 1)
    console.print(drawn)


def is_terminal() -> bool:
    """Whether standard output is a person's terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def _header_lines(table: Table) -> list[tuple[str, ...]]:
    """The headers line by line, the shorter ones moved down to the rule."""
    heads = [header.split("\n") for header in table.headers]
    height = max(len(head) for head in heads)
    return list(zip(*([""] * (height - len(head)) + head for head in heads), strict=True))


def _widths(table: Table) -> list[int]:
    return [max(len(row[i]) for row in (*_header_lines(table), *table.rows)) for i in range(len(table.headers))]
