"""mbarriers: barriers in shared memory that count arrivals of threads and bytes of bulk copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvperf.emulator.formats import Array

if TYPE_CHECKING:
    from kvperf.emulator.machine import Machine
    from kvperf.emulator.threads import Threads


class _State:
    """One mbarrier of each block, at the same offset: arrays over the blocks."""

    def __init__(self, blocks: int) -> None:
        self.count = np.zeros(blocks, np.int64)
        self.pending = np.zeros(blocks, np.int64)
        self.bytes = np.zeros(blocks, np.int64)
        self.phase = np.zeros(blocks, np.int64)

    def complete(self) -> bool:
        """Start the next phase where nothing is pending; whether one did."""
        done = (self.count > 0) & (self.pending == 0) & (self.bytes == 0)
        self.phase[done] += 1
        self.pending[done] = self.count[done]
        return bool(done.any())


class Mbarriers:
    """All mbarriers, by their offset in shared memory. `waiting` marks threads that wait in `try_wait`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.states: dict[int, _State] = {}
        self.waiting = np.zeros(machine.threads, bool)

    def initialise(self, threads: Threads, offset: Array, count: Array) -> None:
        """`mbarrier.init`: the arrivals a phase waits for."""
        for at in np.unique(offset):
            here = offset == at
            state = self.states.setdefault(int(at), _State(len(self.machine.blocks)))
            blocks = threads.block[here]
            state.count[blocks] = state.pending[blocks] = np.broadcast_to(count, offset.shape)[here]
            state.bytes[blocks] = state.phase[blocks] = 0

    def invalidate(self, threads: Threads, offset: Array) -> None:
        for at in np.unique(offset):
            self._state(threads, int(at)).count[threads.block[offset == at]] = 0

    def arrive(self, threads: Threads, offset: Array, arrivals: Array, expected_bytes: Array) -> Array:
        """Arrivals and bytes to expect; returns the phase each thread arrived in."""
        phases = np.zeros(threads.n, np.int64)
        arrivals, expected = (np.broadcast_to(values, offset.shape) for values in (arrivals, expected_bytes))
        for at in np.unique(offset):
            here = np.flatnonzero(offset == at)
            blocks = threads.block[here]
            state = self._state(threads, int(at), here)
            phases[here] = state.phase[blocks]
            np.add.at(state.bytes, blocks, expected[here])
            np.subtract.at(state.pending, blocks, arrivals[here])
            if (state.pending < 0).any():
                first = int(here[np.flatnonzero(state.pending[blocks] < 0)[0]])
                raise threads.fault(
                    "mbarrier", f"more arrivals at the mbarrier at shared byte {at} than it counts", first
                )
            self._complete(state)
        return phases

    def land(self, block: int, offset: int, size: int) -> None:
        """A bulk copy of `size` bytes has arrived."""
        state = self.states[offset]
        state.bytes[block] -= size
        self._complete(state)

    def is_past(self, threads: Threads, offset: Array, phase: Array, *, parity: bool) -> Array:
        """Whether the phase (or the last one of that parity) is complete."""
        past = np.zeros(threads.n, bool)
        phase = np.broadcast_to(phase, offset.shape)
        for at in np.unique(offset):
            here = np.flatnonzero(offset == at)
            now = self._state(threads, int(at), here).phase[threads.block[here]]
            past[here] = (now & 1) != (phase[here] & 1) if parity else now != phase[here]
        return past

    def wait(self, threads: Threads, position: int) -> int:
        """Threads stand at a `try_wait` until some phase completes."""
        self.waiting[threads.numbers] = True
        return self.machine.wait(threads, position)

    def known(self, offset: int, block: int) -> bool:
        return offset in self.states and bool(self.states[offset].count[block] > 0)

    def _state(self, threads: Threads, offset: int, here: Array | None = None) -> _State:
        state = self.states.get(offset)
        blocks = threads.block if here is None else threads.block[here]
        if state is None or (state.count[blocks] == 0).any():
            first = 0 if here is None else int(here[0])
            raise threads.fault("mbarrier", f"no mbarrier was initialised at shared byte {offset}", first)
        return state

    def _complete(self, state: _State) -> None:
        if state.complete():
            numbers = np.flatnonzero(self.waiting)
            self.waiting[numbers] = False
            self.machine.resume(numbers)
