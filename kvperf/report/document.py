"""What a report is made of: sections of sentences, tables and figures. Every number in it is a named value.

Numbers are in base units; how they are written is the renderers' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from kvperf.crossings import Sweep
    from kvperf.measured import Measured
    from kvperf.record import Analysis

Unit = Literal[
    "B",
    "capacity",
    "s",
    "ns",
    "cycles",
    "plain",
    "B/s",
    "FLOP",
    "FLOP/s",
    "FLOP/B",
    "tokens/s",
    "share",
    "times",
    "count",
    "word",
]
Number = int | float | str | bool | None


class Value(msgspec.Struct, frozen=True):
    """A computed figure: its name in the document, its number (None: unknown), what it counts.

    capacity is bytes of a memory, B bytes that move; a word says something that was computed, too.
    """

    name: str
    number: Number
    unit: Unit
    digits: int = 3


class Cite(msgspec.Struct, frozen=True):
    """A source: the key it is cited by, and what stands in the list of sources."""

    key: str
    text: str


Part = str | Value | Cite
Line = tuple[Part, ...]


class Text(msgspec.Struct, frozen=True):
    """Sentences that belong together, or points of a list."""

    lines: tuple[Line, ...]
    listed: bool = False


class Table(msgspec.Struct, frozen=True):
    """Rows of cells under headers. The last `totals` rows stand below a rule."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Line, ...], ...]
    totals: int = 0
    notes: tuple[Line, ...] = ()


class Roofline(msgspec.Struct, frozen=True):
    """The stages of an analysis; `hbm` is the name of the memory and the kind of its bandwidth."""

    analysis: Analysis
    hbm: tuple[str, str]
    measured: Measured | None


class Memory(msgspec.Struct, frozen=True):
    """Analyses over the batch."""

    sweep: Sweep


class Figure(msgspec.Struct, frozen=True):
    """A picture, drawn where pictures can be. Without `drawn_of` the caption says why there is none."""

    drawn_of: Roofline | Memory | None
    caption: Line


Block = Text | Table | Figure


class Section(msgspec.Struct, frozen=True):
    """One question and its answer."""

    name: str
    title: str
    blocks: tuple[Block, ...]


class Document(msgspec.Struct, frozen=True):
    """The whole report."""

    title: Line
    lead: tuple[Line, ...]
    sections: tuple[Section, ...]

    @property
    def figures(self) -> dict[str, Number]:
        """Every value of the document by its name. A name stands for one number."""
        found: dict[str, Number] = {}
        for part in self.parts():
            if isinstance(part, Value):
                if part.name in found and found[part.name] != part.number:
                    raise ValueError(f"{part.name} is {found[part.name]} and {part.number}")
                found[part.name] = part.number
        return found

    def parts(self) -> Iterator[Part]:
        """All words, values and citations in reading order."""
        for line in (self.title, *self.lead):
            yield from line
        for section in self.sections:
            yield from section_parts(section)


def section_parts(section: Section) -> Iterator[Part]:
    """The parts of one section in reading order."""
    for block in section.blocks:
        if isinstance(block, Figure):
            yield from block.caption
            continue
        lines = block.lines if isinstance(block, Text) else (*(c for row in block.rows for c in row), *block.notes)
        for line in lines:
            yield from line


def line(text: str, *filled: Part | Line) -> Line:
    """A sentence with a `{}` for each value, word, citation, or for several of them."""
    pieces = text.split("{}")
    if len(pieces) != len(filled) + 1:
        raise ValueError(f"{len(pieces) - 1} gaps and {len(filled)} to fill them: {text}")
    parts: list[Part] = [pieces[0]]
    for between, piece in zip(filled, pieces[1:], strict=True):
        parts += [*(between if isinstance(between, tuple) else (between,)), piece]
    return tuple(part for part in parts if part != "")


def text(*lines: Line, listed: bool = False) -> Text:
    return Text(lines, listed)


def row(*cells: Part | Line) -> tuple[Line, ...]:
    """Cells of a table."""
    return tuple(cell if isinstance(cell, tuple) else (cell,) for cell in cells)


def joined(parts: Iterable[Part | Line], between: str = ", ") -> Line:
    """Parts with something between them."""
    found: list[Part] = []
    for part in parts:
        if found:
            found.append(between)
        found += part if isinstance(part, tuple) else (part,)
    return tuple(found)
