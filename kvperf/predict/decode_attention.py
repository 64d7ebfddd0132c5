"""The time of decode attention through a paged KV cache.

    T = start + copies + merge + cold·miss + ‖ ‖memory, steps‖₃, tiles ‖₁.₂        ‖a, b‖ₚ = (aᵖ + bᵖ)^(1/p)

memory: cache, queries, outputs and partial results over the HBM (what misses the L2) and the L2 (what hits it).
steps:  the busiest SM's MMA tiles, padding included, for every block of KV. Its loads run ahead of them: nearly the
        larger of the two counts.
tiles:  the starts and the outputs of its CTAs, round after round, and their search for the next tile. They hardly
        overlap with anything but other SMs' loads: nearly added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import choose, least, most, power
from kvperf.launches.decode_attention import DecodeAttention, DecodePlan, plan
from kvperf.predict import decode_attention_xqa
from kvperf.predict.decode_attention_xqa import norm
from kvperf.predict.family import Constant, Family

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

L2_EDGE = 8  # how sharply reuse ends where the bytes pass the L2's share: cyclic reading loses nearly all of it at once
STREAMED = 3.0  # memory and MMA steps of one pipeline
DISTURBED = 1.2  # a pipeline and the starts of CTAs between
SEARCHED_AT_ONCE = 31  # sequences a warp of FA3's tile scheduler looks at together
CONSTANTS = (
    Constant(
        "start_s", "launches of the op (KV write, metadata, attention), first loads, last stores", 7e-6, 1e-6, 3e-5
    ),
    Constant("fp8_start_s", "more of it where queries are cast for an fp8 cache", 2e-6, 1e-8, 1e-5, 0.0),
    Constant(
        "copies_s", "the stack's own copy kernels around the attention, where layouts differ", 5e-6, 1e-8, 2e-5, 0.0
    ),
    Constant("merge_s", "merging splits: its launch and the wait for it", 2e-6, 1e-8, 2e-5, 0.0),
    Constant("merge_each_s", "merging splits: the loop over them, per split", 6e-8, 1e-10, 1e-6, 0.0),
    Constant("merge_wave_s", "one CTA per SM of a merge kernel launched in any case", 6e-7, 1e-9, 1e-5, 0.0),
    Constant("tile_s", "one CTA's start: its queries, its first keys", 1e-6, 1e-8, 2e-5, 0.0),
    Constant(
        "fp8_tile_s", "one CTA's start, of the kernel that a stack runs for fp8 caches only", 1e-6, 1e-8, 2e-5, 0.0
    ),
    Constant("output_s", "one CTA's output, for a head of 128 elements", 1.2e-6, 1e-9, 2e-5, 0.0),
    Constant("search_s", "a persistent CTA looking through 31 sequences for its tile", 3e-7, 1e-9, 1e-5, 0.0),
    Constant(
        "bf16_mma_efficiency", "share of its SM's dense peak that one CTA's padded steps reach", 0.6, 0.02, 1.0, 1.0
    ),
    Constant("fp8_mma_efficiency", "the same for an fp8 cache (values are transposed on the way)", 0.3, 0.01, 1.0, 1.0),
    Constant("hbm_efficiency", "share of the HBM peak that the cache streams at", 0.94, 0.4, 1.0, 1.0),
    Constant(
        "cold_s",
        "first loads from HBM and the last CTA's tail, where the cache is not in the L2",
        4e-6,
        1e-9,
        6e-5,
        0.0,
    ),
    Constant("l2_speedup", "how much faster than the HBM a cache in the L2 is read", 1.7, 1.0, 10.0, 1.0),
    Constant("l2_share", "share of the L2 that keeps data for the next call", 0.75, 0.3, 1.5),
    *decode_attention_xqa.CONSTANTS,
)
_XQA = tuple(constant.name for constant in decode_attention_xqa.CONSTANTS)
_NOT_XQA = (
    *("fp8_start_s", "copies_s", "merge_each_s", "merge_wave_s", "tile_s", "fp8_tile_s", "search_s"),
    *("bf16_mma_efficiency", "fp8_mma_efficiency"),
)
# Kernels that neither search a batch for their tile nor launch a merge in any case.
_ONE_SHOT = (*_XQA, "search_s", "merge_wave_s")


def own_fp8_kernel(stack: str, gpu: Gpu) -> bool:
    """vLLM on Ada and RTX Blackwell: FlashAttention-2 for bf16 caches, FlashInfer for fp8.

    In a captured graph FlashInfer's merge runs in any case: it is part of what fp8 takes longer to start.
    """
    return stack == "vllm" and gpu.architecture.name in ("sm_89", "sm_120")


def held(stack: str, gpu: Gpu) -> tuple[str, ...]:
    """Constants held at their neutral value: the kernels do not have the mechanism, or it buys under 0.3 points.

    At most 13 are left.
    """
    architecture = gpu.architecture.name
    if architecture in ("sm_100", "sm_103"):
        return (*_ONE_SHOT, "fp8_tile_s", "copies_s", "merge_s", "hbm_efficiency")
    if stack == "trtllm":
        if architecture == "sm_90":  # there the fp8 cache streams as fast as the bf16 one
            return (*_NOT_XQA, "l2_speedup", "fp8_xqa_tile_s", "fp8_xqa_sm_bytes_per_s")
        return (*_NOT_XQA, "wgmma_earlier_s")
    if architecture == "sm_90" and stack == "sglang":
        return (*_XQA, "fp8_tile_s", "merge_s", "merge_wave_s", "tile_s", "hbm_efficiency")
    if architecture == "sm_90":
        return (*_XQA, "fp8_tile_s", "merge_each_s", "copies_s")
    if architecture == "sm_80":  # one cache format and one head size were measured
        copies = ("copies_s",) if stack == "sglang" else ()
        one = ("fp8_start_s", "fp8_tile_s", "fp8_mma_efficiency", "output_s", "l2_speedup")
        return (*_ONE_SHOT, *one, *copies)
    return (*_ONE_SHOT, "output_s") if stack == "vllm" else (*_ONE_SHOT, "output_s", "fp8_tile_s", "copies_s")


def price(launch: DecodeAttention | DecodePlan, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Seconds; the formula above. A launch already planned for this GPU is taken as it is."""
    plan_ = launch if isinstance(launch, DecodePlan) else plan(launch, gpu)
    launch, c = plan_.launch, constants
    copies = c["copies_s"] * plan_.copies + (c["fp8_start_s"] if launch.fp8 else 0.0)
    own_kernel = launch.fp8 and own_fp8_kernel(launch.stack, gpu)
    merging = 0.0 if own_kernel else choose(plan_.split, c["merge_s"] + c["merge_each_s"] * plan_.splits, 0.0)
    merging = merging + c["merge_wave_s"] * plan_.combine_ctas / gpu.sms
    hit = _l2_hit(plan_, gpu, c["l2_share"])
    start_s = c["start_s"] + copies + merging + c["cold_s"] * (1.0 - hit) * _streamed(plan_, gpu)
    memory_s = _memory_s(plan_, gpu, c, hit)
    if decode_attention_xqa.runs(launch.stack, gpu):
        return start_s + decode_attention_xqa.more_start_s(plan_, c) + decode_attention_xqa.body_s(plan_, c, memory_s)
    tile_s = c["fp8_tile_s"] if own_kernel else c["tile_s"]
    outputs_s = c["output_s"] * plan_.outputs * launch.values / 128.0
    tiles_s = plan_.waves * (tile_s + outputs_s) + c["search_s"] * plan_.searched / SEARCHED_AT_ONCE
    return start_s + norm(norm(memory_s, _steps_s(plan_, gpu, c), STREAMED), tiles_s, DISTURBED)


