"""What a kernel asks of memory and of the arithmetic units, in closed form from shape and tiles alone.

Bytes are those that threads request, by buffer: a copy of nothing (a row past the end) is no request, and what several
threads ask for counts for each. Tests run the compiled kernels and find exactly these numbers.

Symbols: B batch, H query heads, K KV heads, S cached tokens, D head dimension, Q query tokens, N splits.
"""

from __future__ import annotations

import msgspec

from kvperf.arith import ceil_div
from kvperf.kernel.catalogue import kernel
from kvperf.kernel.geometry import LATENT, ROPE
from kvperf.kernel.launch import Plan

HALF, WORD = 2, 4  # bytes of an element of q, of an fp32
CACHE = ("k", "v", "latent")


class Traffic(msgspec.Struct, frozen=True):
    """Requests of one call, all its launches together.

    loads, stores           bytes by buffer
    atomics                 operations by buffer
    mma                     matrix instructions, by shape and operand
    multiply_adds           of q·k and of weights·v on the vector units, padding included; rescaling comes on top
    useful_mma_share        of the query rows that matrix instructions multiply, those that hold a query
    compulsory_cache_bytes  K and V (or the latent) once
    compulsory_scale_bytes  their scales once: those of an INT8 cache, fp32, one per token and KV head for each of both
    """

    loads: dict[str, int]
    stores: dict[str, int]
    atomics: dict[str, int]
    mma: dict[str, int]
    multiply_adds: int
    useful_mma_share: float
    compulsory_cache_bytes: int
    compulsory_scale_bytes: int

    @property
    def cache_bytes(self) -> int:
        """Requested bytes of K and V."""
        return sum(self.loads.get(name, 0) for name in CACHE)

    @property
    def reread_factor(self) -> float:
        """Requested over compulsory bytes of K and V: 1 where each is read once."""
        return self.cache_bytes / self.compulsory_cache_bytes


def traffic(plan: Plan) -> Traffic:
    """Requests of all launches of the plan."""
    shape = plan.shape
    loads, stores = _operands(plan)
    atomics: dict[str, int] = {}
    if plan.kernel == "three_pass":
        scores = WORD * shape.batch * shape.heads * shape.seq
        # Softmax reads them three times and writes probabilities; the values' pass reads those.
        loads["scores"] = 4 * scores
        stores["scores"] = 2 * scores
    if plan.splits > 1:
        rows = shape.batch * shape.q_len * shape.heads * plan.splits
        partials = {"partial_o": rows * shape.output_dim * WORD, "partial_ml": rows * 2 * WORD}
        stores |= partials
        loads |= partials
        if "arrived" in plan.workspace:
            counters = plan.workspace["arrived"].shape[0]
            atomics["arrived"] = counters * plan.splits
            stores["arrived"] = counters * WORD
    return Traffic(
        loads=loads,
        stores=stores,
        atomics=atomics,
        mma=_mma(plan),
        multiply_adds=_multiply_adds(plan),
        useful_mma_share=_useful_share(plan),
        compulsory_cache_bytes=_cache_bytes(plan),
        compulsory_scale_bytes=2 * _scale_bytes(plan),
    )


def split_lengths(plan: Plan, seq: int | None = None) -> list[int]:
    """Tokens of each split of a sequence: all whole but the last, and none past the end of a short one."""
    seq, tokens = plan.shape.seq if seq is None else seq, plan.split_tokens
    return [max(0, min(tokens, seq - i * tokens)) for i in range(plan.splits)]


def _cache_bytes(plan: Plan) -> int:
    """K and V once: 2·K·D elements of each cached token, or its latent."""
    shape = plan.shape
    cached = sum(shape.sequences)
    if plan.kernel == "mla":
        return cached * (LATENT + ROPE) * HALF
    element = 1 if kernel(plan.kernel).cache else HALF
    return 2 * cached * shape.kv_heads * shape.head_dim * element


def _scale_bytes(plan: Plan) -> int:
    """The scales of K, or those of V."""
    shape = plan.shape
    return shape.batch * shape.kv_heads * shape.seq * WORD if kernel(plan.kernel).cache == "int8" else 0


