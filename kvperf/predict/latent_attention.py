"""The time of decode attention over a latent KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import choose, least, most
from kvperf.dtypes import dtype, operand
from kvperf.launches.latent_attention import LATENT, QUERY_ROWS, ROW, LatentAttention, kernel_of, plan, scratch_bytes
from kvperf.predict.family import Constant, Family
from kvperf.predict.joining import joined

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

# A cache that is replayed stays in L2 up to three quarters of it; one larger than L2 evicts itself before its reuse.
RESIDENT = 0.75

CONSTANTS = (
    Constant("launch_s", "start of the op: rotary and cache-write kernel, first loads, stores", 1.1e-5, 1e-6, 4e-5),
    Constant("hbm_efficiency", "share of the HBM peak that the cache streams at", 0.9, 0.3, 1.0),
    Constant("cache_bytes_per_s", "rate of L2: keys of each query tile, queries, partials", 6e12, 5e11, 1e14, 1e20),
    Constant("tensor_efficiency", "share of an SM's dense matrix peak on 64-row tiles", 0.6, 0.1, 1.0),
    Constant("sequence_s", "a CTA's change to its next sequence: queries in, outputs out", 4e-6, 1e-8, 2e-5, 0.0),
    Constant("combine_s", "joining the partial results of split sequences", 2e-6, 1e-8, 2e-5, 0.0),
    Constant("split_s", "each further partial result that one sequence has to join", 5e-8, 1e-10, 1e-6, 0.0),
)


def unused(stack: str, architecture: str) -> tuple[str, ...]:
    """Constants to hold at their neutral value. FA3 joins in a kernel of its own, whose start outweighs the number of
    partials; FlashMLA and trtllm_gen join in the same kernel or one that starts early, and the number counts."""
    return ("split_s",) if kernel_of(stack, architecture) == "fa3" else ("combine_s",)


def price(launch: LatentAttention, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """launch + combine + scratch/L2 + (HBM, L2 and tensor time of the keys, joined), in seconds."""
    cut = plan(launch, gpu)
    cache_rate = constants["cache_bytes_per_s"]
    hbm_s = _hbm_bytes(launch, gpu) / (constants["hbm_efficiency"] * gpu.hbm_bytes_per_s)
    l2_s = launch.kv_bytes * cut.kv_reads / cache_rate
    sm_flops_per_s = constants["tensor_efficiency"] * _peak(launch, gpu) / (gpu.sms or 1)
    cta_s = 2.0 * QUERY_ROWS * (ROW + LATENT) * cut.cta_keys / sm_flops_per_s
    cta_s = cta_s + (cut.sequences - 1) * constants["sequence_s"]
    join_s = choose(cut.splits > 1, constants["combine_s"] + constants["split_s"] * cut.splits, 0.0)
    keys_s = joined(hbm_s, l2_s, cta_s, sharpness=4)
    return constants["launch_s"] + join_s + scratch_bytes(launch, cut) / cache_rate + keys_s


def floor(launch: LatentAttention, gpu: Gpu) -> Any:
    """FLOPs at the dense peak; bytes at the HBM peak, but for what a replayed call can find in L2."""
    flops_s = launch.flops / _peak(launch, gpu)
    from_hbm = most(0.0, launch.bytes - gpu.l2_capacity_bytes) if launch.warm else launch.bytes
    return most(flops_s, from_hbm / gpu.hbm_bytes_per_s)


def _hbm_bytes(launch: LatentAttention, gpu: Gpu) -> Any:
    if not launch.warm:
        return launch.kv_bytes
    over = (launch.kv_bytes / gpu.l2_capacity_bytes - RESIDENT) / (1 - RESIDENT)
    return launch.kv_bytes * least(1.0, most(0.0, over))


def _peak(launch: LatentAttention, gpu: Gpu) -> float:
    """An fp8 cache is multiplied as fp8 where the GPU can; bf16 else."""
    cache = dtype(launch.kv)
    return float(gpu.peak(operand(cache, cache)).flops_per_s)


LATENT_ATTENTION = Family("latent_attention", CONSTANTS, price, floor)
