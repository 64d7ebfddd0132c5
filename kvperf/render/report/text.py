"""The document as plain text: sections under rules, tables in aligned columns."""

from __future__ import annotations

from itertools import zip_longest
from textwrap import wrap

from kvperf.render.report.values import SPACE, numeric_columns, written
from kvperf.report.document import Block, Document, Figure, Line, Table

WIDTH = 100
NARROWEST = 9


def text(document: Document) -> str:
    """All of it."""
    title = _plain(document.title)
    parts = [_underlined(title, "="), _folded(document.lead)]
    for section in document.sections:
        parts.append(_underlined(section.title, "-"))
        parts += [_block(block) for block in section.blocks if not isinstance(block, Figure)]
    return "\n".join(parts).replace(SPACE, " ")


def _plain(line: Line) -> str:
    return written(line)


def _underlined(title: str, mark: str) -> str:
    return f"{title}\n{mark * len(title)}\n"


def _folded(lines: tuple[Line, ...], mark: str = "") -> str:
    """Lines no wider than the page, each on its own, continued with an indent."""
    indent = " " * len(mark)
    folded = [
        part
        for line in lines
        for part in wrap(_plain(line), WIDTH, initial_indent=mark, subsequent_indent=indent, break_on_hyphens=False)
    ]
    return "".join(f"{part}\n" for part in folded)


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    assert not isinstance(block, Figure)
    return _folded(block.lines, "- " if block.listed else "")


def _table(table: Table) -> str:
    """Columns as wide as their words, folded where the table would pass the page."""
    cells = [tuple(table.headers), *(tuple(_plain(cell) for cell in row) for row in table.rows)]
    widths = _widths(cells)
    numeric = numeric_columns(table)
    lines = [table.caption]
    for place, cells_of in enumerate(cells):
        if place == 1 or (table.totals and place == len(cells) - table.totals):
            lines.append("  ".join("-" * width for width in widths))
        folded = [
            wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(cells_of, widths, strict=True)
        ]
        for row in zip_longest(*folded, fillvalue=""):
            aligned = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            )
            lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines) + "\n" + _folded(table.notes)


def _widths(cells: list[tuple[str, ...]]) -> list[int]:
    """As wide as the widest cell; the widest columns give way until the table fits, down to their longest word."""
    columns = list(zip(*cells, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    words = [max(len(word) for cell in column for word in cell.split(" ")) for column in columns]
    least = [max(word, min(width, NARROWEST)) for word, width in zip(words, widths, strict=True)]
    gaps = 2 * (len(widths) - 1)
    while sum(widths) + gaps > WIDTH:
        able = [place for place, width in enumerate(widths) if width > least[place]]
        if not able:
            break
        widths[max(able, key=lambda place: widths[place])] -= 1
    return widths
