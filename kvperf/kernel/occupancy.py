"""Occupancy: how many blocks of a kernel an SM holds, and what stops it from holding more.

Source of the rules: NVIDIA's cuda_occupancy.h (PyPI nvidia-cuda-runtime); a test compares this room with
it where a C++ compiler is at hand. Limits come from the architecture's profile.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import ceil_div
from kvperf.errors import KvperfError
from kvperf.hardware import Architecture

SUB_PARTITIONS = 4  # each SM since Volta is four parts with a quarter of the registers (cuda_occupancy.h)


class Occupancy(msgspec.Struct, frozen=True):
    """Resident blocks of one kernel on one SM.

    limited_by    what holds the number down: warps, registers, shared memory or blocks (all that do)
    warps_share   resident warps over the most the SM holds
    """

    blocks_per_sm: int
    warps_per_sm: int
    warps_share: float
    limited_by: tuple[str, ...]
    by_warps: int
    by_registers: int
    by_shared: int
    by_blocks: int


def occupancy(
    architecture: Architecture, threads_per_block: int, registers_per_thread: int, shared_bytes: int
) -> Occupancy:
    """Blocks per SM of a kernel; `shared_bytes` is static and dynamic shared memory of a block.

    Raises KvperfError where not even one block fits, naming the limit.
    """
    limits = architecture.limits
    warps = int(ceil_div(threads_per_block, _limit(architecture, "warp_threads")))
    most_warps = _limit(architecture, "warps_per_sm")
    if threads_per_block > _limit(architecture, "threads_per_block"):
        raise _too_much(architecture, f"{threads_per_block} threads", "threads_per_block")
    by_warps = most_warps // warps
    by_registers = _by_registers(architecture, warps, registers_per_thread)
    by_shared = _by_shared(architecture, shared_bytes)
    by_blocks = _limit(architecture, "blocks_per_sm")
    counts = {"warps": by_warps, "registers": by_registers, "shared memory": by_shared, "blocks": by_blocks}
    blocks = min(counts.values())
    assert limits.warps_per_sm is not None
    return Occupancy(
        blocks_per_sm=blocks,
        warps_per_sm=blocks * warps,
        warps_share=blocks * warps / most_warps,
        limited_by=tuple(name for name, count in counts.items() if count == blocks),
        by_warps=by_warps,
        by_registers=by_registers,
        by_shared=by_shared,
        by_blocks=by_blocks,
    )


def _by_registers(architecture: Architecture, warps: int, registers_per_thread: int) -> int:
    """Registers are handed out by the warp, in units, from the quarter that the warp runs on."""
    if registers_per_thread > _limit(architecture, "registers_per_thread"):
        raise _too_much(architecture, f"{registers_per_thread} registers a thread", "registers_per_thread")
    unit = _limit(architecture, "register_allocation_unit")
    per_warp = int(ceil_div(registers_per_thread * _limit(architecture, "warp_threads"), unit)) * unit
    # The launch check assumes that a block takes registers of all four parts at once.
    assumed = per_warp * int(ceil_div(warps, SUB_PARTITIONS)) * SUB_PARTITIONS
    if assumed > _limit(architecture, "registers_per_block"):
        raise _too_much(architecture, f"{assumed} registers a block", "registers_per_block")
    if per_warp == 0:
        return _limit(architecture, "blocks_per_sm")
    registers = _limit(architecture, "register_file") // 4
    return registers // SUB_PARTITIONS // per_warp * SUB_PARTITIONS // warps


def _by_shared(architecture: Architecture, shared_bytes: int) -> int:
    """Shared memory is handed out in units, a reserved part of it to the system for each block."""
    if shared_bytes > _limit(architecture, "shared_per_block"):
        raise _too_much(architecture, f"{shared_bytes} bytes of shared memory a block", "shared_per_block")
    unit = _limit(architecture, "shared_allocation_unit")
    reserved = architecture.limits.shared_reserved_per_block
    taken = shared_bytes + (int(reserved.value) if reserved else 0)
    allocated = int(ceil_div(taken, unit)) * unit
    return _limit(architecture, "shared_per_sm") // allocated if allocated else _limit(architecture, "blocks_per_sm")


def _limit(architecture: Architecture, name: str) -> int:
    reading: Any = getattr(architecture.limits, name)
    if reading is None:
        raise KvperfError(
            f"{architecture.name} does not say its {name.replace('_', ' ')}", "occupancy is known for NVIDIA GPUs only"
        )
    return int(reading.value)


def _too_much(architecture: Architecture, what: str, limit: str) -> KvperfError:
    return KvperfError(
        f"a block with {what} cannot run on {architecture.name}: the limit is {_limit(architecture, limit)}",
        "use fewer of them a block",
    )
