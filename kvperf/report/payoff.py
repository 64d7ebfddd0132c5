"""From which batch a change pays, and from which it no longer does: found by bisecting the analysis over the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from kvperf.record import Analysis
from kvperf.report.document import Line, line
from kvperf.report.subject import Subject
from kvperf.report.values import count, times
from kvperf.workload import Requests

LEAST = 1.02  # a smaller gain does not pay
OCTAVES = 16  # of batches that are tried

Gain = Callable[[int], float]


class Window(msgspec.Struct, frozen=True):
    """Sizes at which a change pays: from `first` to below `stop`.

    first  None where it never pays;  stop: None where it still pays at the largest size tried, `last`
    """

    first: int | None
    stop: int | None
    last: int


def window(gain: Gain, octaves: int = OCTAVES) -> Window:
    """The sizes between which `gain` is more than LEAST: doublings are tried, and the ends are halved down."""
    sizes = [1 << n for n in range(octaves + 1)]
    pays = [place for place, size in enumerate(sizes) if gain(size) > LEAST]
    if not pays:
        return Window(None, None, sizes[-1])
    first, last = pays[0], pays[-1]
    start = sizes[0] if first == 0 else _change(gain, sizes[first - 1], sizes[first])
    stop = None if last == octaves else _change(gain, sizes[last], sizes[last + 1])
    return Window(start, stop, sizes[-1])


def _change(gain: Gain, low: int, high: int) -> int:
    """The first size above `low` where the change pays and at `low` does not, or the other way round."""
    before = gain(low) > LEAST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (gain(middle) > LEAST) == before else (low, middle)
    return high


class Batches:
    """The bounds of the subject's step at other batches, each analysed once; nothing is predicted."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.made: dict[tuple, Analysis] = {}

    def at(self, size: int, **changes: Any) -> Analysis:
        """The step with `size` sequences; of a ragged batch, with `size` times each of its sequences."""
        key = (size, *changes.items())
        if key not in self.made:
            self.made[key] = self.subject.at(requests=self.requests(size), stack="none", **changes)
        return self.made[key]

    def requests(self, size: int) -> tuple[Requests, ...]:
        growing, kept = self.subject.growing, self.subject.chunks
        if len(growing) == 1:
            return (replace(growing[0], count=size), *kept)
        return (*(replace(group, count=group.count * size) for group in growing), *kept)

    def sequences(self, size: int) -> int:
        """Sequences that grow, without the prompt chunks beside them."""
        found = 0
        for group in self.requests(size)[: len(self.subject.growing)]:
            found += group.count
        return found

    def of_formats(self, **changes: Any) -> Gain:
        """Tokens a second with other formats over those as asked."""
        return lambda size: float(self.at(size).step.bound_s / self.at(size, **changes).step.bound_s)

    def of_growth(self, factor: int) -> Gain:
        """Tokens a second with a batch `factor` times as large over those without."""
        return lambda size: float(
            self.at(size * factor).step.tokens_per_s_bound / self.at(size).step.tokens_per_s_bound
        )


def said(
    name: str, batches: Batches, gain: Gain, far: Callable[[int], Analysis], room: Any = None, factor: int = 1
) -> Line:
    """The window in words. `far` is the changed step, which says why a change never stops paying; `room` the largest
    batch that fits with the change, where each batch tried stands for `factor` times as many sequences."""
    found = window(gain)
    if found.first is None:
        return line("pays at no batch up to {}", count(f"{name}.last", batches.sequences(found.last)))
    begins = line(" (pays from {})", count(f"{name}.pays_from", batches.sequences(found.first)))
    tail = begins if found.first > 1 or name.endswith("int4") else ()
    end = batches.sequences(found.last if found.stop is None else found.stop)
    fits: Line = ()
    if room is not None and room < end * factor:
        fits = (
            line("no batch fits; with room, ")
            if not room
            else line("until batch {} (memory); with room, ", count(f"{name}.max_batch", room))
        )
    if found.stop is not None:
        batch = count(f"{name}.stops_at", end)
        new = batches.at(found.stop).workload
        tokens = 0
        for group in new.requests:
            tokens += group.count * group.new_tokens
        if tokens == end:
            return line("{}below batch {}{}", fits, batch, tail)
        return line("{}below batch {}, {} tokens a step{}", fits, batch, count(f"{name}.stops_tokens", tokens), tail)
    left = times(f"{name}.left", gain(found.last))
    why = _why(name, batches.at(found.last), far(found.last))
    return line("{}still {} at {}, {}{}", fits, left, count(f"{name}.last", end), why, tail)


def _why(name: str, now: Analysis, changed: Analysis) -> Line:
    """Why it still pays at the largest batch tried."""
    if changed.step.bound_by != "tensor":
        return line("as memory still binds")
    old, new = (max(peak.flops_per_s for peak in record.gpu.peaks) for record in (now, changed))
    if new > old:
        return line("as the matrix peak of its formats is {} as high", times(f"{name}.peaks", new / old))
    return line("as memory would bind without it")
