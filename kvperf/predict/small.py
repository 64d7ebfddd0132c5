"""The time of small kernels: a launch each, and their bytes.

Nobody publishes tables of norms, RoPE, activations or samplers on data-centre GPUs. The starts below are what was
read elsewhere, and they stand for all stacks:

small_launch_s  norm 2.4, RoPE 2.7, SiLU·mul 2.7 µs (RTX PRO 6000) and 1.9, 2.2 (RTX 4090) for 1 token, kernel time
                (LLMServingSim 5daddb21, vLLM 0.19); norm 2.7, RoPE 1.9, activation 1.8 on H100, from fits to vidur's
                timings on a 1 µs grid (vidur 7d475133). Median 2.3.
node_s          1.23 µs on H200, 1.31 on A100, 0.96 on L40 for a kernel that does nothing, inside a CUDA graph
                (gpu-benches 1c36d509, cited).
hbm_efficiency  0.90 of the peak, what vLLM's and TensorRT-LLM's quantise kernels stream at in aiconfigurator's tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import least, most
from kvperf.launches.small import Small
from kvperf.predict.family import Constant, Family

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

MOVES = ("residual", "embedding", "copy")  # kinds that only move bytes: no reduction, no second load that waits

CONSTANTS = (
    Constant(
        "small_launch_s", "a small kernel that computes: its loads, its reduction, its stores", 2.3e-6, 5e-7, 2e-5
    ),
    Constant("node_s", "a kernel that only moves bytes: one node of a CUDA graph", 1.23e-6, 5e-7, 5e-6),
    Constant("small_hbm_efficiency", "share of the HBM peak that elementwise kernels stream at", 0.9, 0.1, 1.0),
    Constant("block_s", "one block more on an SM, for kernels with a block per token", 8e-8, 1e-10, 1e-6, 0.0),
    Constant("small_l2_bytes_per_s", "replayed only: what operands that lie in L2 stream at", 5e12, 5e11, 4e13, 1e15),
)
SOURCED = {constant.name: constant.start for constant in CONSTANTS}


def price(launch: Small, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """kernels*launch + rows*block_s/SMs + bytes/(efficiency*BW), replayed bytes from L2 where they fit."""
    start_s = constants["node_s"] if launch.kind in MOVES else constants["small_launch_s"]
    time_s = launch.kernels * start_s + launch.rows * constants["block_s"] / (gpu.sms or 1)
    hbm_s = launch.bytes / (constants["small_hbm_efficiency"] * gpu.hbm_bytes_per_s)
    if not launch.warm:
        return time_s + hbm_s
    hot = resident(launch.bytes, gpu)
    return time_s + hot * launch.bytes / constants["small_l2_bytes_per_s"] + (1 - hot) * hbm_s


def resident(nbytes: Any, gpu: Gpu) -> Any:
    """Share of replayed operands found in L2: all up to a fill, and none from 0.15 of the capacity above it, where a
    stream evicts itself. The fill is 0.95 where L2 is one piece, 0.7 where it is two that each serve their own SMs
    (both seen in the quantise tables: H100 and H200 fall from 0.7 to 0.85 of L2, L40S from 0.95 to 1.1)."""
    capacity = gpu.l2_capacity_bytes
    if capacity is None:
        return 0.0
    fill = 0.95 if gpu.architecture.name in ("sm_89", "sm_120") else 0.7
    return most(0.0, least(1.0, (fill + 0.15 - nbytes / capacity) / 0.15))


def floor(launch: Small, gpu: Gpu) -> Any:
    """Cold: bytes that are not read again at the HBM peak. Replayed: only what L2 cannot hold of them.

    The L2 peaks that are known are measurements of other kernels, and no bound.
    """
    once = launch.bytes - launch.again
    if launch.warm:
        once = most(once - (gpu.l2_capacity_bytes or 0), 0.0)
    return once / gpu.hbm_bytes_per_s


SMALL = Family("small", CONSTANTS, price, floor)
