"""mbarriers in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator import access
from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Action, Address, Instruction
from kvperf.emulator.memory import SHARED_WINDOW

MBARRIER_BYTES = 8


def _offset(threads: Any, instruction: Instruction, operand: Any) -> Array:
    address = threads.address(operand)
    if access.space_of(instruction) == "generic":
        address = address - SHARED_WINDOW
    access.shared_place(threads, address, MBARRIER_BYTES, "")
    return address


def _place(instruction: Instruction) -> int:
    """Which operand is the mbarrier: behind the state or the predicate, where there is one."""
    return next(i for i, operand in enumerate(instruction.operands) if isinstance(operand, Address))


def init(threads: Any, instruction: Instruction) -> None:
    offset = _offset(threads, instruction, instruction.operands[0])
    count = threads.read(instruction.operands[1], "u32").astype(np.int64)
    threads.machine.mbarriers.initialise(threads, offset, count)


def inval(threads: Any, instruction: Instruction) -> None:
    threads.machine.mbarriers.invalidate(threads, _offset(threads, instruction, instruction.operands[0]))


def arrive(threads: Any, instruction: Instruction) -> None:
    """`arrive`, with bytes to expect (`.expect_tx`) or a count of arrivals; the state it returns is the phase."""
    at = _place(instruction)
    offset = _offset(threads, instruction, instruction.operands[at])
    extra = np.ones(1, np.int64)
    if len(instruction.operands) > at + 1:
        extra = threads.read(instruction.operands[at + 1], "u32").astype(np.int64)
    expects = instruction.has("expect_tx")
    one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
    phase = threads.machine.mbarriers.arrive(threads, offset, one if expects else extra, extra if expects else none)
    if at:
        threads.write(instruction.operands[0], phase.astype(np.uint64), "u64")


def expect_tx(threads: Any, instruction: Instruction) -> None:
    """More bytes for the current phase, without an arrival."""
    offset = _offset(threads, instruction, instruction.operands[0])
    size = threads.read(instruction.operands[1], "u32").astype(np.int64)
    threads.machine.mbarriers.arrive(threads, offset, np.zeros(1, np.int64), size)


def _past(threads: Any, instruction: Instruction) -> Array:
    parity = instruction.has("parity")
    offset = _offset(threads, instruction, instruction.operands[1])
    phase = threads.read(instruction.operands[2], "u32" if parity else "u64").astype(np.int64)
    return threads.machine.mbarriers.is_past(threads, offset, phase, parity=parity)


def test_wait(threads: Any, instruction: Instruction) -> None:
    """Whether the phase is complete, at once."""
    past = _past(threads, instruction)
    threads.machine.polled[threads.numbers[~past]] = instruction.line
    threads.write(instruction.operands[0], past, "pred")


def try_wait(threads: Any, instruction: Instruction) -> int | Array:
    """True as soon as the phase is complete: those for whom it is not stand here until it is."""
    machine = threads.machine
    past, position = _past(threads, instruction), machine.position
    threads.write(instruction.operands[0], np.ones(1, bool), "pred")
    if past.all():
        return position + 1
    machine.mbarriers.wait(threads.of(machine, threads.numbers[~past]), position)
    return np.where(past, position + 1, -1)


TABLE: dict[str, Action] = {
    "mbarrier.init": init,
    "mbarrier.inval": inval,
    "mbarrier.arrive": arrive,
    "mbarrier.expect_tx": expect_tx,
    "mbarrier.test_wait": test_wait,
    "mbarrier.try_wait": try_wait,
}
