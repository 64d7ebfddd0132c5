"""A kernel ready to run: its instructions bound to the table of opcodes, its basic blocks, its live registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kvperf.emulator.formats import KINDS
from kvperf.emulator.instruction import Address, Immediate, Instruction, Register, Vector
from kvperf.emulator.opcodes import COLLECTIVES, CONTROL, action_of
from kvperf.emulator.opcodes.memory import reads_through
from kvperf.emulator.parse import Kernel, parse

# Opcodes of memory, but for those that the lanes of a warp execute together.
ACCESSES = frozenset(("ld", "ldu", "st", "atom", "red", "cp", "mbarrier"))


@dataclass(frozen=True)
class Program:
    """A kernel and what the machine asks of it at every step.

    block_end     for each instruction, where its basic block ends
    control       for each instruction, whether it decides where threads go next; it is the last of its block
    collective    for each instruction, whether the lanes of a warp execute it together
    registers     the declared type of every register
    live          the registers that hold a value from one basic block to another
    read_only     whether it loads through the read-only cache
    apart         for each instruction, whether it would show if only some lanes of a warp went on from here: the next
                  that brings them together, or the end of the block, lies behind an access to memory
    """

    kernel: Kernel
    block_end: list[int]
    control: list[bool]
    collective: list[bool]
    registers: dict[str, str]
    live: frozenset[str]
    read_only: bool
    apart: list[bool]


@lru_cache(maxsize=32)
def program(ptx: str, entry: str) -> Program:
    """The entry of a module, parsed and bound once for all its runs."""
    kernel = parse(ptx, entry)
    constants = _constants(kernel)
    for instruction in kernel.code:
        _fold(instruction, constants)
        instruction.action = action_of(instruction)
    control = [is_control(instruction) for instruction in kernel.code]
    ends = _block_ends(kernel, control)
    registers = {register.name: register.kind for i in kernel.code for register, _ in _registers(i)}
    collective = [is_collective(instruction) for instruction in kernel.code]
    return Program(
        kernel=kernel,
        block_end=ends,
        control=control,
        collective=collective,
        registers=registers,
        live=_live(kernel, ends),
        read_only=any(reads_through(instruction) for instruction in kernel.code),
        apart=_apart(kernel, ends, collective),
    )


def _constants(kernel: Kernel) -> dict[str, Immediate]:
    """Registers that one unguarded `mov` sets to a constant, and nothing else sets."""
    set_by: dict[str, list[Instruction]] = {}
    for instruction in kernel.code:
        for register, is_destination in _registers(instruction):
            if is_destination:
                set_by.setdefault(register.name, []).append(instruction)
    constants = {}
    for name, setters in set_by.items():
        first = setters[0]
        source = first.operands[-1]
        if len(setters) == 1 and first.opcode == "mov" and first.guard is None and type(source) is Immediate:
            register = first.operands[0]
            if type(register) is Register and register.kind != "pred":
                bits = 8 * KINDS[register.kind].storage.itemsize
                constants[name] = Immediate(source.bits & ((1 << bits) - 1))
    return constants


def _fold(instruction: Instruction, constants: dict[str, Immediate]) -> None:
    """Read constants as such, not through their registers."""
    destination, *sources = instruction.operands or (None,)
    folded = (constants.get(s.name, s) if type(s) is Register and not s.negated else s for s in sources)
    if instruction.operands:
        instruction.operands = (destination, *folded)


def is_control(instruction: Instruction) -> bool:
    """`bar.warp.sync` is none: it keeps the lanes of a warp together, and they go on."""
    if instruction.opcode in ("bar", "barrier") and instruction.has("warp"):
        return False
    return instruction.opcode in CONTROL or instruction.has("try_wait")


def is_collective(instruction: Instruction) -> bool:
    if instruction.opcode in ("bar", "barrier"):
        return instruction.has("warp")
    return instruction.opcode in COLLECTIVES


def _block_ends(kernel: Kernel, control: list[bool]) -> list[int]:
    """A block starts at a label, at an instruction that may be repeated, behind a control instruction, and behind an
    atomic operation: other blocks of the grid may go on between it and what follows."""
    length = len(kernel.code)
    heads = {length, *kernel.labels.values(), *(i + 1 for i in range(length) if control[i])}
    heads |= {i + 1 for i in range(length) if kernel.code[i].opcode in ("atom", "red")}
    heads |= {i for i in range(length) if kernel.code[i].has("try_wait")}
    ends, end = [0] * length, length
    for i in reversed(range(length)):
        ends[i] = end
        if i in heads:
            end = i
    return ends


def _apart(kernel: Kernel, ends: list[int], collective: list[bool]) -> list[bool]:
    apart = [False] * (len(kernel.code) + 1)
    for position in reversed(range(len(kernel.code))):
        behind = apart[position + 1] and position + 1 < ends[position]
        apart[position] = not collective[position] and (behind or _accesses(kernel.code[position]))
    return apart


def _accesses(instruction: Instruction) -> bool:
    return instruction.opcode in ACCESSES and not (instruction.has("param") or instruction.has("const"))


def _live(kernel: Kernel, ends: list[int]) -> frozenset[str]:
    """All registers but those that live within one block, where an unguarded instruction sets them first."""
    home: dict[str, int] = {}
    live = set()
    for position, instruction in enumerate(kernel.code):
        for register, is_destination in _registers(instruction):
            is_set_first = register.name in home or (is_destination and instruction.guard is None)
            if home.setdefault(register.name, ends[position]) != ends[position] or not is_set_first:
                live.add(register.name)
    return frozenset(live)


def _registers(instruction: Instruction) -> Iterator[tuple[Register, bool]]:
    """The registers it reads, then those it sets (its first operand, except for stores, which set none)."""
    if instruction.guard is not None:
        yield instruction.guard, False
    for operand in instruction.operands[1:]:
        yield from ((register, False) for register in _within(operand))
    if instruction.operands:
        sets = instruction.opcode not in ("st", "red", "bra")
        for register in _within(instruction.operands[0]):
            yield register, sets and not isinstance(instruction.operands[0], Address)


def _within(operand: Any) -> Iterator[Register]:
    if type(operand) is Register:
        yield operand
    elif type(operand) is Address:
        yield from _within(operand.base)
    elif type(operand) is Vector:
        for part in operand.parts:
            yield from _within(part)
