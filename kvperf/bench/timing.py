"""Readings of several contestants in one process: round after round, in a new random order each.

Claims: a cold call meets buffers that at least four L2 capacities of other bytes were read after; a warm call meets
its own bytes; a stream is a CUDA graph of calls back to back over the rotation. A round samples every contestant once,
so that sample i of two of them was taken under the same conditions. Nobody is left out because it is fast or slow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvperf.bench.record import Regime, Samples, Statistics
from kvperf.bench.rig import Call, Rig
from kvperf.bench.statistics import Running, summary

COLD_L2_CAPACITIES = 4
LEAST_ROUNDS, MOST_ROUNDS = 10, 2000
MOST_SETS = 4096
STREAM_CALLS = 64  # of a graph at most; fewer where the rotation is shorter


@dataclass
class Contestant:
    """Something to time. `calls`: one for each set of buffers; `set_bytes`: what one set holds of what is read.

    before  runs ahead of each timed call, outside the reading: a flush
    """

    name: str
    regime: Regime
    calls: Sequence[Call]
    set_bytes: int
    before: Call | None = None
    turn: int = field(default=0, init=False)

    @property
    def rotated_bytes(self) -> int:
        return len(self.calls) * self.set_bytes


@dataclass(frozen=True)
class Readings:
    """What was read of one contestant; `per_sample` calls each."""

    samples: Samples
    statistics: Statistics


def sets_for(regime: Regime, set_bytes: int, l2_bytes: int) -> int:
    """Buffer sets that a regime rotates through: four times the L2 where calls must be cold, one where warm."""
    if regime == "warm":
        return 1
    return max(2, min(MOST_SETS, -(-COLD_L2_CAPACITIES * l2_bytes // max(1, set_bytes)) + 1))


def is_cold(contestant: Contestant, l2_bytes: int) -> bool:
    """Whether the rotation is as large as a cold regime claims, or something flushes the L2 before each call."""
    return contestant.before is not None or contestant.rotated_bytes >= COLD_L2_CAPACITIES * l2_bytes


def measure(
    rig: Rig,
    contestants: Sequence[Contestant],
    *,
    budget_s: float,
    seed: int,
    width: float = 0.005,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Readings]:
    """Read all contestants until every median is known to `width` (95 % confidence), or the budget is spent."""
    order = random.Random(seed)
    ready = {c.name: _prepared(rig, c) for c in contestants}
    columns: dict[str, list[tuple[float, ...]]] = {c.name: [] for c in contestants}
    known = {c.name: Running() for c in contestants}
    for contestant in contestants:  # clocks rise, code loads
        _sample(rig, contestant, *ready[contestant.name])
    end, rounds = time.monotonic() + budget_s, 0
    while rounds < MOST_ROUNDS:
        for contestant in order.sample(list(contestants), len(contestants)):
            row = _sample(rig, contestant, *ready[contestant.name])
            columns[contestant.name].append(row)
            known[contestant.name].add(row[0])
        rounds += 1
        if progress:
            progress(_state(known, rounds))
        if rounds >= LEAST_ROUNDS and (all(k.confident(width) for k in known.values()) or time.monotonic() >= end):
            break
    return {
        name: Readings(
            _columns(rows), summary([row[0] for row in rows], "confident" if known[name].confident(width) else "budget")
        )
        for name, rows in columns.items()
    }


def _prepared(rig: Rig, contestant: Contestant) -> tuple[Sequence[Call], int]:
    """(what is sampled in turn, calls in each)."""
    if contestant.regime != "stream":
        return contestant.calls, 1
    chosen = [contestant.calls[i % len(contestant.calls)] for i in range(max(STREAM_CALLS, len(contestant.calls)))]
    chosen = chosen[: max(STREAM_CALLS, 1)] if len(contestant.calls) <= STREAM_CALLS else list(contestant.calls)
    return [rig.graph(chosen)], len(chosen)


def _sample(rig: Rig, contestant: Contestant, calls: Sequence[Call], per_sample: int) -> tuple[float, ...]:
    call = calls[contestant.turn % len(calls)]
    contestant.turn += 1
    if contestant.regime == "warm":
        call()  # its bytes are in L2 as far as they fit
    reading = rig.sample(call, contestant.before)
    now = rig.conditions()
    return (reading.seconds / per_sample, reading.sm_clock_hz, *now)  # type: ignore[return-value]


def _columns(rows: Sequence[tuple[float, ...]]) -> Samples:
    seconds, clocks, memory, power, temperature, throttled = zip(*rows, strict=True)
    found = {
        "sm_clock_hz": clocks,
        "memory_clock_hz": memory,
        "power_w": power,
        "temperature_c": temperature,
        "throttled": throttled,
    }
    return Samples(seconds=seconds, **{name: c for name, c in found.items() if any(x is not None for x in c)})


def _state(known: dict[str, Running], rounds: int) -> str:
    name, slowest = max(known.items(), key=lambda item: item[1].median)
    return f"round {rounds}: {name} {slowest.median * 1e6:.1f} µs"
