"""What the busiest SM needs for TensorRT-LLM's decode attention before Blackwell: MMHA, XQA, XQA for fp8.

Each kernel has the start of a CTA, and MMHA and fp8's XQA a rate at which KV passes one SM (XQA's was not told from the
HBM's); MMHA reads a group's KV once per query head. XQA's output grows with its padded query rows and the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import choose, power
from kvperf.launches.decode_attention import FP8_XQA, MMHA, XQA, DecodePlan
from kvperf.predict.family import Constant

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

CONSTANTS = (
    Constant(
        "wgmma_earlier_s",
        "the op without a kernel of its own for rotary and KV write (heads above 64)",
        2e-6,
        1e-9,
        6e-6,
        0.0,
    ),
    Constant(
        "mmha_tile_s", "MMHA: one CTA (a query head), spread over those that share its SM", 1.2e-6, 1e-8, 2e-5, 0.0
    ),
    Constant("xqa_tile_s", "XQA: one CTA (a KV head), spread over those that share its SM", 3.5e-6, 1e-8, 2e-5, 0.0),
    Constant("fp8_xqa_tile_s", "XQA for an fp8 cache: the same", 6e-7, 1e-9, 2e-5, 0.0),
    Constant("mmha_sm_bytes_per_s", "MMHA: KV through one SM, again for every query head", 5e10, 1e9, 1e13, 1e13),
    Constant("fp8_xqa_sm_bytes_per_s", "XQA for an fp8 cache: KV through one SM", 1.3e11, 1e9, 1e13, 1e13),
)


def runs(stack: str, gpu: Gpu) -> bool:
    """Whether the stack runs these kernels on this GPU."""
    return stack == "trtllm" and gpu.architecture.name not in ("sm_100", "sm_103")


def more_start_s(plan: DecodePlan, c: Mapping[str, float]) -> Any:
    """What the start of the op differs by, for the kernel."""
    fused = (plan.kind == FP8_XQA) & (plan.launch.head_dim > 64)
    return choose(fused, -c["wgmma_earlier_s"], 0.0)


def norm(first: Any, second: Any, exponent: float) -> Any:
    """1: one after the other; infinity: fully at once."""
    return power(power(first, exponent) + power(second, exponent), 1.0 / exponent)


def body_s(plan: DecodePlan, c: Mapping[str, float], memory_s: Any) -> Any:
    """The memory, disturbed by rounds of CTAs, each with its start, its piece of the KV and its output."""
    launch = plan.launch

    def of_kind(mmha: float, xqa: float, fp8_xqa: float) -> Any:
        return choose(plan.kind == XQA, xqa, choose(plan.kind == FP8_XQA, fp8_xqa, mmha))

    tile_s = of_kind(c["mmha_tile_s"], c["xqa_tile_s"], c["fp8_xqa_tile_s"])
    s_per_byte = of_kind(1.0 / c["mmha_sm_bytes_per_s"], 0.0, 1.0 / c["fp8_xqa_sm_bytes_per_s"])
    output_s = choose(plan.kind == MMHA, 0.0, c["output_s"] * plan.rows / 8.0 * launch.values / 128.0)
    cta_s = plan.waves * (tile_s + output_s + plan.blocks * launch.token_bytes * s_per_byte)
    return norm(memory_s, cta_s, 2.0)
