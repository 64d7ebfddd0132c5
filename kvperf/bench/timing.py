"""Readings of several contestants in one process: round after round, in a new random order each.

Claims: a cold call meets buffers that at least four L2 capacities of other bytes were read after, by anybody; a warm
call meets its own bytes; a stream is a CUDA graph of calls back to back over the rotation. A round samples every
contestant once, so that sample i of two of them was taken under the same conditions.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvperf.bench.record import Regime, Samples, Statistics
from kvperf.bench.rig import Call, Rig
from kvperf.bench.statistics import Running, summary
from kvperf.errors import KvperfError

COLD_L2_CAPACITIES = 4
LEAST_ROUNDS, MOST_ROUNDS = 10, 300
MOST_SETS = 256  # where more would be needed, the L2 is flushed before each call
STREAM_CALLS = 64  # of a graph at least; more where the rotation is longer


@dataclass
class Rotation:
    """Sets of buffers that several contestants go through together: whoever calls next takes the next set.

    `set_bytes`: what one set holds of what is read.
    """

    sets: int
    set_bytes: int
    turn: int = 0

    def next(self) -> int:
        self.turn += 1
        return (self.turn - 1) % self.sets

    @property
    def total_bytes(self) -> int:
        return self.sets * self.set_bytes


@dataclass
class Contestant:
    """Something to time. `calls`: one for each set of the rotation.

    before  runs ahead of each timed call, outside the reading: a flush
    """

    name: str
    regime: Regime
    calls: Sequence[Call]
    rotation: Rotation
    before: Call | None = None


@dataclass(frozen=True)
class Readings:
    """What was read of one contestant, or why nothing was.

    reuse_bytes  the fewest bytes that were read between two calls on one set; None: no set was met twice
    """

    samples: Samples = field(default_factory=Samples)
    statistics: Statistics | None = None
    failure: str | None = None
    reuse_bytes: int | None = None

    @property
    def median_s(self) -> float | None:
        return self.statistics.median_s if self.statistics else None


def alone(
    name: str, regime: Regime, calls: Sequence[Call], set_bytes: int = 0, before: Call | None = None
) -> Contestant:
    """A contestant whose buffers nobody shares."""
    return Contestant(name, regime, calls, Rotation(len(calls), set_bytes), before)


def sets_for(regime: Regime, set_bytes: int, l2_bytes: int) -> int:
    """Buffer sets that a regime rotates through: four times the L2 where calls must be cold, one where warm.

    One, too, where that would be more than MOST_SETS: calls are then cold by a flush.
    """
    wanted = -(-COLD_L2_CAPACITIES * l2_bytes // max(1, set_bytes)) + 1
    return 1 if regime == "warm" or wanted > MOST_SETS else max(2, wanted)


def is_cold(contestant: Contestant, readings: Readings, l2_bytes: int) -> bool:
    """Whether enough other bytes were read before each set was met again, or something flushed the L2."""
    if contestant.before is not None or readings.reuse_bytes is None:
        return True
    return readings.reuse_bytes >= COLD_L2_CAPACITIES * l2_bytes


def measure(
    rig: Rig,
    contestants: Sequence[Contestant],
    *,
    budget_s: float,
    seed: int,
    width: float = 0.005,
    progress: Callable[[str], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Readings]:
    """Read all contestants until every median is known to `width` (95 % confidence), or the budget is spent.

    One that fails is left out from then on, with its reason; `stopped` ends the readings after the round.
    """
    order, running = random.Random(seed), {c.name: _Reading(rig, c) for c in contestants}
    log = _Log()
    for reading in running.values():
        reading.prepare(log)
    end, rounds = time.monotonic() + budget_s, 0
    while rounds < MOST_ROUNDS:
        for contestant in order.sample(list(contestants), len(contestants)):
            running[contestant.name].sample(log)
        rounds += 1
        alive = [r for r in running.values() if r.failure is None]
        if progress and alive:
            progress(_state(alive, rounds))
        known = rounds >= LEAST_ROUNDS and all(r.known.confident(width) for r in alive)
        if known or not alive or stopped() or (rounds >= LEAST_ROUNDS and time.monotonic() >= end):
            break
    return {name: reading.result(width) for name, reading in running.items()}


class _Log:
    """Bytes read so far, and when each set of each rotation was last met."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self._last: dict[tuple[int, int], int] = {}

    def meet(self, rotation: Rotation, index: int) -> int | None:
        """Bytes read since this set was met; it is met again now."""
        key = (id(rotation), index)
        since = self.read_bytes - self._last[key] if key in self._last else None
        self.read_bytes += rotation.set_bytes
        self._last[key] = self.read_bytes
        return since


