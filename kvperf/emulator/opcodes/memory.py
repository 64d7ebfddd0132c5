"""Loads, stores and prefetches."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator import access
from kvperf.emulator.formats import KINDS
from kvperf.emulator.instruction import Action, Instruction, Operand, Vector
from kvperf.emulator.memory import WIDTHS

_POLLED = ("volatile", "relaxed", "acquire", "mmio")


def ld(threads: Any, instruction: Instruction) -> None:
    """One register, or a vector of them from adjacent memory."""
    destination, size, count = _shape(instruction, instruction.operands[0])
    address, space = threads.address(instruction.operands[1]), access.space_of(instruction)
    if any(name in instruction.modifiers for name in _POLLED):
        threads.machine.polled[threads.numbers] = instruction.line
    storage = KINDS[instruction.kind].storage
    kind = f"{'s' if instruction.kind[0] == 's' else 'b'}{8 * storage.itemsize}"
    signed = np.dtype(f"i{storage.itemsize}") if kind[0] == "s" else storage
    read_only = reads_through(instruction)
    pieces = [access.load(threads, space, address + at, width, read_only=read_only) for at, width in _chunks(size)]
    if count == 1:
        threads.write(destination[0], pieces[0].view(signed), kind)
        return
    elements = [np.ascontiguousarray(piece).view(signed).reshape(len(piece), -1) for piece in pieces]
    columns = np.ascontiguousarray((elements[0] if len(elements) == 1 else np.concatenate(elements, axis=1)).T)
    for register, column in zip(destination, columns, strict=True):
        threads.write(register, column, kind)


def reads_through(instruction: Instruction) -> bool:
    """Whether it loads through the read-only cache, where writes of the same launch do not show."""
    return instruction.opcode == "ldu" or (instruction.opcode == "ld" and "nc" in instruction.modifiers)


def st(threads: Any, instruction: Instruction) -> None:
    """One register, or a vector of them to adjacent memory."""
    source, size, count = _shape(instruction, instruction.operands[1])
    address, space = threads.address(instruction.operands[0]), access.space_of(instruction)
    bits = f"b{8 * size // count}"
    columns = [threads.read_each(operand, bits) for operand in source]
    if count == 1:
        access.store(threads, space, address, size, columns[0])
        return
    octets = np.stack(columns, axis=1).view(np.uint8)
    for at, width in _chunks(size):
        values = np.ascontiguousarray(octets[:, at : at + width]).view(WIDTHS[width]).reshape(-1)
        access.store(threads, space, address + at, width, values)


def _shape(instruction: Instruction, operand: Operand) -> tuple[tuple[Operand, ...], int, int]:
    """The registers, the bytes they take together, and how many they are."""
    registers = operand.parts if isinstance(operand, Vector) else (operand,)
    return registers, KINDS[instruction.kind].storage.itemsize * len(registers), len(registers)


def _chunks(size: int) -> list[tuple[int, int]]:
    """(offset, width) of the accesses: one, or two of 16 bytes for the widest vectors of sm_100."""
    return [(0, size)] if size <= 16 else [(at, 16) for at in range(0, size, 16)]


def nothing(threads: Any, instruction: Instruction) -> None:
    """Hints to the caches."""


def createpolicy(threads: Any, instruction: Instruction) -> None:
    threads.write(instruction.operands[0], np.zeros(1, np.uint64), "b64")


TABLE: dict[str, Action] = {
    "ld": ld,
    "ldu": ld,
    "st": st,
    "prefetch": nothing,
    "prefetchu": nothing,
    "applypriority": nothing,
    "createpolicy": createpolicy,
    "cp.async.bulk.prefetch": nothing,
}
