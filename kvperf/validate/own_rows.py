"""A user's own measurements: a CSV file, one launch a row, as docs/own_rows.md says.

What is wrong with a single row is listed with its line, and the others are used; what is wrong with the file is an
error.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvperf.calibrate.grouping import ALIASES, CACHE_FORMATS, PRODUCT_FORMATS, Point, grouped
from kvperf.errors import KvperfError, nearest, unknown_name
from kvperf.inputs import STACKS
from kvperf.silicon.catalogue import Group

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

TIMES = {"seconds": 1.0, "ms": 1e-3, "us": 1e-6}
REGIMES = ("warm", "cold")
LARGEST = 2**40  # of any size: no launch has more tokens, or bytes
DOCUMENT = "docs/own_rows.md lists the columns"


class Columns(msgspec.Struct, frozen=True):
    """What a row of a family holds.

    family    as kvperf.predict calls it
    sizes     columns that must be filled, with the field of the launch that each is; whole numbers from 1 on
    optional  the same, 0 where empty
    formats   columns of number formats, each with those it takes; the first is bf16 where empty, others as the first
    """

    family: str
    sizes: dict[str, str]
    optional: dict[str, str] = {}
    formats: dict[str, tuple[str, ...]] = {}

    @property
    def names(self) -> set[str]:
        return {*self.sizes, *self.optional, *self.formats}


_HEADS = {"heads": "heads", "kv_heads": "kv_heads", "head_dim": "head_dim"}
FAMILIES = {
    "decode_attention": Columns(
        "decode_attention",
        {"batch": "batch", **_HEADS, "context": "context"},
        {"window": "window"},
        {"kv_dtype": CACHE_FORMATS},
    ),
    "prefill_attention": Columns(
        "prefill_attention",
        {"batch": "batch", "new_tokens": "new", **_HEADS},
        {"prefix": "prefix", "window": "window"},
        {"kv_dtype": CACHE_FORMATS},
    ),
    "gemm": Columns(
        "gemm",
        {"m": "m", "n": "n", "k": "k"},
        formats={"weight_dtype": PRODUCT_FORMATS, "activation_dtype": PRODUCT_FORMATS},
    ),
    "all_reduce": Columns("collective", {"ranks": "ranks", "bytes": "bytes"}),
}
COMMON = ("family", *TIMES, "regime")
KNOWN = tuple(dict.fromkeys([*COMMON, *(name for columns in FAMILIES.values() for name in sorted(columns.names))]))


class _BadRowError(Exception):
    """Why one row cannot be used."""


def read_rows(path: Path, gpu: Gpu, stack: str) -> tuple[dict[str, list[Group]], list[tuple[int, str]]]:
    """(groups by kernel family, [(line number, why)] of rows that cannot be used).

    All rows are scored: nothing was fitted to them. `all_reduce` rows stand under `collective`; a family may have
    several groups of one label (kvperf.calibrate.grouping). Raises KvperfError for a file that cannot be read, a column
    that is unknown or missing, and where no row is left.
    """
    if stack not in STACKS:
        raise unknown_name("stack", stack, STACKS)
    points: list[Point] = []
    bad: list[tuple[int, str]] = []
    for line, cells in _records(path):
        try:
            points.append(_point(line, cells))
        except _BadRowError as why:
            bad.append((line, str(why)))
    groups, unusable = grouped(points, gpu, stack)
    bad = sorted([*bad, *((point.line, why) for point, why in unusable)])
    if not groups:
        shown = f"; line {bad[0][0]}: {bad[0][1]}" if bad else ""
        raise KvperfError(f"{path} has no row that can be used{shown}", DOCUMENT)
    return groups, bad


def _records(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Every row that is not blank: its line, and its cells by column; `…` has what is beyond the last column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(c.strip() for c in row)]
    except OSError as problem:
        raise KvperfError(f"{path}: {problem.strerror}", "give a CSV file of measured launches") from None
    except UnicodeDecodeError:
        raise KvperfError(f"{path} is not UTF-8 text", "save it as CSV in UTF-8") from None
    except csv.Error as problem:
        raise KvperfError(f"{path} is not CSV: {problem}", DOCUMENT) from None
    columns = [*header, "…"]
    return [
        (line, dict(zip(columns, [*row[: len(header)], ",".join(row[len(header) :])], strict=False)))
        for line, row in rows
    ]


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not any(header):
        raise KvperfError(f"{path} has no header", DOCUMENT)
    for name in header:
        if name not in KNOWN:
            close = nearest(name, KNOWN)
            hint = f"did you mean '{close}'? " if close else ""
            raise KvperfError(f"{path}: unknown column '{name}'", hint + DOCUMENT)
        if header.count(name) > 1:
            raise KvperfError(f"{path}: the column '{name}' stands there twice", "leave one of them out")
    if "family" not in header:
        raise KvperfError(f"{path} has no column 'family'", f"each row says which: {', '.join(FAMILIES)}")
    if not set(TIMES) & set(header):
        raise KvperfError(f"{path} has no column of times", f"name it by its unit: {', '.join(TIMES)}")


def _point(line: int, cells: Mapping[str, str]) -> Point:
    if cells.get("…"):
        raise _BadRowError("it has more cells than there are columns")
    filled = {name: cell for name, cell in cells.items() if cell}
    name = filled.get("family", "")
    columns = FAMILIES.get(name)
    if columns is None:
        raise _BadRowError(f"unknown family '{name}' (known: {', '.join(FAMILIES)})" if name else "family is missing")
    if stray := sorted(set(filled) - set(COMMON) - columns.names):
        raise _BadRowError(f"{name} has no {' or '.join(stray)}")
    regime = filled.get("regime", "warm")
    if regime not in REGIMES:
        raise _BadRowError(f"regime '{regime}' is neither warm nor cold")
    sizes = {field: _size(column, filled, 1) for column, field in columns.sizes.items()}
    sizes |= {field: _size(column, filled, 0) for column, field in columns.optional.items()}
    if sizes.get("heads", 0) % sizes.get("kv_heads", 1):
        raise _BadRowError(f"{sizes['heads']:.0f} heads are not a multiple of {sizes['kv_heads']:.0f} kv_heads")
    if sizes.get("ranks", 2) < 2:
        raise _BadRowError("ranks is 1: an all-reduce has two at least")
    warm = regime == "warm" or columns.family == "collective"  # a collective has no cache state
    return Point(columns.family, sizes, _formats(columns, filled), warm, _seconds(filled), line)


def _seconds(filled: Mapping[str, str]) -> float:
    given = [name for name in TIMES if name in filled]
    if len(given) != 1:
        raise _BadRowError(f"it has {' and '.join(given)}: one time is enough" if given else "its time is missing")
    value = _number(given[0], filled[given[0]])
    if value <= 0:
        raise _BadRowError(f"{given[0]} is {filled[given[0]]}: a time is above 0")
    return value * TIMES[given[0]]


def _size(column: str, filled: Mapping[str, str], least: int) -> float:
    """A whole number; empty is 0 where that is allowed."""
    if column not in filled:
        if least:
            raise _BadRowError(f"{column} is missing")
        return 0.0
    value = _number(column, filled[column])
    if not value.is_integer():
        raise _BadRowError(f"{column} is {filled[column]}: not a whole number")
    if not least <= value <= LARGEST:
        raise _BadRowError(f"{column} is {filled[column]}: not from {least} to {LARGEST}")
    return value


def _number(column: str, text: str) -> float:
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _BadRowError(f"{column} is '{text}': not a number")
    return value


def _formats(columns: Columns, filled: Mapping[str, str]) -> tuple[str, ...]:
    """Canonical names. Activations are in the weights' format where nothing is said and a matrix unit multiplies it."""
    found: list[str] = []
    for column, allowed in columns.formats.items():
        given = filled.get(column, "")
        multiplied = found[:1] if found and not found[0].startswith("int4") else ["bf16"]
        name = ALIASES.get(given.lower(), given.lower()) or multiplied[0]
        if name not in allowed:
            raise _BadRowError(f"{column} '{given}' is none of {', '.join(allowed)}")
        found.append(name)
    return tuple(found)
