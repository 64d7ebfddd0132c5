"""Tiles, splits and waves of the public decode-attention kernels."""

from __future__ import annotations

from typing import Any

from kvperf.arith import ceil_div, choose, floor, least, most
from kvperf.launches.decode_attention import FP8_XQA, MMHA, XQA, DecodeAttention, DecodePlan
from kvperf.launches.splits import (
    even_splits,
    fa2_splits,
    fa3_most_splits,
    fa3_splits,
    tabulated,
    xqa_fills,
    xqa_splits,
)

# vLLM: splits it allows while a CUDA graph is captured, for batches up to the largest captured one.
VLLM_GRAPH_SPLITS = 32
VLLM_GRAPH_BATCH = 512


def fa3(launch: DecodeAttention, sms: int) -> DecodePlan:
    """FlashAttention-3 on Hopper: persistent CTAs, splits made on the GPU (prepare_varlen_num_blocks).

    Tiles of hopper/tile_size.h for a paged cache without TMA. vLLM's fork takes 64 query rows (one warp group) where a
    group has no more and the head 64 or 128 elements. A CTA finds its next tile by walking through the batch 31
    sequences at a time.
    """
    vllm = launch.stack == "vllm"
    dim, group, context = launch.head_dim, launch.group, launch.context
    before = choose(launch.window > 0, launch.window - (1 if vllm else 0), context)  # window_size_left
    local = (launch.window > 0) & (before < context - 1)
    one_group = vllm & (group <= 64) & ((dim == 128) | ((dim <= 64) & (local == 0)))
    rows = choose(one_group, 64, choose(dim <= 64, 192, 128))
    bf16_tokens = _by_dim(dim, choose(one_group, 192, 160), 128, 96, choose(local, 64, 80))
    fp8_tokens = _by_dim(dim, 160, choose(one_group, 96, 160), choose(local, 128, 160), choose(local, 64, 128))
    block = fp8_tokens if launch.fp8 else bf16_tokens
    all_blocks = ceil_div(context, block)
    read = all_blocks - choose(local, floor(most(context - 1 - before, 0) / block), 0)
    loaded = choose(local, least(context, before + 1 + rows), context)
    heads = launch.kv_heads * ceil_div(group, rows)
    most_splits = tabulated(fa3_most_splits, heads, sms, ceil_div(loaded, block))
    if vllm:
        most_splits = choose(launch.batch <= VLLM_GRAPH_BATCH, VLLM_GRAPH_SPLITS, most_splits)
    splits = fa3_splits(launch.batch, heads, all_blocks, most_splits, sms)
    blocks = ceil_div(read, splits)
    ctas = launch.batch * heads * ceil_div(read, blocks)
    merge = choose(dim <= 64, ceil_div(launch.heads, 16), ceil_div(launch.heads, 8) * ceil_div(dim, 128))
    return DecodePlan(
        launch=launch,
        kind=0,
        splits=splits,
        ctas=ctas,
        waves=ceil_div(ctas, sms),
        rows=rows,
        block_tokens=block,
        blocks=blocks,
        combine_ctas=choose(most_splits > 1, launch.batch * merge, 0),
        searched=launch.batch,
        copies=choose(launch.values == dim, 0, 1),
    )


def fa3_ampere(launch: DecodeAttention, sms: int) -> DecodePlan:
    """FlashAttention-3's Ampere build: its splits, tiles of 128 rows by 112 tokens at a head of 128, one CTA an SM."""
    block = _by_dim(launch.head_dim, 80, 112, 64, 48)
    read = ceil_div(launch.tokens, block)
    heads = launch.kv_heads * ceil_div(launch.group, 128)
    most_splits = tabulated(fa3_most_splits, heads, sms, read)
    splits = fa3_splits(launch.batch, heads, read, most_splits, sms)
    return _simple(launch, splits, launch.batch * heads, read, rows=128, block=block, slots=sms)


def fa2(launch: DecodeAttention, sms: int, shared_bytes: int) -> DecodePlan:
    """FlashAttention-2 with a paged cache (csrc/flash_attn): 64 rows by 256, 128 or 64 tokens.

    Only grouped queries without a window are laid out as rows of one tile and split; otherwise each query head is a
    tile of its own. The new layout is copied, and the output copied back, where neither batch nor KV heads are one.
    """
    swapped = (launch.group > 1) & (launch.window == 0)
    block = _by_dim(launch.head_dim, 256, 128, 64, 64)
    heads = choose(swapped, launch.kv_heads, launch.heads)
    context, tokens = launch.context, launch.tokens
    read = ceil_div(context, block) - floor((context - tokens) / block)
    found = tabulated(fa2_splits, launch.batch * heads, 2 * sms, read)
    splits = choose(swapped, found, 1)
    per_sm = most(1, floor(shared_bytes / (2 * launch.head_dim * (64 + 2 * block) + 1024)))
    copies = choose(swapped & (launch.batch > 1) & (launch.kv_heads > 1), 1, 0)
    return _simple(launch, splits, launch.batch * heads, read, 64, block, slots=sms * per_sm, copies=copies)


