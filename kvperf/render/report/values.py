"""How a value is written: scaled, with its unit, unknown as a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kvperf.report.document import Cite, Line, Part, Table, Value
from kvperf.units import binary, decimal, significant

UNKNOWN = "unknown"
THOUSANDS = re.compile(r"(?<![\d.,])\d{4,}(?![\d,])")
SPACE = "\u00a0"  # a number and its unit stay together


def shown(value: Value) -> str:
    """The value in words, thousands apart."""
    said = _shown(value)
    return said if value.unit == "word" else THOUSANDS.sub(lambda digits: f"{int(digits[0]):,}", said)


def _shown(value: Value) -> str:
    number: Any = value.number
    if number is None:
        return UNKNOWN
    if value.unit == "word":
        return str(number)
    if value.unit == "capacity":
        return binary(number, value.digits)
    if value.unit in ("B", "B/s", "s", "FLOP", "FLOP/s"):
        return decimal(number, value.unit, value.digits)
    if value.unit == "count":
        return _counted(number)
    if value.unit == "share":
        return f"{100 * number:.1f} %"
    if value.unit == "times":
        return f"{significant(number, value.digits)}×"
    if value.unit == "plain":
        return f"{number:.3g}"
    if value.unit in ("cycles", "ns"):
        return f"{number:.3g} {value.unit}"
    return f"{significant(number, value.digits)} {value.unit}"


def _counted(number: Any) -> str:
    if isinstance(number, float) and number != int(number):
        return significant(number, 3)
    return f"{int(number):,}"


def written(line: Line, word: Callable[[str], str] = str, cite: Callable[[Cite], str] | None = None) -> str:
    """The line as text: `word` treats what is between values, `cite` a citation."""
    said = []
    for part in line:
        if isinstance(part, Value):
            text = shown(part)
            said.append(word(text) if part.unit == "word" else word(text.replace(" ", SPACE)))
        elif isinstance(part, Cite):
            said.append(cite(part) if cite else f"[{part.key}]")
        else:
            said.append(word(part))
    return "".join(said)


def is_number(part: Part) -> bool:
    return isinstance(part, Value) and part.unit != "word"


def numeric_columns(table: Table) -> list[bool]:
    """Which columns hold numbers: those whose cells all begin with one, empty ones apart."""
    columns = []
    for place in range(len(table.headers)):
        cells = [row[place] for row in table.rows if row[place] and row[place] != ("",)]
        columns.append(bool(cells) and all(is_number(cell[0]) for cell in cells))
    return columns
