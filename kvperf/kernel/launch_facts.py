"""One launch as the compiler and the architecture have it: registers, spills, loop, occupancy, waves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvperf.arith import Number
from kvperf.kernel.issue import loop_instructions
from kvperf.kernel.occupancy import Occupancy, occupancy
from kvperf.kernel.sass import functions

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.kernel.compile import Compiled
    from kvperf.kernel.launch import Launch, Plan


class LaunchFacts(msgspec.Struct, frozen=True):
    """One launch: its grid, what a block takes, and how it fills the GPU. Null: not compiled, or not countable.

    shared                  bytes of shared memory by line
    main_loop_instructions  of a warp for one tile of keys and values
    waves                   blocks over what the GPU runs at once
    """

    entry: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    blocks: int
    shared: dict[str, int]
    shared_bytes: int
    registers: int | None
    spill_bytes: int | None
    main_loop_instructions: int | None
    occupancy: Occupancy | None
    waves: Number | None


def facts(planned: Plan, compiled: Compiled | None, gpu: Gpu) -> tuple[LaunchFacts, ...]:
    """All launches of the plan."""
    loops = _loops(planned, compiled)
    return tuple(_facts(launch, compiled, loops, gpu) for launch in planned.launches)


def occupancy_of(launch: Launch, compiled: Compiled | None, gpu: Gpu) -> Occupancy | None:
    """Blocks of the launch that an SM holds; None where registers are unknown."""
    resources = compiled.resources.get(launch.entry) if compiled else None
    if resources is None:
        return None
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    shared = resources.static_shared_bytes + launch.dynamic_shared_bytes
    return occupancy(gpu.architecture, threads, resources.registers, shared)


def _facts(launch: Launch, compiled: Compiled | None, loops: dict[str, int], gpu: Gpu) -> LaunchFacts:
    blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
    resources = compiled.resources.get(launch.entry) if compiled else None
    found = occupancy_of(launch, compiled, gpu)
    running = found.blocks_per_sm * gpu.sms if found and gpu.sms else None
    shared_bytes = 0
    for size in launch.shared.values():
        shared_bytes += size
    return LaunchFacts(
        entry=launch.entry,
        grid=launch.grid,
        block=launch.block,
        blocks=blocks,
        shared=launch.shared,
        shared_bytes=shared_bytes,
        registers=resources.registers if resources else None,
        spill_bytes=resources.spill_store_bytes + resources.spill_load_bytes if resources else None,
        main_loop_instructions=loops.get(launch.entry),
        occupancy=found,
        waves=blocks / running if running else None,
    )


def _loops(planned: Plan, compiled: Compiled | None) -> dict[str, int]:
    """Instructions of each entry's loop over tiles; empty where no disassembler is installed."""
    from kvperf.kernel.compile import disassemble

    text = disassemble(compiled.cubin) if compiled else None
    code = functions(text) if text else {}
    entries = [launch.entry for launch in planned.launches]
    found = {entry: loop_instructions(planned, code[entry]) for entry in entries if entry in code}
    return {entry: count for entry, count in found.items() if count is not None}
