"""The document as GitHub Markdown."""

from __future__ import annotations

import re

from kvperf.render.report.values import SPACE, numeric_columns, written
from kvperf.report.document import Block, Document, Figure, Line, Table


def markdown(document: Document) -> str:
    """All of it."""
    parts = [f"# {_plain(document.title)}", *(_plain(line) for line in document.lead), _contents(document)]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [_block(block) for block in section.blocks if not isinstance(block, Figure)]
    return "\n\n".join(parts).replace(SPACE, " ") + "\n"


def _plain(line: Line) -> str:
    return written(line, _escaped)


def _escaped(text: str) -> str:
    return re.sub(r"([*<\\])", r"\\\1", text)


def _contents(document: Document) -> str:
    """Links to the sections, by the anchors that GitHub makes of headings."""
    links = []
    for section in document.sections:
        anchor = re.sub(r"[^\w -]", "", section.title.lower()).replace(" ", "-")
        links.append(f"- [{section.title}](#{anchor})")
    return "\n".join(links)


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    assert not isinstance(block, Figure)
    lines = [_plain(line) for line in block.lines]
    return "\n".join(f"- {line}" for line in lines) if block.listed else "\n\n".join(lines)


def _table(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    marks = ["---:" if right else "---" for right in numeric_columns(table)]
    rows = [[_plain(cell) for cell in row] for row in table.rows]
    for row in rows[len(rows) - table.totals :] if table.totals else []:
        row[:] = [f"**{cell}**" if cell else "" for cell in row]
    drawn = "\n".join([line(list(table.headers)), line(marks), *map(line, rows)])
    notes = "\n\n".join(_plain(note) for note in table.notes)
    return f"**{table.caption}**\n\n{drawn}" + (f"\n\n{notes}" if notes else "")
