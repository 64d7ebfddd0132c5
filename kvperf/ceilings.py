"""Ceilings of an implementation: times beside the bound, never part of it.

A kernel that runs its softmax on the special-function units, converts a narrow cache, or is launched on
its own pays these; a better implementation overlaps or avoids them. Unknown rates give None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import Number

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.work import Work


class Ceilings(msgspec.Struct, frozen=True):
    """Seconds of the stage on units and paths that the bound leaves out.

    cuda_core_s   vector FLOPs over the FP32 vector peak (which counts a multiply-add as 2)
    sfu_s         exponentials over the special-function rate
    conversion_s  converted elements over the rate of fp8 to scaled bf16; None where another format is converted
    l2_s          boundary traffic over the L2 bandwidth
    launch_s      kernels times the measured cost of a CUDA-graph node
    """

    cuda_core_s: Number | None
    sfu_s: Number | None
    conversion_s: Number | None
    l2_s: Number | None
    launch_s: Number | None


def ceilings(work: Work, gpu: Gpu) -> Ceilings:
    """The ceilings of one stage on one GPU."""
    return Ceilings(
        cuda_core_s=_over(work.vector_flops, gpu.cuda_core_flops_per_s),
        sfu_s=_over(work.exponentials, gpu.exponentials_per_s),
        conversion_s=_conversion_s(work, gpu),
        l2_s=_over(work.hbm_bytes, gpu.l2_bytes_per_s),
        launch_s=None if gpu.graph_launch_s is None else work.kernels * gpu.graph_launch_s,
    )


def mma_utilisation(work: Work, gpu: Gpu) -> Any:
    """Useful share of the matrix tiles: rows of the products over the rows of whole tiles; None without products, or
    where they run on vector units.

    The tile has `gpu.mma_rows` rows: 16 for mma.sync, 64 for wgmma. A GEMM that swaps its operands
    puts the tokens on the tile's other side (multiples of 8) and fills more of it.
    """
    if not work.padded_flops or gpu.mma_rows is None:
        return None
    if not all(gpu.peak(unit).is_matrix for unit in work.matrix_by_operand):
        return None
    return work.matrix_flops / work.padded_flops[gpu.mma_rows]


def _conversion_s(work: Work, gpu: Gpu) -> Any:
    """Only the conversion of fp8 elements to 16 bits has a sourced rate."""
    borrowed = any(not _is_own(gpu.peak(unit).dtype, unit) for unit in work.matrix_by_operand)
    if borrowed or set(work.conversions_by_format) - {"fp8"}:
        return None
    return _over(work.conversions, gpu.conversions_per_s) if work.conversions_by_format else 0.0


def _is_own(dtype: str, operand: str) -> bool:
    """Whether a unit for `dtype` takes the operand as it is; fp16 and bf16 run on one unit."""
    return dtype == operand or {dtype, operand} == {"fp16", "bf16"}


def _over(amount: Any, rate: float | None) -> Any:
    return None if rate is None else amount / rate
