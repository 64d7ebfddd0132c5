"""Where threads go next: branches, the end, barriers; and what only orders or delays."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Action, Immediate, Instruction, Symbol


def bra(threads: Any, instruction: Instruction) -> int | Array:
    """A thread that polled memory in a loop rests before the next round, until somebody else has moved."""
    machine = threads.machine
    label = instruction.operands[0]
    assert isinstance(label, Symbol)
    target = machine.program.kernel.labels[label.name]
    if target > machine.position:
        return target
    polled = machine.polled[threads.numbers] >= machine.program.kernel.code[target].line
    if not polled.any():
        return target
    numbers = threads.numbers[polled]
    machine.polled[numbers] = 0
    machine.resting[numbers] = True
    machine.pc[numbers] = target
    return np.where(polled, -1, target)


def ret(threads: Any, instruction: Instruction) -> int:
    machine = threads.machine
    machine.exited[threads.numbers] = True
    machine.progress += 1
    machine.copies.wait(threads, -1)
    return -1


def bar(threads: Any, instruction: Instruction) -> int | Array:
    """`bar.sync`, `bar.arrive`, `bar.red`; also spelt `barrier` and with `.cta`."""
    machine = threads.machine
    operands = list(instruction.operands)
    if instruction.has("red"):
        operands.pop(0)
        machine.barriers.predicate[threads.numbers] = threads.read(operands.pop(), "pred")
    barrier = _uniform(threads, operands[0])
    count = _uniform(threads, operands[1]) if len(operands) > 1 else None
    if instruction.has("arrive"):
        assert count is not None
        return machine.barriers.arrive(threads, machine.position, barrier, count)
    if instruction.has("red"):
        threads.flush()
        count = machine.geometry.block_threads if count is None else count
    return machine.barriers.sync(threads, machine.position, barrier, count)


def _uniform(threads: Any, operand: Any) -> int:
    """A barrier's number or count."""
    if isinstance(operand, Immediate):
        return operand.bits
    values = threads.read(operand, "u32")
    if (values != values[0]).any():
        raise threads.fault("unknown", "the interpreter takes one barrier at a time, not one per thread")
    return int(values[0])


def trap(threads: Any, instruction: Instruction) -> int:
    raise threads.fault("trap", "the kernel stops itself", 0)


def nothing(threads: Any, instruction: Instruction) -> None:
    """Fences, hints and dependent launches: the interpreter keeps every access in order."""


def nanosleep(threads: Any, instruction: Instruction) -> None:
    threads.machine.polled[threads.numbers] = instruction.line


# Those that go straight on; the others here end a basic block.
STRAIGHT: dict[str, Action] = {
    "fence": nothing,
    "membar": nothing,
    "griddepcontrol": nothing,
    "setmaxnreg": nothing,
    "pmevent": nothing,
    "nanosleep": nanosleep,
}
TABLE: dict[str, Action] = {
    "bra": bra,
    "ret": ret,
    "exit": ret,
    "bar": bar,
    "barrier": bar,
    "trap": trap,
    **STRAIGHT,
}
