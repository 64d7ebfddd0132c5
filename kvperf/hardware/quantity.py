"""The quantities of a profile: floats in SI base units, decoded from text such as `3.35 TB/s`."""

from __future__ import annotations

from typing import Any, ClassVar

from kvperf import units
from kvperf.errors import KvperfError


class Quantity(float):
    """A number of base units; `unit` names them as kvperf.units does."""

    unit: ClassVar[str]


class Bytes(Quantity):
    unit = "B"


class BytesPerSecond(Quantity):
    unit = "B/s"


class FlopsPerSecond(Quantity):
    unit = "FLOP/s"


class Hertz(Quantity):
    unit = "Hz"


class Seconds(Quantity):
    unit = "s"


class Watts(Quantity):
    unit = "W"


class Bits(Quantity):
    unit = "bit"


class Cycles(Quantity):
    unit = "cycles"


class Latency(Quantity):
    """Cycles of the SM clock, or seconds: `unit` of the instance says which."""

    unit = "cycles"


class _LatencySeconds(Latency):
    unit = "s"


class Throughput(Quantity):
    """A measured rate, FLOP/s or B/s: `unit` of the instance says which."""

    unit = "FLOP/s"


class _ThroughputBytes(Throughput):
    unit = "B/s"


# A key that takes two dimensions: the class that its text asks for.
_EITHER: dict[type, tuple[str, type[Quantity]]] = {
    Latency: ("s", _LatencySeconds),
    Throughput: ("B/s", _ThroughputBytes),
}


def decode(kind: type[Quantity], value: Any) -> Quantity:
    """msgspec's hook for Quantity types. The ValueError carries the hint of kvperf.units behind ` | hint: `."""
    if value is None:
        raise ValueError("nothing stands here | hint: leave the whole reading out where the number is unknown")
    if kind in _EITHER and str(value).endswith(_EITHER[kind][0]) and not str(value).endswith("cycles"):
        kind = _EITHER[kind][1]
    try:
        return kind(units.parse(value, kind.unit))
    except KvperfError as problem:
        raise ValueError(f"{problem.message} | hint: {problem.hint}") from None