def _streamed(plan_: DecodePlan, gpu: Gpu) -> Any:
    """How far the cache is one that streams through the L2: the tail grows with it up to the L2's size."""
    return least(_moved(plan_) / float(gpu.l2_capacity_bytes or 1), 1.0)


def _l2_hit(plan_: DecodePlan, gpu: Gpu, share: float) -> Any:
    """Part of the bytes that the call before left in the L2: none in a cold step."""
    if not plan_.launch.warm:
        return 0.0
    room = share * float(gpu.l2_capacity_bytes or 1)
    return 1.0 / (1.0 + power(_moved(plan_) / room, L2_EDGE))


def _memory_s(plan_: DecodePlan, gpu: Gpu, constants: Mapping[str, float], hit: Any) -> Any:
    """Bytes that miss the L2 at the HBM's rate, the others faster."""
    rate = constants["hbm_efficiency"] * gpu.hbm_bytes_per_s
    return _moved(plan_) * ((1.0 - hit) + hit / constants["l2_speedup"]) / rate


def floor(launch: DecodeAttention | DecodePlan, gpu: Gpu) -> Any:
    """The least any kernel needs: FLOPs at the dense peak; all bytes from HBM, or, warm, those the L2 cannot hold."""
    launch = launch.launch if isinstance(launch, DecodePlan) else launch
    compute_s = launch.flops / gpu.peak("fp8" if launch.fp8 else "bf16").flops_per_s
    if not launch.warm:
        return most(launch.bytes / gpu.hbm_bytes_per_s, compute_s)
    hbm_s = most(0.0, launch.bytes - float(gpu.l2_capacity_bytes or 0)) / gpu.hbm_bytes_per_s
    l2_s = launch.bytes / gpu.l2_bytes_per_s if gpu.l2_bytes_per_s else 0.0
    return most(most(hbm_s, l2_s), compute_s)


def _moved(plan_: DecodePlan) -> Any:
    return plan_.launch.bytes + plan_.partial_bytes


def _steps_s(plan_: DecodePlan, gpu: Gpu, c: Mapping[str, float]) -> Any:
    """MMA steps of the SM with the most rounds of CTAs."""
    launch = plan_.launch
    operand = "fp8" if launch.fp8 else "bf16"
    flops_per_s = c[f"{operand}_mma_efficiency"] * gpu.peak(operand).flops_per_s / (gpu.sms or 1)
    padded = 2.0 * plan_.rows * plan_.block_tokens * (launch.head_dim + launch.values)
    return plan_.waves * plan_.blocks * padded / flops_per_s


DECODE_ATTENTION = Family("decode_attention", CONSTANTS, price, floor)
