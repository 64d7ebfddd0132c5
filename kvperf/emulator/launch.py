"""Run a kernel over a grid: arguments to memory, blocks in batches, counters together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvperf.emulator.counts import Counts
from kvperf.emulator.fault import Fault
from kvperf.emulator.formats import Array
from kvperf.emulator.machine import Machine
from kvperf.emulator.memory import Bytes, GlobalMemory, PerOwner
from kvperf.emulator.parse import Kernel, Parameter
from kvperf.emulator.program import program
from kvperf.emulator.schedule import NAMES, Schedule
from kvperf.emulator.special import Geometry

# Threads that sit in the machine at once, unless the caller wants more blocks to be resident together.
BATCH_THREADS = 8192
# What CUDA allows: blocks along y and z of a grid, threads along x, y and z of a block and together.
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_THREADS = (1024, 1024, 64)
MOST_BLOCK_THREADS = 1024
# Shared memory of a block, of sm_90 and sm_100; others have less.
SHARED_LIMIT_BYTES = 227 * 1024
# Static shared memory may end anywhere; the dynamic part starts at a multiple of this.
DYNAMIC_ALIGNMENT = 16


@dataclass(frozen=True)
class Emulated:
    """What a run did: its counters. Outputs are in the arrays that were passed."""

    counts: Counts


def run(
    ptx: str,
    entry: str,
    *,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: Sequence[Any],
    shared_bytes: int = 0,
    schedule: str = "forward",
    seed: int = 0,
    names: Sequence[str] = (),
    initialised: Mapping[str, Array | bool] | None = None,
    resident_blocks: int | None = None,
    shared_limit_bytes: int = SHARED_LIMIT_BYTES,
) -> Emulated:
    """Execute `entry` of a PTX module over the grid.

    arguments           arrays (global buffers, read and written in place) and NumPy scalars, one per parameter
    shared_bytes        dynamic shared memory
    schedule, seed      the order of warps, blocks and copies: see `kvperf.emulator.schedule`
    names               of the arguments, or of the arrays among them, for counters and faults
    initialised         by name, which elements of an array hold data; loads of the others are faults
    resident_blocks     how many blocks are in flight together; None: as many as fit a batch
    shared_limit_bytes  the most shared memory, static and dynamic, that the GPU gives a block
    """
    if schedule not in NAMES:
        raise Fault("unknown", f"unknown schedule '{schedule}'", f"one of {', '.join(NAMES)}")
    code = program(ptx, entry)
    geometry = Geometry(_three(grid), _three(block), shared_bytes)
    _check_shape(code.kernel, geometry)
    memory = GlobalMemory()
    parameters = _bind(code.kernel, arguments, _names(arguments, names), memory, initialised or {})
    layout, static_bytes, local_bytes = _lay_out(code.kernel, memory)
    if static_bytes + shared_bytes > shared_limit_bytes:
        what = f"{entry}: {static_bytes} bytes of static and {shared_bytes} of dynamic shared memory"
        raise Fault("launch", what, f"a block has {shared_limit_bytes} at most")
    if code.read_only:
        memory.watch_changes()
    order, counts = Schedule(schedule, seed), Counts()
    blocks = order.block_order(geometry.blocks)
    batch = resident_blocks or max(1, BATCH_THREADS // (-(-geometry.block_threads // 32) * 32))
    with np.errstate(all="ignore"):
        for start in range(0, geometry.blocks, batch):
            here = blocks[start : start + batch]
            shared = PerOwner(len(here), static_bytes + shared_bytes)
            machine = Machine(
                code, geometry, here, memory, parameters, layout, shared, local_bytes, order.for_batch(), counts
            )
            machine.run()
    return Emulated(counts)


def _three(size: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*size, 1, 1, 1)[:3]
    return int(x), int(y), int(z)


def _check_shape(kernel: Kernel, geometry: Geometry) -> None:
    sizes = zip((*geometry.grid, *geometry.block), MOST_BLOCKS + MOST_THREADS, strict=True)
    if geometry.block_threads > MOST_BLOCK_THREADS or not all(0 < size <= most for size, most in sizes):
        what = f"{kernel.name}: grid {geometry.grid} of blocks {geometry.block}"
        hint = f"a grid has up to {MOST_BLOCKS} blocks, a block 1 to {MOST_BLOCK_THREADS} threads, up to {MOST_THREADS}"
        raise Fault("launch", what, hint)
    if geometry.shared_bytes < 0:
        raise Fault("launch", f"{kernel.name}: {geometry.shared_bytes} bytes of shared memory", "zero or more")
    if kernel.max_threads is not None and geometry.block_threads > kernel.max_threads:
        what = f"{kernel.name}: a block of {geometry.block_threads} threads"
        raise Fault("launch", what, f"its launch bounds allow {kernel.max_threads}")


def _names(arguments: Sequence[Any], names: Sequence[str]) -> list[str]:
    """One name per argument; those given may be of the arrays alone."""
    if not names:
        return [f"argument {number}" for number in range(len(arguments))]
    if len(names) == len(arguments):
        return list(names)
    arrays = [number for number, argument in enumerate(arguments) if _is_array(argument)]
    if len(names) != len(arrays):
        hint = f"there are {len(arguments)} arguments, {len(arrays)} of them arrays"
        raise Fault("launch", f"{len(names)} names do not fit the arguments", hint)
    named = dict(zip(arrays, names, strict=True))
    return [named.get(number, f"argument {number}") for number in range(len(arguments))]


def _is_array(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and argument.ndim > 0


def _bind(
    kernel: Kernel,
    arguments: Sequence[Any],
    names: Sequence[str],
    memory: GlobalMemory,
    initialised: Mapping[str, Array | bool],
) -> Bytes:
    """The parameters as the kernel reads them."""
    if len(arguments) != len(kernel.parameters):
        what = f"{kernel.name} takes {len(kernel.parameters)} arguments, got {len(arguments)}"
        raise Fault("launch", what, "one array or scalar for each parameter")
    if unknown := set(initialised) - set(names):
        raise Fault("launch", f"no argument is called {', '.join(sorted(unknown))}", f"known: {', '.join(names)}")
    size = max((p.offset_bytes + p.size_bytes for p in kernel.parameters), default=0)
    data = np.zeros(-(-size // 16) * 16, np.uint8)
    for parameter, argument, name in zip(kernel.parameters, arguments, names, strict=True):
        if _is_array(argument):
            _check_array(kernel, parameter, argument, name)
            argument = np.uint64(memory.add(name, argument, initialised.get(name)).address)
        bits = _bits(kernel, parameter, argument, name)
        data[parameter.offset_bytes : parameter.offset_bytes + len(bits)] = np.frombuffer(bits, np.uint8)
    return Bytes(data, None)


def _check_array(kernel: Kernel, parameter: Parameter, array: Array, name: str) -> None:
    if parameter.size_bytes != 8:
        raise Fault("launch", f"{kernel.name}: {name} is an array, its parameter no pointer", "check the order")
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise Fault("launch", f"{kernel.name}: {name} is not contiguous or not writeable", "pass a plain array")


def _bits(kernel: Kernel, parameter: Parameter, argument: Any, name: str) -> bytes:
    if isinstance(argument, bool | int | float):
        kind = parameter.kind[0].replace("s", "i").replace("b", "u") + str(parameter.size_bytes)
        argument = np.dtype(kind).type(argument)
    bits = bytes(argument) if isinstance(argument, bytes) else argument.tobytes()
    if len(bits) != parameter.size_bytes:
        what = f"{kernel.name}: {name} has {len(bits)} bytes, its parameter {parameter.size_bytes} ({parameter.kind})"
        raise Fault("launch", what, "pass a NumPy scalar of the parameter's type")
    return bits


def _lay_out(kernel: Kernel, memory: GlobalMemory) -> tuple[dict[str, int], int, int]:
    """Addresses of variables and parameters in their spaces; the sizes of static shared and of local memory."""
    layout = {parameter.name: parameter.offset_bytes for parameter in kernel.parameters}
    ends = {"shared": 0, "local": 0}
    dynamic = []
    for variable in kernel.variables:
        if variable.space in ("global", "const"):
            layout[variable.name] = memory.add(variable.name, _content(variable.data, variable.size_bytes)).address
        elif variable.size_bytes == 0:
            dynamic.append(variable)
        else:
            start = -(-ends[variable.space] // variable.align_bytes) * variable.align_bytes
            layout[variable.name] = start
            ends[variable.space] = start + variable.size_bytes
    boundary = max([DYNAMIC_ALIGNMENT, *(variable.align_bytes for variable in dynamic)])
    static_bytes = -(-ends["shared"] // boundary) * boundary if dynamic else ends["shared"]
    layout |= {variable.name: static_bytes for variable in dynamic}
    return layout, static_bytes, ends["local"]


def _content(data: bytes | None, size: int) -> Array:
    """Module variables start as zeros."""
    return np.frombuffer(data, np.uint8).copy() if data is not None else np.zeros(size, np.uint8)
