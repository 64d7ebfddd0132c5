"""Short names for the values that sections are made of."""

from __future__ import annotations

from typing import Any

from kvperf.report.document import Line, Value


def count(name: str, number: Any) -> Value:
    """How many."""
    return Value(name, number, "count")


def share(name: str, number: Any) -> Value:
    """A part of a whole."""
    return Value(name, number, "share")


def times(name: str, number: Any) -> Value:
    """A ratio."""
    return Value(name, number, "times")


def word(name: str, said: str | None) -> Value:
    """Something computed that is no number."""
    return Value(name, said, "word")


def moved(name: str, size: Any, digits: int = 3) -> Value:
    """Bytes that move."""
    return Value(name, size, "B", digits)


def held(name: str, size: Any) -> Value:
    """Bytes that a memory holds."""
    return Value(name, size, "capacity", 4)


def seconds(name: str, duration: Any, digits: int = 3) -> Value:
    return Value(name, duration, "s", digits)


def bytes_per_s(name: str, rate: Any) -> Value:
    return Value(name, rate, "B/s")


def flop(name: str, amount: Any, digits: int = 3) -> Value:
    return Value(name, amount, "FLOP", digits)


def flop_per_s(name: str, rate: Any) -> Value:
    return Value(name, rate, "FLOP/s", 4)


def intensity(name: str, flop_per_byte: Any) -> Value:
    return Value(name, flop_per_byte, "FLOP/B")


def tokens_per_s(name: str, rate: Any) -> Value:
    return Value(name, rate, "tokens/s", 4)


def between(name: str, low_high: tuple[float, float] | None, unit: Any) -> Line:
    """A range of readings; one value where they agree. Where the unit does not scale it is said once."""
    if low_high is None:
        return (Value(name, None, unit),)
    low, high = low_high
    if low == high:
        return (Value(name, low, unit),)
    first = "plain" if unit in ("cycles", "ns") else unit
    return (Value(f"{name}.low", low, first), " to ", Value(f"{name}.high", high, unit))


def over(amount: Any, rate: Any) -> Any:
    """A quotient; unknown where either is."""
    return None if amount is None or not rate else amount / rate
