"""A sequence of layers written as repeated blocks."""

from __future__ import annotations

from collections.abc import Sequence

from kvperf.model.architecture import Layer, Run

LONGEST_BLOCK = 24


def runs(layers: Sequence[Layer]) -> tuple[Run, ...]:
    """The layers as blocks and repeats: at each place the block that, repeated, covers most; else one layer."""
    found: list[Run] = []
    start = 0
    while start < len(layers):
        period, repeat = 1, _repeats(layers, start, 1)
        for candidate in range(2, LONGEST_BLOCK + 1):
            times = _repeats(layers, start, candidate)
            if times > 1 and times * candidate > period * repeat:
                period, repeat = candidate, times
        found.append(Run(repeat, tuple(layers[start : start + period])))
        start += period * repeat
    return tuple(found)


def _repeats(layers: Sequence[Layer], start: int, period: int) -> int:
    """How often the `period` layers at `start` stand one after the other."""
    end = start + period
    while end < len(layers) and layers[end] == layers[end - period]:
        end += 1
    return (end - start) // period
