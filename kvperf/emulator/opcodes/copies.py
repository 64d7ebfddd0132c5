"""Asynchronous copies from global to shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator import access
from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Action, Immediate, Instruction, Register
from kvperf.emulator.memory import REGION_BITS, WIDTHS, Buffer

BULK_ALIGNMENT = 16


def cp_async(threads: Any, instruction: Instruction) -> None:
    """`cp.async [shared], [global], size, source size`: zeros behind the source size."""
    target, source, size, *rest = instruction.operands
    width = size.bits
    if width not in ((16,) if instruction.has("cg") else (4, 8, 16)) or (rest and _is_predicate(rest[0])):
        raise threads.fault("unknown", "the interpreter knows copies of 4, 8 or 16 bytes, cut short by a source size")
    taken = threads.read(rest[0], "u32") if rest else np.array([width])
    taken = np.broadcast_to(taken, (threads.n,)).astype(np.int64)
    if (taken > width).any():
        raise threads.fault("bounds", f"a source size above the {width} bytes of the copy", int(taken.argmax()))
    place = access.shared_place(threads, threads.address(target), width, "store")
    data = np.zeros((threads.n, width), np.uint8)
    address = threads.address(source)
    for amount in np.unique(taken[taken > 0]):
        here = np.flatnonzero(taken == amount)
        data[here, :amount] = _source(threads, here, address[here], int(amount), width)
    threads.machine.copies.issue(threads, place, data.view(WIDTHS[width]).reshape(-1), width)


def _is_predicate(operand: Any) -> bool:
    return isinstance(operand, Register) and operand.kind == "pred"


def _source(threads: Any, here: Array, address: Array, amount: int, width: int) -> Array:
    """The bytes that threads copy: whole elements, or one byte at a time where the source is cut short."""
    part = threads if len(here) == threads.n else threads.of(threads.machine, threads.numbers[here])
    if amount == width:
        data = np.ascontiguousarray(access.load(part, "global", address, width))
        _count(threads, address, amount)
        return data.view(np.uint8).reshape(len(here), width)
    octets = [access.load(part, "global", address + at, 1) for at in range(amount)]
    _count(threads, address, amount)
    return np.stack(octets, axis=1)


def _count(threads: Any, address: Array, amount: int) -> None:
    machine = threads.machine
    for number, copies in zip(*np.unique(address >> REGION_BITS, return_counts=True), strict=True):
        machine.counts.copied_bytes[machine.memory.at(int(number)).name] += int(copies) * amount


def commit_group(threads: Any, instruction: Instruction) -> None:
    threads.machine.copies.commit(threads)


def wait_group(threads: Any, instruction: Instruction) -> None:
    newest = instruction.operands[0]
    assert isinstance(newest, Immediate)
    threads.machine.copies.wait(threads, newest.bits)


def wait_all(threads: Any, instruction: Instruction) -> None:
    threads.machine.copies.wait(threads, -1)


def bulk(threads: Any, instruction: Instruction) -> None:
    """`cp.async.bulk.shared.global [shared], [global], size, [mbarrier]`: each thread's own copy."""
    target, source, size, mbarrier = instruction.operands[:4]
    columns = (
        threads.address(target),
        threads.address(source),
        threads.read_each(size, "u32"),
        threads.address(mbarrier),
    )
    for position in range(threads.n):
        _bulk(threads, position, *(int(column[position]) for column in columns))


def _bulk(threads: Any, position: int, target: int, source: int, size: int, mbarrier: int) -> None:
    machine = threads.machine
    one = threads.of(machine, threads.numbers[position : position + 1])
    if size % BULK_ALIGNMENT or target % BULK_ALIGNMENT or source % BULK_ALIGNMENT:
        raise one.fault("alignment", "a bulk copy moves multiples of 16 bytes between multiples of 16 bytes", 0)
    block = int(one.block[0])
    if not machine.mbarriers.known(mbarrier, block):
        raise one.fault("mbarrier", f"no mbarrier was initialised at shared byte {mbarrier}", 0)
    if size == 0:
        return
    place = int(access.shared_place(one, np.array([target]), BULK_ALIGNMENT, "")[0])
    access.shared_place(one, np.array([target + size - BULK_ALIGNMENT]), BULK_ALIGNMENT, "")
    buffer = machine.memory.at(source >> REGION_BITS)
    offset = source - (source >> REGION_BITS << REGION_BITS)
    if not isinstance(buffer, Buffer) or offset + size > len(buffer.data):
        name = None if buffer is None else buffer.name
        end = "" if buffer is None else f" of {len(buffer.data)} of {name}"
        raise one.fault("bounds", f"out of bounds: bulk copy of bytes {offset} to {offset + size}{end}", 0, name)
    pieces = np.arange(offset, offset + size, BULK_ALIGNMENT)
    unwritten = buffer.unwritten(pieces, BULK_ALIGNMENT)
    if unwritten is not None:
        byte = int(pieces[unwritten.argmax()])
        raise one.fault(
            "uninitialised", f"copies from byte {byte} of {buffer.name}, which nobody wrote", 0, buffer.name
        )
    machine.counts.bulk_copy(machine.counts.loads[buffer.name], offset, size)
    machine.counts.copied_bytes[buffer.name] += size
    machine.copies.issue_bulk(block, place, buffer, offset, size, mbarrier)


TABLE: dict[str, Action] = {
    "cp.async.ca": cp_async,
    "cp.async.cg": cp_async,
    "cp.async.commit_group": commit_group,
    "cp.async.wait_group": wait_group,
    "cp.async.wait_all": wait_all,
    "cp.async.bulk": bulk,
}
