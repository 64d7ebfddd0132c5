"""The shape of the launch, and the special registers that tell a thread its place in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvperf.emulator.formats import Array

if TYPE_CHECKING:
    from kvperf.emulator.machine import Machine

Dimensions = tuple[int, int, int]
# Special registers that change while a kernel runs: they count its steps.
CLOCKS = ("%clock", "%clock64", "%clock_hi", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi")


class Geometry(NamedTuple):
    """Blocks of the grid, threads of a block, and the shared memory that the launch adds to the kernel's own."""

    grid: Dimensions
    block: Dimensions
    shared_bytes: int = 0

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def block_threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    def thread_place(self, number: int) -> Dimensions:
        return _place(number, self.block)

    def block_place(self, number: int) -> Dimensions:
        return _place(number, self.grid)


def _place(number: int, size: Dimensions) -> Dimensions:
    return number % size[0], number // size[0] % size[1], number // (size[0] * size[1])


def _coordinate(numbers: Array, size: Dimensions, axis: int) -> Array:
    return numbers // (1, size[0], size[0] * size[1])[axis] % size[axis]


def special_register(machine: Machine, name: str) -> Array:
    """The register of every thread; a fault where it is not known."""
    geometry = machine.geometry
    if name[-2] == "." and name[-1] in "xyz":
        axis = "xyz".index(name[-1])
        if name[:-2] == "%tid":
            return _coordinate(machine.thread, geometry.block, axis)
        if name[:-2] == "%ctaid":
            return _coordinate(machine.blocks[machine.block], geometry.grid, axis)
        if name[:-2] in ("%ntid", "%nctaid"):
            size = geometry.block if name[:-2] == "%ntid" else geometry.grid
            return np.full(machine.threads, size[axis])
    lane = machine.lane.astype(np.uint64)
    one = np.uint64(1)
    values = {
        "%laneid": lambda: machine.lane,
        "%warpid": lambda: machine.warp % machine.warps_per_block,
        "%nwarpid": lambda: np.full(machine.threads, machine.warps_per_block),
        "%lanemask_eq": lambda: one << lane,
        "%lanemask_lt": lambda: (one << lane) - one,
        "%lanemask_le": lambda: (one << (lane + one)) - one,
        "%lanemask_gt": lambda: np.uint64(0xFFFFFFFF) ^ ((one << (lane + one)) - one),
        "%lanemask_ge": lambda: np.uint64(0xFFFFFFFF) ^ ((one << lane) - one),
        "%smid": lambda: machine.block,
        "%nsmid": lambda: np.full(machine.threads, len(machine.blocks)),
        "%dynamic_smem_size": lambda: np.full(machine.threads, geometry.shared_bytes),
        "%total_smem_size": lambda: np.full(machine.threads, machine.shared.size_bytes),
        "%gridid": lambda: np.zeros(machine.threads, np.int64),
    }
    if name not in values:
        raise machine.fault("unknown", f"the interpreter does not know the special register {name}")
    return values[name]()
