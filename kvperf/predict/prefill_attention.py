"""The time of causal attention over new tokens.

    T = launch_s + helpers × helper_s + blocks/SMs × write_s + bytes/(hbm·BW) + tensor
    tensor = most(waves × mean tile, longest tile)               longest tiles first
           = waves × mean tile + (longest tile - mean tile)      in the order of the prompt
    tile = tile_s + rows × columns × √((4·head_dim/(tensor·peak/SM))² + (softmax/(exponentials/SM))²)

A causal tile near the end of a prompt is twice the mean one, and few prompts do not fill the SMs: the longest tile then
decides. The arms add because a block loads its queries before, and stores its outputs after, its products. The cache
write is a kernel of its own with a block for every token: short blocks, whose time goes with their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import ceil_div, choose, most
from kvperf.launches.prefill_attention import PrefillAttention
from kvperf.predict.family import Constant, Family

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

GDDR = ("sm_86", "sm_89", "sm_120")  # architectures beside GDDR memory, several times slower than their L2
COMBINE = 2.0  # tiles' starts that the kernel takes which combines the splits: its own start, and one tile of its own
SHARED = (
    Constant("launch_s", "start of the kernels: cache write, schedule, attention", 1e-5, 1e-6, 1e-4),
    Constant("hbm_efficiency", "share of the HBM peak for queries, outputs and the cache write", 0.7, 0.1, 1.0),
    Constant("tile_s", "start and end of one query tile", 2e-6, 1e-8, 3e-5, neutral=0.0),
    Constant(
        "softmax_cost", "exponentials' time of one score, as a multiple of the unit's", 1.0, 1e-3, 5.0, neutral=0.0
    ),
    Constant("bf16_tensor_efficiency", "share of the dense 16-bit peak inside a tile", 0.8, 0.1, 1.0),
    Constant("write_s", "one token's block of the cache write, a share of an SM", 5e-8, 1e-10, 1e-6, neutral=0.0),
)
FP8 = (Constant("fp8_tensor_efficiency", "share of the dense fp8 peak inside a tile", 0.5, 0.1, 1.0),)
HELPER = (
    Constant("helper_s", "a kernel more, where queries or cache entries need one", 2e-6, 1e-9, 2e-5, neutral=0.0),
)
CONSTANTS = SHARED + FP8 + HELPER


def price(launch: PrefillAttention, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Seconds; the formula is at the head of this file."""
    kernel = launch.kernel(gpu.architecture.name)
    sms = gpu.sms or 1
    tile_s, column_s = constants["tile_s"], launch.tile_rows(kernel) * _score_s(launch, gpu, constants) * sms
    (mean, whole), longest = launch.tile_columns(kernel), launch.longest_piece(kernel, sms)
    filled = launch.tiles(kernel) / sms
    waves = filled + kernel.idle * (ceil_div(filled, 1.0) - filled)
    if kernel.ordered:
        tensor_s = waves * (tile_s + mean * column_s) + (longest - mean) * column_s
    else:
        tensor_s = most(waves * (tile_s + mean * column_s), tile_s + longest * column_s)
        tensor_s = tensor_s + choose(longest < whole, COMBINE * tile_s, 0.0)
    write_s = constants.get("write_s", 0.0) * launch.token_blocks() / sms
    start_s = constants["launch_s"] + constants.get("helper_s", 0.0) * launch.helpers(gpu.architecture.name)
    return start_s + write_s + _memory_s(launch, gpu, constants) + tensor_s


def floor(launch: PrefillAttention, gpu: Gpu) -> Any:
    """The roofline at the launch's cache state, with the FLOPs of the keys that are seen."""
    tensor_s = launch.flops / _peak(launch, gpu)
    if not launch.warm:
        return most(launch.bytes / gpu.hbm_bytes_per_s, tensor_s)
    missed = most(launch.bytes - (gpu.l2_capacity_bytes or 0), 0.0)
    return most(missed / gpu.hbm_bytes_per_s, tensor_s)


def family(kv_dtype: str, known: Mapping[str, float] | None = None, helped: bool = True) -> Family:
    """The family of one cache format: bf16's constants are fitted first, then fp8's own with those held.

    helped  whether the rows launch helpers: helper_s is free then, in fp8 again, as some stacks need one for fp8 alone
    """
    held = dict(known or {})
    if helped:
        held.pop("helper_s", None)
    else:
        held.setdefault("helper_s", 0.0)
    free = tuple(c for c in SHARED + (FP8 if kv_dtype == "fp8" else ()) + HELPER if c.name not in held)
    name = f"prefill_attention {kv_dtype}"
    return Family(name, free, lambda launch, gpu, constants: price(launch, gpu, {**held, **constants}), floor)


def _score_s(launch: PrefillAttention, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Seconds of one query-key pair on the whole GPU: its products and its exponential, partly overlapped."""
    efficiency = constants.get(f"{launch.operand}_tensor_efficiency", constants["bf16_tensor_efficiency"])
    products_s = 4.0 * launch.head_dim / (efficiency * _peak(launch, gpu))
    exponential_s = constants["softmax_cost"] / (gpu.exponentials_per_s or math.inf)
    square = products_s * products_s + exponential_s * exponential_s
    root = products_s + exponential_s
    for _ in range(4):  # Newton's square root: a power rounds differently for a number and for an array
        root = 0.5 * (root + square / root)
    return choose(launch.unspecialised(gpu.architecture.name), products_s + exponential_s, root)


def _memory_s(launch: PrefillAttention, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Seconds of queries, outputs, keys and values.

    Where memory is GDDR, what a warm L2 holds takes none. Beside HBM the tables show no gain from it: these kernels get
    no more from L2 than from HBM.
    """
    moved = launch.query_bytes + launch.kv_bytes
    if launch.warm and gpu.architecture.name in GDDR:
        moved = most(moved - (gpu.l2_capacity_bytes or 0), 0.0)
    return moved / (constants["hbm_efficiency"] * gpu.hbm_bytes_per_s)


def _peak(launch: PrefillAttention, gpu: Gpu) -> float:
    return float(gpu.peak(launch.operand).flops_per_s)


PREFILL_ATTENTION = Family("prefill_attention", CONSTANTS, price, floor)
