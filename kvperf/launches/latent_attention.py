"""Decode attention over a latent KV cache (MLA), as a stack launches it.

Absorbed form: every query head attends to the one latent row of a key (512 numbers, its value too) and to one
rotary row (64 numbers), so the cache is read once for all heads of the rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kvperf.arith import ceil_div, choose, floor, least, most
from kvperf.dtypes import dtype

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

Kernel = Literal["flash_mla", "fa3", "trtllm_gen"]
LATENT = 512  # numbers of a key's latent row, which is its value too
ROTARY = 64
ROW = LATENT + ROTARY
KEY_BLOCK = 64  # keys that one step of FlashMLA and of FA3 (value width 512) takes
QUERY_ROWS = 64  # query rows of one tile: a WGMMA has no fewer, and Blackwell's MMA gains nothing from fewer


class LatentAttention(msgspec.Struct, frozen=True):
    """One query step of `batch` sequences of `context` keys each (the new token counted), `heads` heads on this rank.

    kv      format of the cache
    kernel  flash_mla (TensorRT-LLM on Hopper), fa3 (SGLang and vLLM on Hopper), trtllm_gen (Blackwell)
    warm    True: the call before read the same cache, as in a benchmark that replays one call
    """

    heads: Any
    batch: Any
    context: Any
    kv: str = "bf16"
    kernel: Kernel = "flash_mla"
    warm: bool = False

    @property
    def flops(self) -> Any:
        """Both products of every head and key: 2*heads*(576 + 512)."""
        return 2.0 * self.heads * (ROW + LATENT) * self.batch * self.context

    @property
    def kv_bytes(self) -> Any:
        """The cache of all sequences, once."""
        return dtype(self.kv).element_bytes * ROW * self.batch * self.context

    @property
    def activation_bytes(self) -> Any:
        """Queries in and outputs out, bf16."""
        return 2.0 * self.heads * self.batch * (ROW + LATENT)

    @property
    def bytes(self) -> Any:
        return self.kv_bytes + self.activation_bytes


class Plan(msgspec.Struct, frozen=True):
    """How the kernel cuts a launch.

    splits     CTAs (or pairs) that share one sequence; more than one leaves partial results to combine
    cta_keys   keys that the busiest CTA goes through, in whole blocks
    sequences  sequences that the busiest CTA works on, one after the other
    kv_reads   how often a key is read from L2: once by each tile of query rows
    """

    splits: Any
    cta_keys: Any
    sequences: Any
    kv_reads: Any


def kernel_of(stack: str, architecture: str) -> Kernel:
    """What a stack runs for bf16 decode: the tables' `kernel_source` and the stacks' defaults."""
    if architecture in ("sm_100", "sm_103"):
        return "trtllm_gen"
    return "flash_mla" if stack == "trtllm" else "fa3"


def plan(launch: LatentAttention, gpu: Gpu) -> Plan:
    if launch.kernel == "trtllm_gen":
        return _plan_trtllm_gen(launch, gpu)
    return _plan_balanced(launch, gpu)


def scratch_bytes(launch: LatentAttention, plan: Plan) -> Any:
    """What goes through L2 beside the cache: queries rotated and packed by a kernel of their own, then read; outputs;
    and where sequences are split, fp32 partial outputs written and read again."""
    packed = 2.0 * launch.heads * launch.batch * (3 * ROW + LATENT)
    partial = 8.0 * launch.heads * launch.batch * LATENT * plan.splits
    return packed + choose(plan.splits > 1, partial, 0.0)


def _plan_balanced(launch: LatentAttention, gpu: Gpu) -> Plan:
    """FlashMLA's `get_mla_metadata` and FA3's `prepare_varlen_num_blocks`: all blocks of all sequences are dealt out
    evenly over the SMs of a query tile. FA3 leaves a sequence whole up to 4 blocks of its table, which is one longer
    than a context that ends on a block."""
    tiles = ceil_div(launch.heads, QUERY_ROWS)
    lanes = floor(gpu.sms / tiles)
    blocks = ceil_div(launch.context, KEY_BLOCK)
    dealt = ceil_div(launch.batch * blocks, lanes)
    splits = ceil_div(blocks, dealt)
    sequences = ceil_div(launch.batch, lanes)
    if launch.kernel == "fa3":
        splits = choose(blocks < 4, 1.0, splits)
    cta_blocks = choose(splits > 1, dealt, sequences * blocks)
    return Plan(splits, cta_blocks * KEY_BLOCK, sequences, tiles)


def _plan_trtllm_gen(launch: LatentAttention, gpu: Gpu) -> Plan:
    """`selectMlaGenerationKernel` of TensorRT-LLM's fmhaKernels.h: 16-row CTAs (which each read all keys of their
    sequence) up to 32 heads, and for more heads while they fit the GPU and get at most 1024 keys each; else CTAs of
    64 rows, two together at 128 heads. A sequence is cut into steps of 256 keys while SMs are left."""
    steps = ceil_div(launch.context, 256)
    narrow_tiles = ceil_div(launch.heads, 16)
    narrow = launch.batch * narrow_tiles
    narrow_splits = least(steps, most(1.0, floor(gpu.sms / narrow)))
    short = ceil_div(launch.context, narrow_splits) <= 1024
    is_narrow = (launch.heads <= 32) | (short & (narrow <= gpu.sms))
    wide_ctas = launch.batch * choose(launch.heads > QUERY_ROWS, 2.0, 1.0)
    wide_splits = least(steps, most(1.0, floor(gpu.sms / wide_ctas)))
    splits = choose(is_narrow, narrow_splits, wide_splits)
    waves = ceil_div(choose(is_narrow, narrow, wide_ctas) * splits, gpu.sms)
    keys = ceil_div(launch.context / splits, 128) * 128
    return Plan(splits, waves * keys, waves, choose(is_narrow, narrow_tiles, 1.0))
