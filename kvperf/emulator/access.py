"""Loads and stores of threads: where an address lies, whether the access is sound, and what it counts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Instruction
from kvperf.emulator.memory import LOCAL_WINDOW, REGION_BITS, REGION_BYTES, SHARED_WINDOW, WIDTHS, Buffer, Bytes

if TYPE_CHECKING:
    from kvperf.emulator.threads import Threads

_SPACES = ("global", "shared", "local", "param", "const")


class Place(NamedTuple):
    """Where some threads access memory: `positions` among them (None: all), checked byte offsets in `memory`."""

    positions: Array | None
    memory: Bytes
    offset: Array


def space_of(instruction: Instruction) -> str:
    """The state space it names; "generic" where it names none."""
    return _space(instruction.modifiers)


@cache
def _space(modifiers: tuple[str, ...]) -> str:
    for modifier in modifiers:
        name = modifier.split("::", 1)[0]
        if name in _SPACES:
            return name
    return "generic"


def load(threads: Threads, space: str, address: Array, width: int, *, read_only: bool = False) -> Array:
    """Elements of `width` bytes, one per thread; `read_only`: through the cache that sees no writes of this launch."""
    found = None
    for place in places(threads, space, address, width, "load"):
        check_written(threads, place, width)
        if read_only:
            _check_unchanged(threads, place, width)
        data = place.memory.load(place.offset, width)
        if place.positions is None:
            return data
        if found is None:
            found = np.zeros(threads.n, WIDTHS[width])
        found[place.positions] = data
    assert found is not None
    return found


def store(threads: Threads, space: str, address: Array, width: int, values: Array) -> None:
    """Elements of `width` bytes, one per thread."""
    threads.machine.progress += 1
    for place in places(threads, space, address, width, "store"):
        place.memory.store(place.offset, width, values if place.positions is None else values[place.positions])


def places(threads: Threads, space: str, address: Array, width: int, what: str) -> Iterator[Place]:
    """The memories that the addresses lie in; each access is checked and counted as a `what`."""
    if space == "generic":
        for positions, window, start in _windows(address):
            part = threads if positions is None else _part(threads, positions)
            inner = (address if positions is None else address[positions]) - start
            for place in places(part, window, inner, width, what):
                yield Place(_within(positions, place.positions), place.memory, place.offset)
    elif space == "shared":
        yield Place(None, threads.machine.shared, shared_place(threads, address, width, what))
    elif space == "local":
        yield Place(None, threads.machine.local, _local_place(threads, address, width, what))
    elif space == "param":
        yield Place(None, threads.machine.parameters, address)
    else:
        yield from _global_places(threads, address, width, what)


def _windows(address: Array) -> Iterator[tuple[Array | None, str, int]]:
    """The state spaces of generic addresses, and where their windows start."""
    window = (address >= SHARED_WINDOW).astype(np.int8) + (address >= LOCAL_WINDOW)
    for number, name, start in ((0, "global", 0), (1, "shared", SHARED_WINDOW), (2, "local", LOCAL_WINDOW)):
        here = window == number
        if here.all():
            yield None, name, start
        elif here.any():
            yield np.flatnonzero(here), name, start


def _part(threads: Threads, positions: Array) -> Threads:
    return threads.of(threads.machine, threads.numbers[positions])


def _within(outer: Array | None, inner: Array | None) -> Array | None:
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer[inner]


def check_written(threads: Threads, place: Place, width: int) -> None:
    unwritten = place.memory.unwritten(place.offset, width)
    if unwritten is not None:
        first = int(np.flatnonzero(unwritten)[0])
        at = first if place.positions is None else int(place.positions[first])
        name, byte = _name_of(threads, place, first)
        raise threads.fault("uninitialised", f"reads byte {byte} of {name}, which nobody wrote", at, name)


def _check_unchanged(threads: Threads, place: Place, width: int) -> None:
    buffer = place.memory
    if not isinstance(buffer, Buffer) or buffer.changed is None:
        return
    changed = buffer.changed.touched(place.offset, width)
    if changed.any():
        first = int(changed.argmax())
        at = first if place.positions is None else int(place.positions[first])
        what = f"reads byte {place.offset[first]} of {buffer.name} through the read-only cache, written in this launch"
        raise threads.fault("read-only", what, at, buffer.name)


def _name_of(threads: Threads, place: Place, first: int) -> tuple[str, int]:
    """What to call a memory, and the offset in what a thread sees of it."""
    offset = int(place.offset[first])
    if isinstance(place.memory, Buffer):
        return place.memory.name, offset
    machine = threads.machine
    if place.memory is machine.local:
        return "local memory", offset % machine.local.stride_bytes
    return "shared memory", offset % machine.shared.stride_bytes


def shared_place(threads: Threads, address: Array, width: int, what: str) -> Array:
    """Offsets in the shared memory of all blocks; `what` is counted unless it is empty."""
    machine = threads.machine
    size = machine.shared.size_bytes
    # The bits of all addresses: no address is above them, and a negative one makes them negative.
    bits = int(np.bitwise_or.reduce(address))
    if bits & (width - 1):
        _misaligned(threads, address, width, "shared memory")
    if bits < 0 or (bits > size - width and int(np.maximum.reduce(address)) > size - width):
        at = int(np.flatnonzero((address < 0) | (address > size - width))[0])
        text = f"out of bounds: {what or 'access'} of {width} bytes at byte {address[at]} of {size} of shared memory"
        raise threads.fault("bounds", text, at, "shared memory")
    if what:
        machine.counts.shared_access(threads.company, address, width)
    return threads.shared_start + address


def _local_place(threads: Threads, address: Array, width: int, what: str) -> Array:
    machine = threads.machine
    if int(address.min()) < 0 or int(address.max()) > machine.local.size_bytes - width:
        raise threads.fault("bounds", f"out of bounds: {what} in local memory", int(address.argmax()), "local memory")
    return threads.numbers * machine.local.stride_bytes + address


def _global_places(threads: Threads, address: Array, width: int, what: str) -> Iterator[Place]:
    """The buffers, which the upper bits of an address tell apart; mostly it is one."""
    first, last = int(np.minimum.reduce(address)) >> REGION_BITS, int(np.maximum.reduce(address)) >> REGION_BITS
    if first == last:
        yield Place(None, *_buffer_place(threads, first, address, width, what, None))
        return
    numbers = address >> REGION_BITS
    for number in np.unique(numbers):
        positions = np.flatnonzero(numbers == number)
        yield Place(positions, *_buffer_place(threads, int(number), address[positions], width, what, positions))


def _buffer_place(
    threads: Threads, number: int, address: Array, width: int, what: str, positions: Array | None
) -> tuple[Buffer, Array]:
    buffer = threads.machine.memory.at(number)
    offset = address - (number << REGION_BITS)
    if buffer is None or int(np.maximum.reduce(offset)) > len(buffer.data) - width:
        _out_of_bounds(threads, offset, width, what, number, positions)
    assert buffer is not None
    if int(np.bitwise_or.reduce(offset)) & (width - 1):
        _misaligned(threads, offset, width, buffer.name)
    counts = threads.machine.counts
    if what == "atomic":
        counts.atomics[buffer.name] += len(offset)
    else:
        traffic = counts.loads if what == "load" else counts.stores
        part = threads if positions is None else _part(threads, positions)
        counts.global_access(traffic[buffer.name], part.company, offset, width)
    return buffer, offset


def _out_of_bounds(
    threads: Threads, offset: Array, width: int, what: str, number: int, positions: Array | None
) -> None:
    """The fault; a negative offset shows as one far beyond the buffer before."""
    memory = threads.machine.memory
    buffer = memory.at(number)
    size = -1 if buffer is None else len(buffer.data)
    beyond = int(np.flatnonzero(offset > size - width)[0])
    at = beyond if positions is None else int(positions[beyond])
    byte, following = int(offset[beyond]), memory.at(number + 1)
    if (buffer is None or byte > REGION_BYTES // 2) and following is not None and number >= 0:
        if number == 0 and byte < REGION_BYTES // 2:
            raise threads.fault("bounds", f"{what} of {width} bytes through a null pointer (address {byte})", at)
        buffer, byte, size = following, byte - REGION_BYTES, len(following.data)
    if buffer is None:
        raise threads.fault("bounds", f"{what} of {width} bytes at an address of no buffer", at)
    text = f"out of bounds: {what} of {width} bytes at byte {byte} of {size} of {buffer.name}"
    raise threads.fault("bounds", text, at, buffer.name)


def _misaligned(threads: Threads, offset: Array, width: int, name: str) -> None:
    at = int(np.flatnonzero(offset & (width - 1))[0])
    text = f"misaligned: {width} bytes at byte {offset[at]} of {name}"
    raise threads.fault("alignment", text, at, name)
