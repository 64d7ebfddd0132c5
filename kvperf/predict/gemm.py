"""The time of a matrix product.

    T = launch_s + ‖memory, tensor‖₂ + quantise            for the fastest of the tile shapes, with K split or whole
    memory = cold reads/(hbm·BW) + hot reads/(l2·BW) + output/(store·BW)
    tensor = waves × (k/splits steps) × max(step_s, tile FLOPs per step / (efficiency·peak/SMs))
             + [splits > 1]·(split_s + fp32 partial sums/(l2·BW))
    quantise = quantise_s + bytes moved/(store·BW)          (8 and 4 bits, activations arrive as bf16)

A library picks the tile and the split, so the price is the least over them; the norm (√(a² + b²)) says that a
product near the ridge neither adds its two times nor hides one of them. L2 holds nothing in a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import ceil_div, choose, least, most
from kvperf.launches.gemm import Gemm, Kernel
from kvperf.predict.family import Constant, Family

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

SHARED = (
    Constant("launch_s", "start of the kernel, first loads from L2, last stores", 2.5e-6, 5e-7, 2e-5),
    Constant("hbm_efficiency", "share of the HBM peak that reads stream at", 0.9, 0.4, 1.0),
    Constant("l2_ratio", "rate of reads that hit L2, and of split sums, over the HBM peak", 1.5, 1.0, 8.0, neutral=1.0),
    Constant("store_ratio", "rate of output and quantised input over the HBM peak", 0.75, 0.3, 5.0),
    Constant(
        "step_s", "least time of one step of a tile's main loop (load to multiply)", 6e-8, 1e-9, 1e-6, neutral=0.0
    ),
    Constant("split_s", "a second kernel, or a wait, to sum the parts of a split K", 2.4e-6, 1e-7, 1e-5, neutral=0.0),
)
BF16 = (Constant("bf16_tensor_efficiency", "share of the dense 16-bit peak in the main loop", 0.8, 0.2, 1.0),)
FP8 = (
    Constant("fp8_tensor_efficiency", "share of the dense fp8 peak in the main loop", 0.65, 0.1, 1.0),
    Constant("fp8_quantise_s", "start of the kernels that scale activations to fp8", 3e-6, 1e-8, 3e-5, neutral=0.0),
    Constant(
        "fp8_row_s", "time per row and 2048 of its elements, where a block does it", 5e-9, 1e-11, 5e-8, neutral=0.0
    ),
)
FP8_BLOCK = (
    Constant("fp8_block_tensor_efficiency", "the same with a scale for each 128×128 weights", 0.65, 0.1, 1.0),
    Constant(
        "fp8_block_quantise_s", "start of the kernel that scales each 128 activations", 2e-6, 1e-8, 3e-5, neutral=0.0
    ),
)
NVFP4 = (
    Constant("nvfp4_tensor_efficiency", "share of the dense fp4 peak in the main loop", 0.5, 0.1, 1.0),
    Constant("nvfp4_quantise_s", "start of the kernel that scales each 16 activations", 3e-6, 1e-8, 3e-5, neutral=0.0),
)
OWN = {"bf16": BF16, "fp8": FP8, "fp8_block": FP8_BLOCK, "nvfp4": NVFP4}
NEAREST = {
    "bf16": (),
    "fp8": ("fp8_block", "bf16"),
    "fp8_block": ("fp8", "bf16"),
    "nvfp4": ("fp8_block", "fp8", "bf16"),
}
CONSTANTS = SHARED + BF16 + FP8 + FP8_BLOCK + NVFP4


def price(launch: Gemm, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Seconds; the formula is at the head of this file."""
    kernel = launch.kernel(gpu.architecture.name)
    memory_s = _memory_s(launch, gpu, constants)
    plans = [_plan_s(launch, gpu, constants, kernel, tile, memory_s) for tile in kernel.tiles]
    fastest = plans[0]
    for plan in plans[1:]:
        fastest = least(fastest, plan)
    return constants["launch_s"] + fastest + _quantise_s(launch, gpu, constants, kernel)


def floor(launch: Gemm, gpu: Gpu) -> Any:
    """The roofline at the launch's cache state: a cold one moves its bytes once through HBM."""
    tensor_s = launch.flops / _peak(launch, gpu)
    if not launch.warm:
        return most(launch.bytes / gpu.hbm_bytes_per_s, tensor_s)
    missed = most(launch.bytes - (gpu.l2_capacity_bytes or 0), 0.0)
    return most(missed / gpu.hbm_bytes_per_s, tensor_s)