def trtllm_gen(launch: DecodeAttention, sms: int) -> DecodePlan:
    """TensorRT-LLM's Blackwell generation kernels: 128 KV tokens a step, at least two steps a CTA.

    KV fills the 128 rows of an MMA, queries are its 8, 16, 32 or 64 columns: a step reads the same operands from shared
    memory whatever their number and takes as long as with 64; what is written grows with them. All three stacks run
    them (vLLM and SGLang through FlashInfer). TensorRT-LLM does not group more than 32 heads: each is a tile then.
    """
    group = launch.group
    if launch.stack == "trtllm":
        group = choose(group <= 32, group, 1)
    columns = choose(group <= 8, 8, choose(group <= 16, 16, choose(group <= 32, 32, 64)))
    tiles = launch.batch * (launch.heads // group) * ceil_div(group, 64)
    splits = even_splits(tiles, ceil_div(launch.tokens, 256), sms)
    read = ceil_div(launch.tokens, 128)
    return _simple(launch, splits, tiles, read, rows=64, block=128, slots=sms, outputs=columns / 8)


def flashinfer(launch: DecodeAttention, sms: int) -> DecodePlan:
    """FlashInfer's own kernels: 16 query rows, 64 where a group has more (FA2DetermineCtaTileQ), 64 KV tokens a step.

    Chunks are made as small as two CTAs an SM allow.
    """
    rows = choose(launch.group <= 16, 16, 64)
    tiles = launch.batch * launch.kv_heads * ceil_div(launch.group, rows)
    splits = even_splits(tiles, ceil_div(launch.tokens, 128), 2 * sms)
    return _simple(launch, splits, tiles, ceil_div(launch.tokens, 64), rows, 64, slots=2 * sms)


def xqa_or_mmha(launch: DecodeAttention, sms: int, architecture: str) -> DecodePlan:
    """TensorRT-LLM before Blackwell: XQA for groups of 2 to 32 once it fills the GPU, else masked attention (MMHA).

    MMHA runs one CTA per query head, with the group's KV read again by each. An fp8 cache always takes XQA kernels of
    its own: wgmma on Hopper; on Ada and RTX Blackwell one CTA per KV head, which is never split (their time does not
    depend on the batch up to one CTA an SM, and grows with the context from the first token).
    """
    group, history = launch.group, launch.context - 1
    grouped = (group > 1) & (group <= 32)
    tiles = launch.batch * launch.kv_heads
    xqa = grouped if launch.fp8 else grouped & xqa_fills(tiles, history, sms)
    kind = choose(xqa, FP8_XQA if launch.fp8 else XQA, MMHA)
    whole = launch.fp8 and architecture != "sm_90"
    pieces = 1 if whole else xqa_splits(tiles, history, sms)
    alone = launch.batch * launch.heads
    mmha_splits = most(1, least(ceil_div(launch.tokens, 128), ceil_div(2 * sms, alone)))
    splits = choose(xqa, pieces, mmha_splits)
    ctas = choose(xqa, tiles, alone) * splits
    padded = choose(group <= 8, 8, choose(group <= 16, 16, 32))
    return DecodePlan(
        launch=launch,
        kind=kind,
        splits=splits,
        ctas=ctas,
        waves=most(1.0, ctas / sms),  # several CTAs share an SM
        rows=choose(xqa, padded, 0),
        block_tokens=1,
        blocks=ceil_div(launch.tokens, splits),
    )


def _simple(
    launch: DecodeAttention,
    splits: Any,
    tiles: Any,
    read: Any,
    rows: Any,
    block: Any,
    slots: Any,
    copies: Any = 0,
    outputs: Any = 1,
) -> DecodePlan:
    """`tiles` of `read` blocks each, cut into splits of whole blocks, over `slots` CTAs at once."""
    blocks = ceil_div(read, splits)
    ctas = tiles * ceil_div(read, blocks)
    waves = ceil_div(ctas, slots)
    return DecodePlan(launch, 0, splits, ctas, waves, rows, block, blocks, outputs=outputs, copies=copies)


def _by_dim(dim: Any, to_64: Any, to_128: Any, to_192: Any, above: Any) -> Any:
    """One of four by the elements of a head."""
    return choose(dim <= 64, to_64, choose(dim <= 128, to_128, choose(dim <= 192, to_192, above)))
