"""The decode-attention kernels: what each one is for, which strategies it uses, and what it supports.

The order is the ladder's: each kernel changes one thing against the one named in `against`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from kvperf.errors import unknown_name
from kvperf.files import folder

Strategy = Literal[
    "fusion",
    "tiling",
    "split-KV",
    "coalesced 16-byte access",
    "GQA sharing",
    "async copy",
    "tensor cores",
    "quantised cache",
    "paging",
    "persistence",
]

HEAD_DIMS = (64, 128, 256)
HALVES = ("fp16", "bf16")


class Support(msgspec.Struct, frozen=True):
    """One row of what a kernel runs: all dtypes with all head dimensions, up to `max_group` query heads a KV head."""

    dtypes: tuple[str, ...] = HALVES
    head_dims: tuple[int, ...] = HEAD_DIMS
    max_group: int = 16
    min_capability: int = 80


class Kernel(msgspec.Struct, frozen=True):
    """One rung.

    cache   format of K and V where it is not that of q
    shares  whether one read of K and V serves all query heads of a group
    """

    name: str
    title: str
    against: str | None
    changes: str
    buys: str
    strategies: tuple[Strategy, ...]
    entries: tuple[str, ...]
    support: tuple[Support, ...] = (Support(),)
    cache: str | None = None
    shares: bool = True
    file: str = ""

    @property
    def source(self) -> Path:
        """The CUDA source, in a checkout and in a wheel alike."""
        return folder("kernels") / (self.file or f"{self.name}.cu")


_LADDER = (
    Kernel(
        name="three_pass",
        title="scores, softmax and weighted values in three launches",
        against=None,
        changes="nothing: the baseline",
        buys="passes that are easy to trust; the scores travel through memory, K and V are read per query head",
        strategies=(),
        entries=("scores", "softmax", "weighted_values"),
        shares=False,
    ),
    Kernel(
        name="cached_attention",
        title="the original design: one block of (32, 32) per query head, the row of scores in shared memory",
        against="three_pass",
        changes="the passes are fused; K and V come through shared memory in tiles of 32",
        buys="one launch, no score traffic; S is capped by shared memory",
        strategies=("fusion", "tiling"),
        entries=("cached_attention",),
        shares=False,
    ),
    Kernel(
        name="flash",
        title="the same grid with an online softmax",
        against="cached_attention",
        changes="each tile is scored, weighed and forgotten",
        buys="shared memory that does not depend on S",
        strategies=("fusion", "tiling"),
        entries=("flash",),
        shares=False,
    ),
    Kernel(
        name="split_kv",
        title="flash-decoding: several blocks share one sequence, a second kernel combines",
        against="flash",
        changes="a third grid dimension, the split",
        buys="a full GPU at small batch; D + 2 floats a split and row go to memory and back",
        strategies=("fusion", "tiling", "split-KV"),
        entries=("split_kv", "combine"),
        shares=False,
    ),
    Kernel(
        name="split_kv_single",
        title="flash-decoding in one launch: the last block of a row combines",
        against="split_kv",
        changes="an atomic counter instead of a second launch",
        buys="one launch less; a fence and an atomic per block",
        strategies=("fusion", "tiling", "split-KV"),
        entries=("split_kv_single",),
        shares=False,
        file="split_kv.cu",
    ),
    Kernel(
        name="vector_loads",
        title="16-byte loads, several keys in flight, one block per KV head",
        against="split_kv",
        changes="lanes read whole keys into registers, without a tile; all query heads of a group use them",
        buys="K and V are read once, by the widest loads; 8 accumulators per query head and thread",
        strategies=("fusion", "split-KV", "coalesced 16-byte access", "GQA sharing"),
        entries=("vector_loads", "combine"),
    ),
    Kernel(
        name="async_ring",
        title="cp.async into a ring of tiles",
        against="vector_loads",
        changes="later tiles are on their way during the arithmetic, in shared memory instead of registers",
        buys="bytes in flight at any group; no barrier in the loop",
        strategies=("fusion", "tiling", "split-KV", "coalesced 16-byte access", "GQA sharing", "async copy"),
        entries=("async_ring", "combine"),
    ),
    Kernel(
        name="bulk_copy",
        title="the copy engine feeds the ring: bulk copies, mbarriers, a producer warp",
        against="async_ring",
        changes="one instruction moves a tile; one warp only orders copies",
        buys="issue slots and registers for the arithmetic; copies run ahead of the consumers",
        strategies=("fusion", "tiling", "split-KV", "coalesced 16-byte access", "GQA sharing", "async copy"),
        entries=("bulk_copy", "combine"),
        support=(Support(min_capability=90),),
    ),
    Kernel(
        name="tensor_cores",
        title="query heads (and tokens) packed into the 16 rows of mma.sync",
        against="async_ring",
        changes="scores and weighted values are matrix products; several query tokens share a read of K and V",
        buys="a key costs about as many instructions for 16 rows as for one; rows without a head are wasted",
        strategies=(
            "fusion",
            "tiling",
            "split-KV",
            "coalesced 16-byte access",
            "GQA sharing",
            "async copy",
            "tensor cores",
        ),
        entries=("tensor_cores", "combine"),
    ),
    Kernel(
        name="int8_kv",
        title="INT8 K and V, one scale per token and head, dequantised in registers",
        against="vector_loads",
        changes="a byte per element and 4 bytes of scale per token; scales join score and weight",
        buys="about half the bytes; conversions, and 16 accumulators per query head and thread",
        strategies=("fusion", "split-KV", "coalesced 16-byte access", "GQA sharing", "quantised cache"),
        entries=("int8_kv", "combine"),
        support=(Support(max_group=8),),
        cache="int8",
    ),
    Kernel(
        name="int8_mma",
        title="INT8 keys against INT8 queries on the tensor cores",
        against="int8_kv",
        changes="scores are integer matrix products; values become halves on their way into the tensor cores",
        buys="no conversion of K, groups up to 16; the query is rounded to 8 bits",
        strategies=(
            "fusion",
            "tiling",
            "split-KV",
            "coalesced 16-byte access",
            "GQA sharing",
            "async copy",
            "tensor cores",
            "quantised cache",
        ),
        entries=("int8_mma", "combine"),
        cache="int8",
    ),
    Kernel(
        name="fp8_kv",
        title="FP8 (e4m3) K and V, one scale per tensor, dequantised in registers",
        against="int8_kv",
        changes="the scales are two numbers of the launch",
        buys="half the bytes, no scales to read",
        strategies=("fusion", "split-KV", "coalesced 16-byte access", "GQA sharing", "quantised cache"),
        entries=("fp8_kv", "combine"),
        support=(Support(max_group=8, min_capability=89),),
        cache="fp8",
    ),
    Kernel(
        name="paged",
        title="K and V in pages, found through a block table",
        against="vector_loads",
        changes="one indirection per tile, read a tile ahead",
        buys="a cache without fragmentation, at 4 bytes a tile and thread",
        strategies=("fusion", "split-KV", "coalesced 16-byte access", "GQA sharing", "paging"),
        entries=("paged", "combine"),
    ),
    Kernel(
        name="mla",
        title="absorbed latent attention: all heads attend to one latent of 512 + 64",
        against="tensor_cores",
        changes="keys and values are the same bytes; the output's dimensions are split over the warps",
        buys="1152 bytes a token for all heads together, read once per 16 to 64 of them",
        strategies=(
            "fusion",
            "tiling",
            "split-KV",
            "coalesced 16-byte access",
            "GQA sharing",
            "async copy",
            "tensor cores",
        ),
        entries=("mla", "combine"),
        support=(Support(head_dims=(576,), max_group=128),),
    ),
    Kernel(
        name="persistent",
        title="blocks that stay until all pieces of the work are done",
        against="async_ring",
        changes="the grid is no larger than the GPU runs at once; a block takes piece after piece, and the last block "
        "of a KV head combines it",
        buys="one launch; no block start-up per piece where there are more pieces than blocks",
        strategies=(
            "fusion",
            "tiling",
            "split-KV",
            "coalesced 16-byte access",
            "GQA sharing",
            "async copy",
            "persistence",
        ),
        entries=("persistent",),
    ),
)
KERNELS = {kernel.name: kernel for kernel in _LADDER}


def kernel(name: str) -> Kernel:
    """The kernel called `name`. Raises KvperfError with the nearest name."""
    found = KERNELS.get(name)
    if found is None:
        raise unknown_name("kernel", name, KERNELS, "kvperf kernel list")
    return found