class _Reading:
    """The samples of one contestant as they come."""

    def __init__(self, rig: Rig, contestant: Contestant) -> None:
        self.rig, self.contestant = rig, contestant
        self.known, self.rows = Running(), []
        self.failure: str | None = None
        self.reuse_bytes: int | None = None
        self.calls, self.per_sample = contestant.calls, 1

    def prepare(self, log: _Log) -> None:
        """Run it once without a gate: what loads or compiles late does so here. Then once with, to raise the clocks."""
        index = self._turn(log)[0]
        try:
            if self.contestant.regime == "stream":
                count = max(STREAM_CALLS, len(self.calls))
                chosen = [self.calls[i % len(self.calls)] for i in range(count)]
                self.calls, self.per_sample = [self.rig.graph(chosen)], count
                index = 0
            self.calls[index]()
            self.rig.wait()
            self.rig.sample(self.calls[index], self.contestant.before)
        except Exception as problem:  # whatever a contestant does, the others are still read
            self.failure = _words(problem)

    def sample(self, log: _Log) -> None:
        if self.failure is not None:
            return
        index, since = self._turn(log)
        if since is not None:
            self.reuse_bytes = since if self.reuse_bytes is None else min(self.reuse_bytes, since)
        call = self.calls[index]
        try:
            if self.contestant.regime == "warm":
                call()  # its bytes are in L2 as far as they fit
            reading = self.rig.sample(call, self.contestant.before)
            seconds = reading.seconds / self.per_sample
            self.known.add(seconds)
            self.rows.append((seconds, reading.sm_clock_hz, *self.rig.conditions()))
        except Exception as problem:
            self.failure = _words(problem)

    def _turn(self, log: _Log) -> tuple[int, int | None]:
        """(the set whose turn it is, bytes read since somebody met it)."""
        if self.contestant.regime != "cold":
            return 0, None
        index = self.contestant.rotation.next()
        return index, log.meet(self.contestant.rotation, index)

    def result(self, width: float) -> Readings:
        if self.failure is not None or not self.rows:
            return Readings(failure=self.failure or "it was never sampled")
        stopped = "confident" if self.known.confident(width) else "budget"
        found = summary([row[0] for row in self.rows], stopped)
        return Readings(_columns(self.rows), found, None, self.reuse_bytes)


def _words(problem: Exception) -> str:
    """The problem without its traceback, which would hold buffers."""
    first = str(problem).strip().split("\n")[0]
    return first if isinstance(problem, KvperfError) else f"{type(problem).__name__}: {first}"


def _columns(rows: Sequence[tuple]) -> Samples:
    seconds, clocks, memory, power, temperature, throttled = zip(*rows, strict=True)
    found = {
        "sm_clock_hz": clocks,
        "memory_clock_hz": memory,
        "power_w": power,
        "temperature_c": temperature,
        "throttled": throttled,
    }
    return Samples(seconds=seconds, **{name: c for name, c in found.items() if any(x is not None for x in c)})


def _state(alive: list[_Reading], rounds: int) -> str:
    slowest = max(alive, key=lambda reading: reading.known.median)
    return f"round {rounds}: {slowest.contestant.name} {slowest.known.median * 1e6:.1f} µs"
