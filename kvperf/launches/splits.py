"""Into how many pieces decode-attention kernels cut a sequence: the public kernels' own rules.

Each rule is a pure function of whole numbers. Those that search are tabulated for arrays, so that one point and an
array of points get the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from kvperf.arith import ceil_div, choose, floor, least, most, power

FA3_MOST_SPLITS = 128  # get_num_splits passes it (hopper/flash_api.cpp)
FA3_PREPARED_BATCH = 992  # sequences one CTA of prepare_varlen_num_blocks covers; above it nothing is split
FA3_MARGIN = 1.1  # flash_prepare_scheduler.cu: "10% margin"
XQA_TOKENS_PER_BLOCK = 128  # kMinHistoryTokensPerBlock, decoderXQAConstants.h
XQA_WAVES = 8  # kTargetWaveFactor
XQA_MIN_BLOCK_FACTOR = 4  # kEnableMinBlockFactor


@cache
def fa3_most_splits(tiles: int, sms: int, blocks: int) -> int:
    """FlashAttention-3's num_splits_heuristic (Dao-AILab/flash-attention hopper/heuristics.h).

    tiles: CTAs without splitting; blocks: KV blocks of one sequence. One where the tiles fill 80 % of the SMs or there
    are four blocks at most; else the fewest splits that reach 85 % of the best wave efficiency.
    """
    if tiles >= 0.8 * sms or blocks <= 4:
        return 1
    efficiency = {n: _efficiency(tiles * n, sms) for n in range(1, min(FA3_MOST_SPLITS, sms, blocks) + 1)}
    return _fewest(efficiency)


def fa3_splits(batch: Any, heads: Any, blocks: Any, most_splits: Any, sms: int) -> Any:
    """What prepare_varlen_num_blocks makes of it on the GPU (hopper/flash_prepare_scheduler.cu).

    heads: KV heads × query tiles of one; blocks: KV blocks of one sequence, a window left aside.
    Every SM gets the same number of blocks plus 10 %; a sequence is cut into as many pieces as that makes of it.
    """
    share = ceil_div(batch * heads * blocks * FA3_MARGIN, sms)
    splits = most(least(ceil_div(blocks, share), most_splits), 1)
    return choose((most_splits == 1) | (batch > FA3_PREPARED_BATCH), 1, splits)


@cache
def fa2_splits(tiles: int, slots: int, blocks: int) -> int:
    """FlashAttention-2's num_splits_heuristic (csrc/flash_attn/flash_api.cpp); slots: 2 × SMs as it is called.

    As FlashAttention-3's, and a number that leaves the longest piece as long as one split fewer does is passed over.
    """
    if tiles >= 0.8 * slots:
        return 1
    eligible = [n for n in range(1, min(128, slots, blocks) + 1) if n == 1 or -(-blocks // n) != -(-blocks // (n - 1))]
    return _fewest({n: _efficiency(tiles * n, slots) for n in eligible})


def even_splits(tiles: Any, pieces: Any, slots: Any) -> Any:
    """As many as keep all CTAs in one wave, no more than there are pieces.

    TensorRT-LLM's generation kernels (numCtasPerSeqKv of fmhaKernels.h, also behind FlashInfer's trtllm decode), and in
    effect FlashInfer's plan, which searches the smallest chunk whose CTAs still fit the grid (scheduler.cuh).
    """
    return most(1, least(pieces, floor(slots / tiles)))


def xqa_splits(tiles: Any, history: Any, sms: int) -> Any:
    """computeMultiBlockCount of TensorRT-LLM (decoderXQAImplCommon.h).

    One per 128 tokens, no more than √(8 × those), and so many that the CTAs make eight waves at most.
    """
    pieces = floor(history / XQA_TOKENS_PER_BLOCK)
    pieces = most(1, least(pieces, floor(power(8.0 * pieces, 0.5) + 0.5)))
    excess = most(1, tiles * pieces / (XQA_WAVES * sms))
    return most(1, floor(pieces / excess))


def xqa_fills(tiles: Any, history: Any, sms: int) -> Any:
    """mayHavePerfGain of TensorRT-LLM (decoderXQAImplJIT.cpp): XQA needs four times its CTAs to cover the SMs."""
    return tiles * most(1, floor(history / XQA_TOKENS_PER_BLOCK)) * XQA_MIN_BLOCK_FACTOR >= sms


def tabulated(rule: Callable[..., int], *columns: Any) -> Any:
    """A rule that searches, applied once to each distinct combination of whole numbers."""
    if not any(getattr(column, "ndim", 0) for column in columns):
        return rule(*(int(column) for column in columns))
    import numpy as np

    table = np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.int64).reshape(-1, len(columns))
    distinct, index = np.unique(table, axis=0, return_inverse=True)
    return np.array([rule(*map(int, row)) for row in distinct])[index.reshape(-1)]


def _efficiency(ctas: int, slots: int) -> float:
    waves = ctas / slots
    return waves / math.ceil(waves)


def _fewest(efficiency: dict[int, float]) -> int:
    best = max(efficiency.values())
    return min(n for n, found in efficiency.items() if found >= 0.85 * best)
