"""Asynchronous copies to shared memory: `cp.async` by threads, `cp.async.bulk` by the copy engine.

A copy lands when it is waited for, or as soon as it is issued, as the schedule says: both are allowed, and a kernel
that takes either for granted fails under the other. Until it lands, its bytes of shared memory count as unwritten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvperf.emulator.formats import Array
from kvperf.emulator.memory import WIDTHS, Buffer

if TYPE_CHECKING:
    from kvperf.emulator.machine import Machine
    from kvperf.emulator.threads import Threads


class _ThreadCopy(NamedTuple):
    """One `cp.async`: per thread the place in shared memory, the data (zeros behind the source size), its group."""

    numbers: Array
    place: Array
    data: Array
    width: int
    group: Array


class _BulkCopy(NamedTuple):
    """One bulk copy of one thread, and the mbarrier that counts its bytes."""

    block: int
    place: int
    source: Buffer
    offset: int
    size: int
    mbarrier: int


class Copies:
    """Copies that were issued and have not landed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.thread_copies: list[_ThreadCopy] = []
        self.bulk: list[_BulkCopy] = []
        self.group = np.zeros(machine.threads, np.int64)

    @property
    def pending(self) -> bool:
        return bool(self.bulk)

    # cp.async

    def issue(self, threads: Threads, place: Array, data: Array, width: int) -> None:
        """`place` in shared memory (all blocks'), one element of `width` bytes for each thread."""
        shared, numbers = self.machine.shared, threads.numbers
        if self.machine.schedule.lands_early():
            shared.store(place, width, data)
            return
        shared.mark(place, width, written=False)
        self.thread_copies.append(_ThreadCopy(numbers, place, data, width, self.group[numbers]))

    def commit(self, threads: Threads) -> None:
        """What each thread has issued since its last commit is a group."""
        self.group[threads.numbers] += 1

    def wait(self, threads: Threads, newest: int) -> None:
        """Land all groups of these threads but the `newest`; -1: what was not committed, too."""
        here = None
        if threads.index is not None:
            here = np.zeros(self.machine.threads, bool)
            here[threads.numbers] = True
        remaining = []
        for copy in self.thread_copies:
            lands = copy.group < self.group[copy.numbers] - newest
            if here is not None:
                lands &= here[copy.numbers]
            if lands.all():
                self.machine.shared.store(copy.place, copy.width, copy.data)
                continue
            if lands.any():
                self.machine.shared.store(copy.place[lands], copy.width, copy.data[lands])
                copy = _ThreadCopy(
                    copy.numbers[~lands], copy.place[~lands], copy.data[~lands], copy.width, copy.group[~lands]
                )
            remaining.append(copy)
        self.thread_copies = remaining

    # cp.async.bulk

    def issue_bulk(self, block: int, place: int, source: Buffer, offset: int, size: int, mbarrier: int) -> None:
        """From a checked range of a buffer to a checked range of the shared memory of a block."""
        copy = _BulkCopy(block, place, source, offset, size, mbarrier)
        if self.machine.schedule.lands_early():
            self._land(copy)
            return
        self.machine.shared.mark(_pieces(place, size), 16, written=False)
        self.bulk.append(copy)

    def land_one(self) -> bool:
        """Nobody can go on: one of the bulk copies lands. False where there is none."""
        if not self.bulk:
            return False
        self._land(self.bulk.pop(self.machine.schedule.pick(len(self.bulk))))
        self.machine.progress += 1
        return True

    def land_all(self) -> None:
        """At the end of the kernel."""
        while self.land_one():
            pass

    def _land(self, copy: _BulkCopy) -> None:
        data = copy.source.data[copy.offset : copy.offset + copy.size].view(WIDTHS[16])
        self.machine.shared.store(_pieces(copy.place, copy.size), 16, data)
        self.machine.mbarriers.land(copy.block, copy.mbarrier, copy.size)


def _pieces(place: int, size: int) -> Array:
    return np.arange(place, place + size, 16)
