"""Issue slots: the instructions that a kernel's warps issue to walk K and V, and the time they take at least.

An estimate from machine code. It counts the loop over tiles alone, and only where that can be counted: loops within it
that turn an unknown number of times leave it unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvperf.arith import ceil_div
from kvperf.kernel.loop import turn_instructions
from kvperf.kernel.traffic import split_lengths

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.kernel.launch import Plan
    from kvperf.kernel.sass import Instruction

ISSUES_PER_CLOCK = 4  # one warp instruction a clock in each of the four parts of an SM (CUDA guide, "SIMT")
WARP = 32
MATRIX_TILE = 16  # keys that a warp of tensor_cores and int8_mma takes on its own
PRODUCER_WARPS = {"bulk_copy": 1}  # warps that only order copies


def loop_instructions(planned: Plan, code: tuple[Instruction, ...]) -> int | None:
    """Instructions of a warp for one turn of the loop over tiles; None where they cannot be counted."""
    tile, dims = planned.geometry, planned.shape.head_dim
    ring = sum(size for name, size in tile.shared.items() if name in ("k stages", "v stages", "latent stages"))
    threads = tile.block[0] * tile.block[1] * tile.block[2]
    # A stage holds what is copied in a turn; rows of int8_mma are 16 bytes longer than what comes.
    filled = dims / (dims + 16) if planned.kernel == "int8_mma" else 1.0
    return turn_instructions(code, round(ring * filled) / planned.defines.get("STAGES", 1) / (threads * 16))


def warp_turns(planned: Plan) -> int:
    """Turns of the loop over tiles, all warps of all blocks together."""
    tile, shape = planned.geometry, planned.shape
    lengths = [length for seq in shape.sequences for length in split_lengths(planned, seq)]
    rows = shape.kv_heads * tile.row_tiles if planned.shares else shape.heads
    threads = tile.block[0] * tile.block[1] * tile.block[2]
    warps = threads // WARP - PRODUCER_WARPS.get(planned.kernel, 0)
    turns = 0
    for length in lengths:
        if planned.kernel in ("tensor_cores", "int8_mma"):
            turns += int(ceil_div(length, MATRIX_TILE))
        else:
            turns += int(ceil_div(length, tile.tokens)) * warps
    return turns * rows


def issue_s(gpu: Gpu, instructions: float, busy_sms: float) -> float | None:
    """Seconds to issue so many warp instructions, four a clock and SM at the boost clock."""
    boost = gpu.profile.clocks.boost
    if boost is None or not busy_sms:
        return None
    return instructions / (ISSUES_PER_CLOCK * busy_sms * float(boost.value))
