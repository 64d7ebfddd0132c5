"""The shape of the work and the tiles of a kernel: macros, threads, shared memory.

The macros and formulas mirror kernels/*.cu; tests compare them with what the compiler reports.
"""

from __future__ import annotations

import math

import msgspec

from kvperf.arith import ceil_div
from kvperf.errors import KvperfError
from kvperf.kernel.catalogue import Kernel

LATENT, ROPE = 512, 64
LANE_THREADS = 128
FLASH_TILE = 32
ALIGNMENT = 1024  # of dynamic shared memory, kernels/ptx.cuh
MAX_SEQ = 2**31 - 2**14  # token numbers are int32, and copies run some tiles ahead of the end


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Decode attention: `q_len` new tokens of each of `batch` sequences attend to `seq` cached ones, itself included.

    head_dim     width of q and of a key; 576 for MLA, whose one KV head is the latent
    dtype        of q and out, and of K and V unless the kernel has a cache format of its own
    page_tokens  tokens of a page, for paged
    lengths      cached tokens of each sequence, for paged; None: seq of all. The longest is seq
    scale        on scores; None: 1/√head_dim
    k_scale …    of an FP8 cache
    """

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    seq: int
    dtype: str = "fp16"
    q_len: int = 1
    page_tokens: int = 64
    lengths: tuple[int, ...] | None = None
    scale: float | None = None
    k_scale: float = 1.0
    v_scale: float = 1.0

    def __post_init__(self) -> None:
        sizes = ("batch", "heads", "kv_heads", "head_dim", "seq", "q_len", "page_tokens")
        for name in sizes:
            if getattr(self, name) < 1:
                raise KvperfError(f"{name} is {getattr(self, name)}", "every size of a shape is at least 1")
        if self.seq > MAX_SEQ:
            raise KvperfError(f"{self.seq} cached tokens: kernels number them with 32 bits", f"use {MAX_SEQ} at most")
        if self.heads % self.kv_heads:
            raise KvperfError(
                f"{self.heads} heads cannot share {self.kv_heads} KV heads", "heads must be a multiple of kv_heads"
            )
        if self.q_len > self.seq:
            raise KvperfError(
                f"{self.q_len} query tokens, {self.seq} cached ones", "the cache holds the new tokens, too"
            )

        if self.lengths is not None and (
            len(self.lengths) != self.batch or min(self.lengths) < 1 or max(self.lengths) != self.seq
        ):
            raise KvperfError(
                f"lengths {self.lengths} of {self.batch} sequences with at most {self.seq} tokens",
                "give one of at least 1 per sequence, the longest equal to seq",
            )

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.heads // self.kv_heads

    @property
    def output_dim(self) -> int:
        return LATENT if self.head_dim == LATENT + ROPE else self.head_dim

    @property
    def score_scale(self) -> float:
        """What the kernels multiply scores by: they exponentiate to base 2."""
        return (self.scale if self.scale is not None else 1 / math.sqrt(self.head_dim)) * math.log2(math.e)

    @property
    def sequences(self) -> tuple[int, ...]:
        """Cached tokens of each sequence."""
        return self.lengths or (self.seq,) * self.batch

    @property
    def pages_per_sequence(self) -> int:
        return int(ceil_div(self.seq, self.page_tokens))


class Geometry(msgspec.Struct, frozen=True):
    """How a kernel cuts the work.

    tokens     keys of one step of a block
    row_tiles  blocks that read the same K and V because the query rows don't fit one
    shared     bytes of shared memory by line, `dynamic_shared_bytes` of them given at the launch
    """

    tokens: int
    row_tiles: int
    block: tuple[int, int, int]
    defines: dict[str, int]
    shared: dict[str, int]
    dynamic_shared_bytes: int = 0


def of(chosen: Kernel, shape: Shape, shared_limit_bytes: int) -> Geometry:
    """The tiles of `chosen` for a shape that it supports."""
    if shape.q_len > 1 and chosen.name != "tensor_cores":
        raise KvperfError(
            f"{chosen.name} takes one query token per sequence, not {shape.q_len}", "tensor_cores takes several"
        )
    if shape.lengths is not None and chosen.name != "paged":
        raise KvperfError(f"{chosen.name} takes sequences of one length", "paged takes a length for each")
    sizes = {"HEAD_DIM": shape.head_dim, "GROUP": shape.group}
    if chosen.name == "three_pass":
        return Geometry(FLASH_TILE, 1, (LANE_THREADS, 1, 1), sizes, {})
    if not chosen.shares:
        return _flash(chosen, shape, sizes)
    if chosen.name == "mla":
        return _mla(shape, shared_limit_bytes)
    if "tensor cores" in chosen.strategies:
        return _matrix(chosen, shape, sizes)
    return _lanes(chosen, shape, sizes)


def _flash(chosen: Kernel, shape: Shape, sizes: dict[str, int]) -> Geometry:
    """Blocks of (32, 32) with tiles of 32 keys."""
    D, tile = shape.head_dim, FLASH_TILE * shape.head_dim * 2
    if chosen.name == "cached_attention":
        shared = {"q": 4 * D, "k and v": tile, "maxima and sums": 256, "partial outputs": 4096}
        shared["scores"] = 4 * shape.seq
        return Geometry(FLASH_TILE, 1, (32, 32, 1), sizes, shared, sum(shared.values()))
    shared = {"q": 4 * D, "k": tile, "v": tile, "scores": 4 * FLASH_TILE, "partial outputs": 4096}
    if chosen.name == "split_kv_single":
        shared |= {"maxima and sums": 1024, "ticket": 8}
    return Geometry(FLASH_TILE, 1, (32, 32, 1), sizes, shared)


def _lanes(chosen: Kernel, shape: Shape, sizes: dict[str, int]) -> Geometry:
    """Groups of lanes that hold a key, 16 bytes each; keys in flight as far as registers go."""
    D, G = shape.head_dim, shape.group
    element = 1 if chosen.cache else 2
    owners = LANE_THREADS // (D * element // 16)
    keys = next(keys for keys, most in ((4, 4 * element // 2), (2, 8 * element // 2), (1, 16)) if most >= G)
    tokens = owners * keys
    shared = {"q": 4 * G * D, "outputs of owners": 4 * owners * D, "maxima and sums": 8 * owners}
    defines = {**sizes, "KEYS_IN_FLIGHT": keys}
    if chosen.name == "paged":
        if shape.page_tokens % tokens:
            raise KvperfError(
                f"a page of {shape.page_tokens} tokens does not hold whole tiles of {tokens}",
                f"use a multiple of {tokens}",
            )
        defines["PAGE"] = shape.page_tokens
    stages = {"async_ring": {4: 3, 2: 6, 1: 8}, "bulk_copy": {4: 4, 2: 8, 1: 8}}
    stages["persistent"] = stages["async_ring"]
    if chosen.name not in stages:
        return Geometry(tokens, 1, (LANE_THREADS, 1, 1), defines, shared)
    count = stages[chosen.name][keys]
    ring = count * tokens * D * 2
    threads = LANE_THREADS
    if chosen.name == "bulk_copy":
        threads += 32
        shared["barriers"] = 16 * count
    if chosen.name == "persistent":
        shared |= {"splits": 1024, "ticket": 4}
    shared["alignment"] = -sum(shared.values()) % ALIGNMENT
    shared |= {"k stages": ring, "v stages": ring}
    return Geometry(tokens, 1, (threads, 1, 1), {**defines, "STAGES": count}, shared, 2 * ring)


def _matrix(chosen: Kernel, shape: Shape, sizes: dict[str, int]) -> Geometry:
    """Warps with rings of their own, tiles of 16 keys, 16 query rows a block."""
    D, stages = shape.head_dim, 3
    warps = 2 if D == 256 else 4
    defines = {**sizes, "WARPS": warps, "STAGES": stages}
    shared = {"maxima and sums": 8 * 16 * warps}
    if chosen.name == "int8_mma":
        row = D + 16
        shared |= {"q": 16 * row, "scales of q": 64}
        rows = shape.group
    else:
        row = 2 * D
        rows = shape.group * shape.q_len
        defines["QUERY_LEN"] = shape.q_len
    shared["alignment"] = -sum(shared.values()) % ALIGNMENT
    ring = warps * stages * 16 * row
    shared |= {"k stages": ring, "v stages": ring}
    # The outputs of the warps take the ring's place at the end.
    spare = 4 * warps * 16 * (D + 8) - 2 * ring
    if spare > 0:
        shared["outputs of warps beyond the stages"] = spare
    dynamic = 2 * ring + max(0, spare)
    return Geometry(16 * warps, int(ceil_div(rows, 16)), (32 * warps, 1, 1), defines, shared, dynamic)


def _mla(shape: Shape, shared_limit_bytes: int) -> Geometry:
    """As many heads a block as shared memory holds: 64, 32 or 16."""
    for heads in (64, 32, 16):
        shared = {
            "q": heads * 2 * (LATENT + ROPE),
            "latent stages": 2 * 32 * 2 * (LATENT + ROPE),
            "scores": heads * 40 * 4,
            "weights": heads * 40 * 2,
            "maxima, sums and factors": heads * 12,
        }
        if sum(shared.values()) <= shared_limit_bytes and heads // 2 < shape.heads:
            break
    defines = {"HEADS": heads, "STAGES": 2}
    return Geometry(32, int(ceil_div(shape.heads, heads)), (256, 1, 1), defines, shared, sum(shared.values()))
