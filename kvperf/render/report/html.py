"""The document as one HTML file: no script, nothing fetched; light or dark as the reader's system is."""

from __future__ import annotations

from html import escape

from kvperf import __version__
from kvperf.render.report.figures import pictures
from kvperf.render.report.style import STYLE
from kvperf.render.report.values import numeric_columns, shown
from kvperf.report.document import Block, Cite, Document, Figure, Line, Section, Table, Value


def html(document: Document) -> str:
    """All of it."""
    title = "".join(shown(part) if isinstance(part, Value) else str(part) for part in document.title)
    links = "".join(f'<li><a href="#{s.name}">{escape(s.title)}</a></li>' for s in document.sections)
    lead = "".join(f"<p>{_line(line)}</p>\n" for line in document.lead)
    sections = "".join(_section(section) for section in document.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{lead}</header>\n"
        f'<nav aria-label="Contents">\n<h2>Contents</h2>\n<ol>{links}</ol>\n</nav>\n'
        f"<main>\n{sections}</main>\n<footer><p>kvperf {escape(__version__)}</p></footer>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    blocks = "".join(_block(block, section) for block in section.blocks)
    return f'<section id="{section.name}" aria-labelledby="{section.name}-title">\n<h2 id="{section.name}-title">' + (
        f"{escape(section.title)}</h2>\n{blocks}</section>\n"
    )


def _line(line: Line) -> str:
    said = []
    for part in line:
        if isinstance(part, Value):
            text = escape(shown(part))
            unknown = " unknown" if part.number is None else ""
            kind = "word" if part.unit == "word" else "value"
            said.append(f'<span class="{kind}{unknown}" data-name="{escape(part.name)}">{text}</span>')
        elif isinstance(part, Cite):
            said.append(f'<a class="cite" href="#source-{escape(part.key)}">{escape(part.key)}</a>')
        else:
            said.append(escape(part))
    return "".join(said)


def _block(block: Block, section: Section) -> str:
    if isinstance(block, Table):
        return _table(block, section)
    if isinstance(block, Figure):
        drawn, problem = pictures(block)
        why = "" if problem is None else f" Not drawn: {escape(problem.message)}."
        caption = f"{_line(block.caption)}{why}"
        if not drawn:
            return f'<p class="note">{caption}</p>\n'
        figure = f'<div class="scroll" tabindex="0">{drawn}</div>\n<figcaption>{caption}</figcaption>'
        return f"<figure>\n{figure}\n</figure>\n"
    if block.listed:
        return "<ul>\n" + "".join(f"<li>{_line(line)}</li>\n" for line in block.lines) + "</ul>\n"
    return "".join(f"<p>{_line(line)}</p>\n" for line in block.lines)


def _table(table: Table, section: Section) -> str:
    numeric = numeric_columns(table)
    heads = "".join(
        f'<th scope="col"{_class(right)}>{escape(head)}</th>'
        for head, right in zip(table.headers, numeric, strict=True)
    )
    first = len(table.rows) - table.totals
    rows = "".join(_row(row, numeric, place >= first, section) for place, row in enumerate(table.rows))
    notes = "".join(f'<p class="note">{_line(note)}</p>\n' for note in table.notes)
    return (
        f'<h3>{escape(table.caption)}</h3>\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(table.caption)}">\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n'
        f"</table>\n</div>\n{notes}"
    )


def _row(row: tuple[Line, ...], numeric: list[bool], total: bool, section: Section) -> str:
    """Cells; in the list of sources each key is where citations lead."""
    place = ""
    if section.name == "sources" and isinstance(row[0][0], Cite):
        place = f' id="source-{escape(row[0][0].key)}"'
        row = ((row[0][0].key,), *row[1:])
    cells = []
    for number, (cell, right) in enumerate(zip(row, numeric, strict=True)):
        if number == 0:
            cells.append(f'<th scope="row"{_class(right)}>{_line(cell)}</th>')
        else:
            cells.append(f"<td{_class(right)}>{_line(cell)}</td>")
    kind = ' class="total"' if total else ""
    return f"<tr{place}{kind}>{''.join(cells)}</tr>\n"


def _class(right: bool) -> str:
    return ' class="number"' if right else ""
