"""Quantities with units: profiles write `3.35 TB/s`, the program computes in SI base units.

A quantity is a plain decimal number, one space, and a unit with at most one prefix. Upper and
lower case matter (`Gb` would be gigabits). Scientific notation is refused: YAML reads `3.35e12`
as text, and a bare number does not say what it counts.
"""

from __future__ import annotations

import re
from decimal import Decimal

from kvperf.errors import KvperfError

DECIMAL_PREFIXES = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
BINARY_PREFIXES = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
SMALL_PREFIXES = {"m": -3, "u": -6, "µ": -6, "n": -9}

# Each dimension: its base unit and an example that hints print.
EXAMPLES = {
    "B": "80 GiB",
    "B/s": "3.35 TB/s",
    "FLOP/s": "989.4 TFLOP/s",
    "Hz": "1830 MHz",
    "s": "1.27 us",
    "W": "700 W",
    "bit": "5120 bit",
    "cycles": "219 cycles",
}

_QUANTITY = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?) (\S+)")


def _scales(unit: str) -> dict[str, Decimal]:
    """Every spelling of a unit with its prefix, and what it multiplies by."""
    if unit in ("bit", "cycles", "W"):
        return {unit: Decimal(1)}
    if unit == "s":
        exponents = {"": 0, **SMALL_PREFIXES}
        return {p + unit: Decimal(1).scaleb(e) for p, e in exponents.items()}
    scales = {p + unit: Decimal(1).scaleb(e) for p, e in DECIMAL_PREFIXES.items()}
    if unit in ("B", "B/s"):
        scales |= {p + unit: Decimal(factor) for p, factor in BINARY_PREFIXES.items()}
    return scales


_SCALES = {unit: _scales(unit) for unit in EXAMPLES}


def parse(text: object, unit: str) -> float:
    """The number of base units in `text`, say `parse("3.35 TB/s", "B/s") == 3.35e12`.

    Whole results are exact integers. Raises KvperfError for a bare number, scientific notation,
    another dimension, or a unit in the wrong case.
    """
    example = f"write it like '{EXAMPLES[unit]}'"
    if isinstance(text, (int, float)):
        raise KvperfError(f"'{text}' has no unit", example)
    matched = _QUANTITY.fullmatch(str(text))
    if matched is None:
        raise KvperfError(f"'{text}' is not a number with a unit", example)
    number, spelled = matched.groups()
    scale = _SCALES[unit].get(spelled)
    if scale is None:
        folded = {s.lower(): s for s in _SCALES[unit]}
        close = folded.get(spelled.lower())
        raise KvperfError(
            f"'{text}' is not in {unit}",
            f"did you mean '{number} {close}'? units are case-sensitive" if close else example,
        )
    value = Decimal(number) * scale
    return int(value) if value == value.to_integral_value() else float(value)


def like(text: str, value: float, unit: str) -> str:
    """`value` in the very unit of `text`: `like("760 GB/s", 7e11, "B/s") == "700 GB/s"`."""
    spelled = text.split(" ")[-1]
    scaled = value / float(_SCALES[unit][spelled])
    return f"{scaled:.4g} {spelled}" if scaled < 1e4 else f"{scaled:.0f} {spelled}"


def prefix_for(largest: float) -> tuple[str, float]:
    """The one decimal prefix a column of numbers up to `largest` is printed with."""
    size = abs(largest)
    for prefix, exponent in (("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3)):
        if size >= 10.0**exponent:
            return prefix, 10.0**exponent
    if size >= 1 or size == 0:
        return "", 1.0
    for prefix, exponent in (("m", -3), ("µ", -6)):
        if size >= 10.0**exponent:
            return prefix, 10.0**exponent
    return "n", 1e-9


def significant(value: float, digits: int = 3) -> str:
    """`value` in plain decimals with at least `digits` significant digits, never with an exponent."""
    if value == 0:
        return "0"
    rounded = Decimal(repr(float(value)))
    places = digits - 1 - rounded.adjusted()
    if places <= 0:
        return f"{value:.0f}"
    text = f"{value:.{places}f}"
    # 9.996 rounds up to 10.00: one digit fewer after the point keeps the count.
    if len(text.replace("-", "").replace(".", "").lstrip("0")) > digits:
        text = f"{value:.{max(places - 1, 0)}f}"
    return text


def decimal(value: float, unit: str, digits: int = 3) -> str:
    """A rate, traffic or time with a decimal prefix: `decimal(3.35e12, "B/s") == "3.35 TB/s"`."""
    prefix, scale = prefix_for(value)
    if unit == "s" and scale > 1:  # nobody writes kiloseconds
        return f"{significant(value, digits)} s"
    shown = significant(value / scale, digits)
    if abs(float(shown)) >= 1000 and prefix != "P":  # 999.96 GB/s is printed as 1.00 TB/s
        prefix, scale = prefix_for(float(shown) * scale)
        shown = significant(value / scale, digits)
    return f"{shown} {prefix}{unit}"


def binary(value: float, digits: int = 4) -> str:
    """A capacity with a binary prefix: `binary(52428800) == "50 MiB"`."""
    prefix, scale = "", 1
    for larger in ("Ki", "Mi", "Gi", "Ti"):
        # What would round up to 1024 of one prefix is 1 of the next.
        if float(significant(abs(value) / scale, digits)) >= 1024:
            prefix, scale = larger, BINARY_PREFIXES[larger]
    whole = value / scale
    return f"{whole:.0f} {prefix}B" if whole == int(whole) else f"{significant(whole, digits)} {prefix}B"
