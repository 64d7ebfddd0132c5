"""Atomic operations. Threads that meet at one address go one after another, in the order of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kvperf.emulator import access
from kvperf.emulator.flush import flushing
from kvperf.emulator.formats import KINDS, Array
from kvperf.emulator.instruction import Action, Instruction
from kvperf.emulator.memory import Buffer

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "add.ftz": flushing(np.add, ("f32", "f32"), "f32"),
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, value: value,
    "cas": lambda old, expected, value: np.where(old == expected, value, old),
    "inc": lambda old, limit: np.where(old >= limit, 0, old + old.dtype.type(1)).astype(old.dtype),
    "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1)).astype(old.dtype),
}


def atom(threads: Any, instruction: Instruction) -> None:
    """d = [a], [a] = operation([a], b …)."""
    threads.machine.polled[threads.numbers] = instruction.line
    old = update(threads, instruction, instruction.operands[1], instruction.operands[2:])
    threads.write(instruction.operands[0], old, f"b{8 * old.dtype.itemsize}")


def red(threads: Any, instruction: Instruction) -> None:
    update(threads, instruction, instruction.operands[0], instruction.operands[1:])


def update(threads: Any, instruction: Instruction, target: Any, operands: tuple[Any, ...]) -> Array:
    """Apply the operation; the bits that each thread found. fp32 sums in global memory, and only there, are flushed."""
    kind = _kind(instruction)
    name = next(m for m in instruction.modifiers if m in _OPERATIONS)
    storage, decode, encode = KINDS[kind]
    values = [
        np.broadcast_to(value, (threads.n, *value.shape[1:])) for value in (threads.read(o, kind) for o in operands)
    ]
    old = np.zeros(threads.n, storage)
    width, address = storage.itemsize, threads.address(target)
    for place in access.places(threads, access.space_of(instruction), address, width, "atomic"):
        access.check_written(threads, place, width)
        positions = np.arange(threads.n) if place.positions is None else place.positions
        offset = place.offset
        flushes = kind == "f32" and name == "add" and isinstance(place.memory, Buffer)
        operation = _OPERATIONS["add.ftz" if flushes else name]
        while len(offset):
            # Each round takes the first thread at each address.
            _, first = np.unique(offset, return_index=True)
            at, who = offset[first], positions[first]
            found = place.memory.load(at, width)
            changed = encode(operation(decode(found), *(value[who] for value in values)))
            place.memory.store(at, width, changed)
            threads.machine.progress += int((changed != found).any())
            old[who] = found
            offset, positions = np.delete(offset, first), np.delete(positions, first)
    if access.space_of(instruction) != "shared":
        threads.machine.schedule.after_atomic(threads.block, len(threads.machine.blocks))
    return old


def _kind(instruction: Instruction) -> str:
    return next(m for m in reversed(instruction.modifiers) if m in KINDS)


TABLE: dict[str, Action] = {"atom": atom, "red": red}
