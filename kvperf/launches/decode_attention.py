"""Decode attention as a stack launches it: one new token per sequence against its KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import choose, least
from kvperf.dtypes import dtype

if TYPE_CHECKING:
    from kvperf.hardware import Gpu


class DecodeAttention(msgspec.Struct, frozen=True):
    """`batch` sequences, each with one query token; every number may be an array over rows.

    heads, kv_heads   query heads and KV heads on this GPU; kv_heads divides heads
    head_dim          elements of a key;  value_dim: of a value (0: as many as a key)
    context           tokens attended to, the new one included
    window            tokens a sliding window keeps (0: all)
    kv                format of the cache, by name
    stack             "sglang", "vllm" or "trtllm"
    warm              the same cache was read by the call before, so that what fits the L2 lies there
    """

    batch: Any
    heads: Any
    kv_heads: Any
    head_dim: Any
    context: Any
    window: Any = 0
    kv: str = "bf16"
    stack: str = "vllm"
    warm: bool = False
    value_dim: Any = 0

    @property
    def group(self) -> Any:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def fp8(self) -> bool:
        """Whether the kernels take the cache, and with it the queries, as fp8."""
        return dtype(self.kv).element_bytes < 2

    @property
    def values(self) -> Any:
        """Elements of a value."""
        return choose(self.value_dim > 0, self.value_dim, self.head_dim)

    @property
    def tokens(self) -> Any:
        """Tokens of a sequence that are read."""
        return choose(self.window > 0, least(self.context, self.window), self.context)

    @property
    def token_bytes(self) -> Any:
        """Bytes of one token under one KV head."""
        return (self.head_dim + self.values) * dtype(self.kv).element_bytes

    @property
    def kv_bytes(self) -> Any:
        """Cache bytes that are read once."""
        return 1.0 * self.batch * self.kv_heads * self.tokens * self.token_bytes

    @property
    def bytes(self) -> Any:
        """The cache, bf16 queries and bf16 outputs, once each."""
        return self.kv_bytes + 2.0 * self.batch * self.heads * (self.head_dim + self.values)

    @property
    def flops(self) -> Any:
        """QKᵀ and PV."""
        return 2.0 * self.batch * self.heads * self.tokens * (self.head_dim + self.values)


MMHA, XQA, FP8_XQA = 0, 1, 2  # masked attention; XQA; XQA's own kernels for an fp8 cache


class DecodePlan(msgspec.Struct, frozen=True):
    """What a stack executes of a launch on one GPU. It does not depend on fitted constants.

    kind          0 where a stack has one kernel; TensorRT-LLM's: MMHA, XQA or FP8_XQA
    splits        pieces one sequence is cut into;  ctas: those with KV to read;  waves: rounds of CTAs over the slots
    rows          query rows of one MMA tile, padding included
    block_tokens  KV tokens of one step of a CTA's loop;  blocks: steps of the longest CTA
    combine_ctas  CTAs of the kernel that merges splits, where it is launched (also those that find nothing to do)
    searched      sequences that every persistent CTA walks through to find its next tile
    outputs       query rows whose results a CTA writes, in multiples of the smallest tile's
    copies        1 where the stack copies queries, outputs or the new KV in kernels of their own
    """

    launch: DecodeAttention
    kind: Any
    splits: Any
    ctas: Any
    waves: Any
    rows: Any
    block_tokens: Any
    blocks: Any
    combine_ctas: Any = 0
    searched: Any = 0
    outputs: Any = 1
    copies: Any = 0

    @property
    def split(self) -> Any:
        """Whether results of several CTAs are merged."""
        return self.splits > 1

    @property
    def partial_bytes(self) -> Any:
        """fp32 partial outputs, written by the CTAs and read by the merge."""
        launch = self.launch
        used = self.ctas / launch.batch / launch.kv_heads
        return choose(self.split, 8.0 * launch.batch * launch.heads * launch.values * used, 0.0)


def plan(launch: DecodeAttention, gpu: Gpu) -> DecodePlan:
    """The kernel that a stack chooses on this architecture, with its tiles and splits."""
    from kvperf.launches import decode_attention_plans as kernels

    architecture = gpu.architecture.name
    sms = int(gpu.sms or 1)
    if architecture in ("sm_100", "sm_103"):
        return kernels.trtllm_gen(launch, sms)
    if launch.stack == "trtllm":
        return kernels.xqa_or_mmha(launch, sms, architecture)
    if architecture == "sm_90":
        return kernels.fa3(launch, sms)
    if launch.stack == "sglang":
        return kernels.fa3_ampere(launch, sms) if architecture == "sm_80" else kernels.flashinfer(launch, sms)
    if launch.fp8:
        return kernels.flashinfer(launch, sms)
    return kernels.fa2(launch, sms, shared_bytes=(164 if architecture == "sm_80" else 100) * 1024)
