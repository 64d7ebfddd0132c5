"""The machine: a batch of blocks, resident at once, whose threads execute a kernel.

One array element per thread. Threads at the same instruction execute it together; which of them go next is the
schedule's choice. A thread is ready (its next instruction stands in `ready`), waiting for something, or has exited.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator.barriers import Barriers
from kvperf.emulator.copies import Copies
from kvperf.emulator.counts import Counts
from kvperf.emulator.fault import Fault
from kvperf.emulator.formats import KINDS, Array
from kvperf.emulator.instruction import Immediate, Instruction, Register, Symbol
from kvperf.emulator.mbarriers import Mbarriers
from kvperf.emulator.memory import Bytes, GlobalMemory, PerOwner
from kvperf.emulator.opcodes.warp import member_mask
from kvperf.emulator.program import Program
from kvperf.emulator.schedule import Schedule
from kvperf.emulator.special import CLOCKS, Geometry, special_register
from kvperf.emulator.threads import WARP, Threads, execute

# `ready` of a thread that is not: above every instruction.
NEVER = np.iinfo(np.int32).max
MOST_STEPS = 3_000_000
# Rounds in which nothing but polling happens, after which the polling threads are taken to wait for ever.
MOST_IDLE_ROUNDS = 2000


class Machine:
    """A batch of blocks. `blocks` are their numbers in the grid, in the order in which they sit here."""

    def __init__(
        self,
        program: Program,
        geometry: Geometry,
        blocks: Array,
        memory: GlobalMemory,
        parameters: Bytes,
        layout: dict[str, int],
        shared: PerOwner,
        local_bytes: int,
        schedule: Schedule,
        counts: Counts,
    ) -> None:
        self.program = program
        self.kernel_registers = program.registers
        self.live = program.live
        self.geometry = geometry
        self.blocks = blocks
        self.memory = memory
        self.parameters = parameters
        self.layout = layout
        self.shared = shared
        self.schedule = schedule
        self.counts = counts
        self.warps_per_block = -(-geometry.block_threads // WARP)
        per_block = self.warps_per_block * WARP
        self.threads = len(blocks) * per_block
        self.numbers = np.arange(self.threads)
        self.lane = self.numbers % WARP
        self.warp = self.numbers // WARP
        self.block = self.numbers // per_block
        self.thread = self.numbers % per_block
        self.local = PerOwner(self.threads if local_bytes else 0, local_bytes)
        self.registers: dict[str, Array] = {}
        self.constants: dict[Any, Array] = {}
        self.specials: dict[str, Array] = {}
        self.pc = np.zeros(self.threads, np.int32)
        self.exited = self.thread >= geometry.block_threads
        self.ready = np.where(self.exited, NEVER, 0).astype(np.int32)
        self.at_collective = np.zeros(self.threads, bool)
        # Line of the instruction with which a thread last looked for what others do.
        self.polled = np.zeros(self.threads, np.int64)
        self.resting = np.zeros(self.threads, bool)
        self.barriers = Barriers(self)
        self.mbarriers = Mbarriers(self)
        self.copies = Copies(self)
        self.executed = [0] * len(program.kernel.code)
        self.current: Instruction | None = None
        self.steps = 0
        self.progress = 0
        self.idle_rounds = 0
        self.last_progress = -1

    # Running

    def run(self) -> None:
        """Until every thread has exited."""
        while True:
            chosen = self.schedule.choose(self.ready, self.warps_per_block, self.program.apart)
            if chosen is not None:
                self._advance(*chosen)
            elif not self._unblock():
                break
        self.copies.land_all()
        for instruction, executed in zip(self.program.kernel.code, self.executed, strict=True):
            if executed:
                self.counts.opcode(instruction.opcode, instruction.modifiers, executed)

    def _advance(self, pc: int, index: Array | None) -> None:
        """Threads that stand at one instruction, to the end of its basic block; all threads, as far as they agree."""
        program, executed = self.program, self.executed
        code, ends, collective, control = program.kernel.code, program.block_end, program.collective, program.control
        apart = program.apart if self.schedule.splits_warps else None
        while True:
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise self.fault("deadlock", f"the kernel does not end: {MOST_STEPS} basic blocks executed")
            threads: Threads | None = Threads(self, index)
            end = ends[pc]
            last = end - 1 if control[end - 1] else end
            for position in range(pc, last):
                self.current = instruction = code[position]
                if collective[position] and not threads.whole_warps:
                    threads = self._whole_warps(threads, instruction, position)
                    if threads is None:
                        return
                if instruction.guard is None:
                    instruction.action(threads, instruction)
                    executed[position] += threads.n
                else:
                    executed[position] += execute(threads, instruction)
                if apart is not None and collective[position] and apart[position + 1] and position + 1 < end:
                    threads.flush(everything=True)
                    self.go(threads, position + 1)
                    return
            following = self._follow(threads, code[last], last) if last < end else end
            threads.flush()
            if isinstance(following, int) and following >= 0 and threads.index is None:
                pc, index = following, None
                continue
            self.go(threads, following)
            return

    def _follow(self, threads: Threads, instruction: Instruction, position: int) -> int | Array:
        """Where a control instruction sends its threads; those whose guard does not hold go on behind it."""
        self.current = instruction
        self.position = position
        acting = threads.guarded(instruction.guard)
        if acting is None:
            return position + 1
        self.executed[position] += acting.n
        target = instruction.action(acting, instruction)
        if acting is threads:
            return target
        acting.merge()  # type: ignore[attr-defined]
        following = np.full(threads.n, position + 1, np.int32)
        following[acting.positions] = target  # type: ignore[attr-defined]
        return following

    def go(self, threads: Threads, following: int | Array) -> None:
        """Set the next instruction of threads; negative: they wait, or have exited, and are not ready."""
        numbers = threads.numbers
        following = np.asarray(following, np.int32)
        self.ready[numbers] = np.where(following < 0, NEVER, following)
        if self.barriers.arrivals:
            self.barriers.release()

    def wait(self, threads: Threads, pc: int) -> int:
        """Let them stand before `pc`, not ready; what `_follow` shall return."""
        self.pc[threads.numbers] = pc
        return -1

    def resume(self, numbers: Array) -> None:
        """Make waiting threads ready again where they stand."""
        self.ready[numbers] = self.pc[numbers]
        self.progress += 1

    # Collective instructions of warps whose lanes are apart

    def _whole_warps(self, threads: Threads, instruction: Instruction, position: int) -> Threads | None:
        """Those warps of which every lane the mask names is here; the others wait for theirs."""
        named = member_mask(threads, instruction)
        present = np.zeros((self.threads // WARP, WARP), bool)
        present[threads.warp, threads.lane] = True
        bits = (present << np.arange(WARP)).sum(axis=1)
        alive = (~self.exited.reshape(-1, WARP) << np.arange(WARP)).sum(axis=1)
        missing = (named.astype(np.int64) & alive[threads.warp] & ~bits[threads.warp]) != 0
        if not missing.any():
            return threads
        threads.flush(everything=True)
        stays = threads.numbers[missing]
        self.ready[stays] = NEVER
        self.pc[stays] = position
        self.at_collective[stays] = True
        self._meet(stays, instruction)
        rest = threads.numbers[~missing]
        return Threads(self, rest) if len(rest) else None

    def _meet(self, arrived: Array, instruction: Instruction) -> None:
        """Release the warps whose waiting lanes, all at one instruction, are now all the mask names."""
        position = self.pc[arrived[0]]
        for warp in np.unique(self.warp[arrived]):
            lanes = np.arange(warp * WARP, (warp + 1) * WARP)
            there = lanes[self.at_collective[lanes] & (self.pc[lanes] == position)]
            group = Threads(self, there)
            named = int(np.bitwise_or.reduce(member_mask(group, instruction).astype(np.int64)))
            needed = lanes[((named >> np.arange(WARP)) & 1).astype(bool) & ~self.exited[lanes]]
            if np.isin(needed, there).all():
                self.at_collective[there] = False
                self.resume(there)

    # When no thread is ready

    def _unblock(self) -> bool:
        """Wake somebody: False where all have exited; a fault where nothing can happen any more."""
        if self.exited.all():
            return False
        if self.schedule.wake_all() or self._meet_again():
            return True
        if self.resting.any() and (self.progress != self.last_progress or not self.copies.pending):
            self._wake_polling()
        elif not self.copies.land_one():
            raise self.barriers.deadlock()
        return True

    def _meet_again(self) -> bool:
        """Lanes may have exited since others came to wait for them."""
        before = self.progress
        for position in np.unique(self.pc[self.at_collective]):
            here = np.flatnonzero(self.at_collective & (self.pc == position))
            self._meet(here, self.program.kernel.code[position])
        return self.progress != before

    def _wake_polling(self) -> None:
        self.idle_rounds = 0 if self.progress != self.last_progress else self.idle_rounds + 1
        if self.idle_rounds > MOST_IDLE_ROUNDS:
            raise self.barriers.deadlock()
        numbers = np.flatnonzero(self.resting)
        self.resting[numbers] = False
        self.ready[numbers] = self.pc[numbers]
        self.last_progress = self.progress

    # What instructions ask for

    def register(self, register: Register) -> Array:
        bits = self.registers.get(register.name)
        if bits is None:
            bits = self.registers[register.name] = np.zeros(self.threads, KINDS[register.kind].storage)
        return bits

    def constant(self, operand: Any, storage: np.dtype[Any], threads: Threads) -> Array:
        """An immediate, the address of a variable, or a special register, as bits of the given size."""
        if type(operand) is Symbol and operand.name[0] == "%":
            if operand.name in CLOCKS:
                return np.array([self.steps], storage)
            if operand.name not in self.specials:
                self.specials[operand.name] = special_register(self, operand.name)
            return threads._of(self.specials[operand.name]).astype(storage)
        key = (operand, storage)
        if key not in self.constants:
            self.constants[key] = np.array([self._number(operand) & ((1 << 8 * storage.itemsize) - 1)], storage)
        return self.constants[key]

    def _number(self, operand: Any) -> int:
        if type(operand) is Immediate:
            return operand.bits
        if type(operand) is Symbol and operand.name in self.layout:
            return self.layout[operand.name]
        raise self.fault("unknown", f"'{getattr(operand, 'name', operand)}' is no variable, register or constant")

    def fault(
        self, kind: str, what: str, number: int | None = None, buffer: str | None = None, hint: str = ""
    ) -> Fault:
        """The fault of the current instruction, by a thread of this machine."""
        instruction = self.current
        place, line = self.program.kernel.name, 0
        if instruction is not None:
            line = instruction.line
            source = f" ({instruction.source})" if instruction.source else ""
            place += f": PTX line {line}{source} `{instruction.text}`"
        who = "" if number is None else f", by {self.name_of(number)}"
        return Fault(kind, f"{place}: {what}{who}", hint or "the kernel is at fault, not its inputs", line, buffer)

    def name_of(self, number: int) -> str:
        """As in "thread (3, 0, 0) of block (1, 0, 2)"."""
        geometry = self.geometry
        thread = geometry.thread_place(int(self.thread[number]))
        return f"thread {thread} of block {geometry.block_place(int(self.blocks[self.block[number]]))}"
