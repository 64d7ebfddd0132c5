"""Memory: global buffers, shared memory of each block, local memory of each thread; every access is checked.

Claims: an access beyond a buffer, a misaligned one, and a load of a byte nobody wrote are faults, and so is a load
through the read-only cache of a byte that this launch has written. Each global buffer has an address range of its own,
so an overrun never lands in a neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# The upper bits of a global address say which buffer it is; 0 is the null pointer's.
REGION_BITS = 36
REGION_BYTES = 1 << REGION_BITS
# Generic addresses of shared and local memory lie above all buffers.
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 1 << 61

# One element of each access width; 16 bytes travel as a complex number, bit for bit.
WIDTHS = {1: np.dtype("u1"), 2: np.dtype("u2"), 4: np.dtype("u4"), 8: np.dtype("u8"), 16: np.dtype("c16")}


class Shadow:
    """A mark, 0 or 1, on each byte of a memory."""

    def __init__(self, marks: Array) -> None:
        self.marks = marks
        self._views: dict[int, tuple[Array, Any]] = {}

    def set(self, offset: Array, width: int, *, marked: bool) -> None:
        view, pattern = self._view(width)
        view[offset >> (width.bit_length() - 1)] = pattern if marked else 0

    def whole(self, offset: Array, width: int) -> Array:
        """Which of the accesses find every byte marked."""
        view, pattern = self._view(width)
        same = view[offset >> (width.bit_length() - 1)] == pattern
        return same.all(axis=1) if width == 16 else same

    def touched(self, offset: Array, width: int) -> Array:
        """Which of the accesses find a byte marked."""
        found = self._view(width)[0][offset >> (width.bit_length() - 1)] != 0
        return found.any(axis=1) if width == 16 else found

    def _view(self, width: int) -> tuple[Array, Any]:
        """The marks as elements of a width (two of 8 bytes for 16), and what an element is that is marked all over."""
        known = self._views.get(width)
        if known is None:
            size = min(width, 8)
            part = self.marks[: len(self.marks) // width * width]
            view = part.view(np.uint64).reshape(-1, 2) if width == 16 else part.view(WIDTHS[width])
            known = self._views[width] = view, WIDTHS[size].type(int.from_bytes(b"\1" * size, "little"))
        return known


class Bytes:
    """Bytes, with a shadow that marks those that were written; `shadow` is None where all were."""

    def __init__(self, data: Array, marks: Array | None) -> None:
        self.data = data
        self.shadow = None if marks is None else Shadow(marks)
        self._views: dict[int, Array] = {}

    def elements(self, width: int) -> Array:
        """The bytes as elements of `width`; a tail that fills none is left out."""
        view = self._views.get(width)
        if view is None:
            view = self._views[width] = self.data[: len(self.data) // width * width].view(WIDTHS[width])
        return view

    def load(self, offset: Array, width: int) -> Array:
        """Elements of `width` bytes at byte offsets that were checked."""
        return self.elements(width)[offset >> (width.bit_length() - 1)]

    def store(self, offset: Array, width: int, values: Array) -> None:
        self.elements(width)[offset >> (width.bit_length() - 1)] = values
        if self.shadow is not None:
            self.shadow.set(offset, width, marked=True)

    def mark(self, offset: Array, width: int, *, written: bool) -> None:
        """Remember whether the bytes hold data."""
        if self.shadow is None:
            if written:
                return
            self.shadow = Shadow(np.ones(len(self.data), np.uint8))
        self.shadow.set(offset, width, marked=written)

    def unwritten(self, offset: Array, width: int) -> Array | None:
        """Which of the accesses touch a byte that nobody wrote; None where none does."""
        if self.shadow is None:
            return None
        written = self.shadow.whole(offset, width)
        return None if written.all() else ~written


class Buffer(Bytes):
    """One array of global memory. `initialised` marks its elements that hold data; None: all. `changed` marks the bytes
    that this launch has written; None: nobody wants to know.
    """

    def __init__(self, name: str, array: Array, number: int, initialised: Array | bool | None) -> None:
        flat = array.reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
        super().__init__(flat, _shadow_of(array, initialised))
        self.name = name
        self.address = number << REGION_BITS
        self.changed: Shadow | None = None

    def store(self, offset: Array, width: int, values: Array) -> None:
        super().store(offset, width, values)
        if self.changed is not None:
            self.changed.set(offset, width, marked=True)


def _shadow_of(array: Array, initialised: Array | bool | None) -> Array | None:
    if initialised is None or initialised is True:
        return None
    mask = np.broadcast_to(np.asarray(initialised, bool), array.shape)
    return np.repeat(mask.reshape(-1).astype(np.uint8), array.dtype.itemsize)


class GlobalMemory:
    """The buffers by the number of their address range."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def add(self, name: str, array: Array, initialised: Array | bool | None = None) -> Buffer:
        """Where the array lies from now on; an array that is there already keeps its place."""
        for buffer in self.buffers:
            if buffer.data.ctypes.data == array.ctypes.data and len(buffer.data) == array.nbytes and array.nbytes:
                return buffer
        buffer = Buffer(name, array, len(self.buffers) + 1, initialised)
        self.buffers.append(buffer)
        return buffer

    def watch_changes(self) -> None:
        """Remember from now on which bytes are written."""
        for buffer in self.buffers:
            buffer.changed = Shadow(np.zeros(len(buffer.data), np.uint8))

    def at(self, number: int) -> Buffer | None:
        return self.buffers[number - 1] if 1 <= number <= len(self.buffers) else None


class PerOwner(Bytes):
    """A piece of memory for each owner: shared memory of a block, local memory of a thread."""

    def __init__(self, owners: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.stride_bytes = -(-size_bytes // 16) * 16
        total = owners * self.stride_bytes
        super().__init__(np.full(total, 0xFF, np.uint8), np.zeros(total, np.uint8))