def _operands(plan: Plan) -> tuple[dict[str, int], dict[str, int]]:
    """(loads, stores) of q, the cache with its scales and block table, and out."""
    chosen, shape, tile = kernel(plan.kernel), plan.shape, plan.geometry
    rows = shape.batch * shape.q_len * shape.heads
    q = rows * plan.splits * shape.head_dim * HALF
    if plan.kernel == "three_pass":
        # Each of the four warps of a block of 32 keys reads the query.
        q *= 4 * int(ceil_div(shape.seq, 32))
    # A block reads all keys of its KV head: one block per query head, or one per tile of query rows.
    factor = tile.row_tiles if chosen.shares else shape.group
    cache = _cache_bytes(plan) * factor
    loads = {"q": q, "latent": cache} if plan.kernel == "mla" else {"q": q, "k": cache // 2, "v": cache // 2}
    if scales := _scale_bytes(plan):
        loads |= {"k_scales": scales, "v_scales": scales}
    if plan.kernel == "paged":
        # Every thread looks up the sequence's length and the page of every tile.
        threads = shape.kv_heads * tile.block[0]
        splits = [length for seq in shape.sequences for length in split_lengths(plan, seq)]
        loads["pages"] = sum(int(ceil_div(length, tile.tokens)) for length in splits) * threads * WORD
        loads["lengths"] = len(splits) * threads * WORD
    element = WORD if plan.defines["OUTPUT_FP32"] else HALF
    return loads, {"out": rows * shape.output_dim * element}


def _mma(plan: Plan) -> dict[str, int]:
    """Matrix instructions: whole tiles, whatever part of them holds keys and queries."""
    shape, D = plan.shape, plan.shape.head_dim
    operand = "bf16" if shape.dtype == "bf16" else "f16"
    if plan.kernel == "mla":
        # A tile of 32 keys: per 16 rows 4 instructions wide and D/16 deep, then LATENT/8 wide and 2 deep.
        tiles = sum(int(ceil_div(length, 32)) for length in split_lengths(plan))
        blocks = shape.batch * plan.geometry.row_tiles * (plan.defines["HEADS"] // 16)
        return {f"m16n8k16.{operand}": blocks * tiles * (4 * D // 16 + 2 * LATENT // 8)}
    tiles = sum(int(ceil_div(length, 16)) for length in split_lengths(plan))
    tiles *= shape.batch * shape.kv_heads * plan.geometry.row_tiles
    if plan.kernel == "tensor_cores":
        # A tile of 16 keys: 2 instructions wide and D/16 deep, then D/8 wide and 1 deep.
        return {f"m16n8k16.{operand}": tiles * (2 * D // 16 + D // 8)}
    if plan.kernel == "int8_mma":
        # 32 deep for bytes; the values are halves whatever q is.
        return {"m16n8k32.s8": tiles * 2 * D // 32, "m16n8k16.f16": tiles * D // 8}
    return {}


def _multiply_adds(plan: Plan) -> int:
    """One per row, dimension and key, for scores and again for values; keys are padded to whole tiles."""
    if _mma(plan):
        return 0
    shape, tile = plan.shape, plan.geometry.tokens
    lengths = [length for seq in shape.sequences for length in split_lengths(plan, seq)]
    padded, cached = sum(int(ceil_div(length, tile)) * tile for length in lengths), sum(shape.sequences)
    # The baseline pads nothing, the original design only the tiles of keys.
    keys = {"three_pass": 2 * cached, "cached_attention": padded + cached}.get(plan.kernel, 2 * padded)
    return shape.heads * shape.head_dim * keys


def _useful_share(plan: Plan) -> float:
    """Query rows over the rows of the matrix instructions; 1 where there are none."""
    shape = plan.shape
    if plan.kernel == "mla":
        return shape.heads / (plan.geometry.row_tiles * plan.defines["HEADS"])
    if "tensor cores" in kernel(plan.kernel).strategies:
        return shape.group * shape.q_len / (16 * plan.geometry.row_tiles)
    return 1.0