def family(kind: str, stack: str, known: Mapping[str, float] | None = None) -> Family:
    """The family of one kind of operands in a stack, whose free constants are those it has and not in `known`.

    The shared constants are fitted with bf16, then each other kind's own with those held.
    """
    held = known or {}
    free = tuple(c for c in SHARED + OWN[kind] if c.name not in held and (c.name != "fp8_row_s" or stack == "vllm"))
    return Family(f"gemm {kind}", free, lambda launch, gpu, constants: price(launch, gpu, {**held, **constants}), floor)


def _memory_s(launch: Gemm, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Reads from where they are, and the output."""
    rate = gpu.hbm_bytes_per_s
    hot_weight, hot_input = launch.hot(gpu.l2_capacity_bytes or 1.0)
    hot = hot_weight * launch.weight_bytes + hot_input * launch.input_bytes
    cold = launch.weight_bytes + launch.input_bytes - hot
    read_s = cold / (constants["hbm_efficiency"] * rate) + hot / (constants.get("l2_ratio", 1.0) * rate)
    return read_s + launch.output_bytes / (constants["store_ratio"] * rate)


def _plan_s(
    launch: Gemm, gpu: Gpu, constants: Mapping[str, float], kernel: Kernel, tile: tuple[int, int], memory_s: Any
) -> Any:
    """Memory and matrix time with output tiles of one shape, K whole or split, whichever is faster."""
    sms = gpu.sms or 1
    tiles = launch.tiles(tile)
    efficiency = _own(constants, launch.kind, "tensor_efficiency")
    step_s = max(
        kernel.exposed * constants.get("step_s", 0.0),
        2.0 * tile[0] * tile[1] * kernel.k_step / (efficiency * _peak(launch, gpu) / sms),
    )
    steps = ceil_div(launch.k, kernel.k_step)
    whole = _norm(memory_s, _waves(tiles / sms, kernel.idle) * steps * step_s)
    if not kernel.splits:
        return whole
    splits = launch.splits(tiles, sms)
    part = _norm(memory_s, _waves(tiles * splits / sms, kernel.idle) * ceil_div(steps, splits) * step_s)
    sums_s = 4.0 * launch.m * launch.n * splits / (constants.get("l2_ratio", 1.0) * gpu.hbm_bytes_per_s)
    return least(whole, choose(splits > 1.0, part + constants["split_s"] + sums_s, math.inf))


def _quantise_s(launch: Gemm, gpu: Gpu, constants: Mapping[str, float], kernel: Kernel) -> Any:
    """The kernels in front of the product; none for bf16."""
    if not kernel.quantise_bytes or launch.arrives_quantised:
        return 0.0
    moved_s = kernel.quantise_bytes * launch.m * launch.k / (constants["store_ratio"] * gpu.hbm_bytes_per_s)
    if kernel.row_chunk:
        moved_s = most(moved_s, constants.get("fp8_row_s", 0.0) * launch.quantise_rows(kernel.row_chunk))
    return _own(constants, launch.kind, "quantise_s") + moved_s


def _own(constants: Mapping[str, float], kind: str, name: str) -> float:
    """A kind's own constant; that of the nearest kind measured where there is none, and for a start launch_s."""
    for nearest in (kind, *NEAREST[kind]):
        if f"{nearest}_{name}" in constants:
            return constants[f"{nearest}_{name}"]
    return constants["launch_s"]


def _waves(filled: Any, idle: float) -> Any:
    """Waves that count: at least one, and `idle` of the places the last one leaves empty."""
    return most(filled + idle * (ceil_div(filled, 1.0) - filled), 1.0)


def _norm(first: Any, second: Any) -> Any:
    """√(first² + second²) by Newton's steps, because a power rounds differently for a number and for an array."""
    square = first * first + second * second
    root = most(first, second) + 0.4 * least(first, second)
    for _ in range(4):
        root = 0.5 * (root + square / root)
    return root


def _peak(launch: Gemm, gpu: Gpu) -> float:
    return float(gpu.peak(launch.operand).flops_per_s)


GEMM = Family("gemm", CONSTANTS, price, floor)
