"""`bar.sync` and its kin: who waits at which barrier, who may go on, and what it means when nobody may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvperf.emulator.fault import Fault
from kvperf.emulator.formats import Array

if TYPE_CHECKING:
    from kvperf.emulator.machine import Machine
    from kvperf.emulator.threads import Threads

BARRIERS = 16


class Barriers:
    """The 16 barriers of each block. `at` is the barrier a thread waits at, or -1."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        blocks = len(machine.blocks)
        self.at = np.full(machine.threads, -1, np.int8)
        self.needed = np.zeros((blocks, BARRIERS), np.int64)
        self.arrived = np.zeros((blocks, BARRIERS), np.int64)
        self.predicate = np.zeros(machine.threads, bool)
        # Whether somebody arrived since barriers were last released.
        self.arrivals = False

    def sync(self, threads: Threads, position: int, barrier: int, count: int | None) -> int:
        """Threads wait at a barrier for `count` threads of their block; None: for all of them."""
        machine = self.machine
        if threads.index is None and count is None:
            machine.progress += 1
            return position + 1
        self._arrive(threads, barrier, count)
        if count is None:
            self._same_instruction(threads, position, barrier)
        self.at[threads.numbers] = barrier
        return machine.wait(threads, position + 1)

    def arrive(self, threads: Threads, position: int, barrier: int, count: int) -> int:
        """Threads arrive at a barrier and go on."""
        self._arrive(threads, barrier, count)
        return position + 1

    def _arrive(self, threads: Threads, barrier: int, count: int | None) -> None:
        blocks = threads.block
        self.arrived[:, barrier] += np.bincount(blocks, minlength=len(self.arrived))
        self.needed[blocks, barrier] = self.machine.geometry.block_threads if count is None else count
        too_many = self.arrived[:, barrier] > self.needed[:, barrier]
        if too_many.any():
            at = int(np.flatnonzero(too_many[blocks])[0])
            raise threads.fault("divergence", f"more threads arrive at barrier {barrier} than it waits for", at)
        self.arrivals = True

    def _same_instruction(self, threads: Threads, position: int, barrier: int) -> None:
        """`__syncthreads()` is one instruction for the whole block."""
        machine = self.machine
        others = np.flatnonzero((self.at == barrier) & (machine.pc != position + 1))
        together = others[np.isin(machine.block[others], threads.block)]
        if len(together):
            line = machine.program.kernel.code[int(machine.pc[together[0]]) - 1].line
            other = machine.name_of(int(together[0]))
            what = f"divergent barrier: {other} waits at another one, of PTX line {line}"
            raise threads.fault("divergence", what, 0)

    def release(self) -> None:
        """Let those go on whose barrier has all it waits for."""
        machine, self.arrivals = self.machine, False
        complete = (self.arrived == self.needed) & (self.needed > 0)
        if not complete.any():
            return
        done = (self.at >= 0) & complete[machine.block, self.at]
        numbers = np.flatnonzero(done)
        self._reduce(numbers)
        self.at[numbers] = -1
        self.arrived[complete] = 0
        self.needed[complete] = 0
        machine.resume(numbers)

    def _reduce(self, numbers: Array) -> None:
        """Write what `bar.red` computes over the predicates of those that go on."""
        machine = self.machine
        for position in np.unique(machine.pc[numbers]) - 1:
            instruction = machine.program.kernel.code[position]
            if instruction.has("red"):
                reduce_predicates(machine, numbers[machine.pc[numbers] == position + 1], instruction, self.predicate)

    def deadlock(self) -> Fault:
        """What the threads of the first block that cannot go on wait for."""
        machine = self.machine
        machine.current = None
        stuck = np.flatnonzero(~machine.exited)
        block = machine.block[stuck[0]]
        stuck = stuck[machine.block[stuck] == block]
        code = machine.program.kernel.code
        waits = []
        for position in np.unique(machine.pc[stuck]):
            here = stuck[machine.pc[stuck] == position]
            at_barrier = self.at[here[0]] >= 0
            instruction = code[position - 1] if at_barrier else code[position]
            waits.append(f"{len(here)} wait at PTX line {instruction.line} `{instruction.text}`")
        exited = machine.geometry.block_threads - len(stuck)
        ended = [f"{exited} have exited"] if exited else []
        divergent = bool((self.at[stuck] >= 0).any()) and (len(waits) > 1 or exited > 0)
        kind = "divergence" if divergent else "deadlock"
        place = machine.geometry.block_place(int(machine.blocks[block]))
        what = f"{'divergent barrier' if divergent else 'deadlock'}: of the threads of block {place}, "
        return machine.fault(kind, what + ", ".join(waits + ended), int(stuck[0]))


def reduce_predicates(machine: Machine, numbers: Array, instruction: object, predicate: Array) -> None:
    """`bar.red.popc/and/or`: one result per block, written to all its threads."""
    from kvperf.emulator.threads import Threads

    threads = Threads(machine, numbers)
    blocks = threads.block
    true = np.bincount(blocks, weights=predicate[numbers], minlength=len(machine.blocks)).astype(np.int64)[blocks]
    everybody = np.bincount(blocks, minlength=len(machine.blocks))[blocks]
    destination = instruction.operands[0]  # type: ignore[attr-defined]
    if instruction.has("popc"):  # type: ignore[attr-defined]
        threads.write(destination, true.astype(np.uint32), "u32")
    else:
        threads.write(destination, true == everybody if instruction.has("and") else true > 0, "pred")  # type: ignore[attr-defined]
    threads.flush(everything=True)
