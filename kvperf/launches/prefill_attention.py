"""Causal attention of new tokens over themselves and a cached prefix, as a stack launches it."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import ceil_div, choose, least, most

KEY_TILE = 128  # keys of a step, where a kernel has no other rule
QUANTISE_CHUNK = 2048  # elements of a token that a block of vLLM's quantisation takes at a time, as in its fp8 products


class Kernel(msgspec.Struct, frozen=True):
    """How a kernel cuts the work.

    rows     query rows of one tile
    packed   the query heads of one KV head share a tile (rows are then tokens × heads of a group)
    idle     share of a wave's empty places that costs time (1: a static schedule waits for its last wave)
    swaps    a prompt of one token is packed too (FlashAttention 2: seqlenq_ngroups_swapped)
    columns  keys of a step
    splits   few tiles are cut along their keys (FlashAttention 3: num_splits)
    unit     rows of a warpgroup, where those without a query rest; 0: all rows are multiplied
    ordered  tiles go to SMs in the order of the prompt: some SM ends with a longest one (not: longest tiles first)
    """

    rows: Any
    packed: bool
    idle: float
    swaps: bool = False
    columns: Any = KEY_TILE
    splits: bool = False
    unit: int = 0
    ordered: bool = True


class PrefillAttention(msgspec.Struct, frozen=True):
    """`batch` requests of `new` tokens each, every one over `prefix` cached tokens and, causally, over its own.

    window    tokens a query sees at most, 0: all
    kv_dtype  format of the cache; the products run in it too ("bf16" or "fp8")
    stack     "vllm", "sglang" or "trtllm"
    warm      True: the same buffers again and again, as tables are measured
    The op writes the new keys and values to the cache. batch to prefix may be arrays.
    """

    batch: Any
    new: Any
    heads: Any
    kv_heads: Any
    head_dim: Any
    prefix: Any = 0.0
    window: Any = 0.0
    kv_dtype: str = "bf16"
    stack: str = "vllm"
    warm: bool = False

    @property
    def operand(self) -> str:
        return "fp8" if self.kv_dtype == "fp8" else "bf16"

    @property
    def cached(self) -> Any:
        """Bytes of one cached element."""
        return 1.0 if self.kv_dtype == "fp8" else 2.0

    @property
    def limit(self) -> Any:
        """Keys the last query sees at most."""
        length = self.prefix + self.new
        return choose(self.window > 0, least(self.window, length), length)

    @property
    def columns(self) -> Any:
        """Keys a query sees, the mean over the new tokens: the mean over 0 < i < new of min(prefix + i, limit)."""
        inside = least(most(self.limit - self.prefix, 0.0), self.new)
        return least(self.prefix, self.limit) + inside - inside * inside / (2.0 * self.new)

    @property
    def flops(self) -> Any:
        """Two products of 2 FLOPs for every query, key seen and element of a head; masked keys not counted."""
        return 4.0 * self.batch * self.new * self.heads * self.head_dim * self.columns

    @property
    def query_bytes(self) -> Any:
        """bf16 queries in and outputs out."""
        return 4.0 * self.batch * self.new * self.heads * self.head_dim

    @property
    def kv_bytes(self) -> Any:
        """New keys and values read in bf16 and written to the cache, and the prefix read from it."""
        old = least(self.prefix, self.limit)
        return 2.0 * self.batch * self.kv_heads * self.head_dim * (self.new * (2.0 + self.cached) + old * self.cached)

    @property
    def bytes(self) -> Any:
        """What must cross HBM at least: queries, outputs, new keys and values once each, the prefix once."""
        return self.query_bytes + self.kv_bytes

    def kernel(self, architecture: str) -> Kernel:
        """Which kernel runs on an architecture ("sm_90").

        Hopper, vLLM and SGLang: FlashAttention 3. Blackwell, vLLM and SGLang: FlashInfer's trtllm-gen kernels.
        TensorRT-LLM: its own. The others: FlashAttention 2, which does not take fp8: a kernel that packs. The rows of
        a tile, packing and `idle` are those of 64, 128 or 256 rows that fit the tables best, on `fit` rows; binaries
        were not looked at.
        """
        blackwell = architecture.startswith("sm_10")
        if self.stack == "trtllm" and architecture == "sm_90":
            return self._tensorrt_hopper()
        if self.stack == "trtllm":
            return Kernel(128 if blackwell else 64, packed=False, idle=1.0, columns=KEY_TILE if blackwell else 64)
        if architecture == "sm_90":
            return self._flash3()
        if blackwell:
            return Kernel(256, packed=False, idle=1.0, unit=128)
        if self.kv_dtype == "fp8":
            return Kernel(128, packed=True, idle=1.0, columns=64)
        return Kernel(64, packed=False, idle=1.0, swaps=True, columns=64)

    def _flash3(self) -> Kernel:
        """FlashAttention 3 (hopper/tile_size.h, for causal and paged).

        Batches of unequal lengths pack the heads of a group; dynamic scheduler, longest tiles first. Short
        prompts with heads of 64 or 128 elements get one warpgroup of 64 rows (use_one_mma_wg in vLLM's fork, taken for
        SGLang's and for windows too, as their rows fit).
        """
        dim, local = self.head_dim, self.window > 0
        few = ((dim == 64) | (dim == 128)) * (self.new * self.heads <= 64.0 * self.kv_heads)
        rows = choose(few, 64.0, choose(dim <= 64, 192.0, 128.0))
        if self.kv_dtype == "fp8":
            columns = choose(dim <= 128, 160.0, choose(dim <= 192, 128.0, choose(local, 64.0, 128.0)))
        else:
            columns = choose(dim <= 128, 128.0, choose(dim <= 192, 96.0, choose(local, 64.0, 80.0)))
        return Kernel(rows, packed=True, idle=0.3, columns=columns, splits=True, ordered=False)

    def _tensorrt_hopper(self) -> Kernel:
        """Two warpgroups of 64 rows share the keys that a third loads; a step takes what shared memory holds."""
        columns = choose(self.head_dim <= 64, 256.0, choose(self.head_dim <= 128, 128.0, 64.0))
        return Kernel(128, packed=False, idle=1.0, columns=columns, unit=64)

    def unspecialised(self, architecture: str) -> Any:
        """Whether one warpgroup's exponentials have no other's products beside them.

        TensorRT-LLM's fp8 on Hopper, once a window is active: its rows then take 1.3 to 1.7 times as long.
        """
        if self.stack == "trtllm" and architecture == "sm_90" and self.kv_dtype == "fp8":
            return self.limit < self.prefix + self.new
        return False

    def tiles(self, kernel: Kernel) -> Any:
        """Query tiles of the whole batch."""
        if kernel.packed:
            group = self.heads / self.kv_heads
            return self.batch * self.kv_heads * ceil_div(self.new * group, kernel.rows)
        tiles = self.batch * self.heads * ceil_div(self.new, kernel.rows)
        return choose(self.new == 1, self.batch * self.kv_heads, tiles) if kernel.swaps else tiles

    def span(self, kernel: Kernel) -> Any:
        """Tokens that one tile covers."""
        tokens = kernel.rows * self.kv_heads / self.heads if kernel.packed else 1.0 * kernel.rows
        return least(tokens, self.new)

    def tile_rows(self, kernel: Kernel) -> Any:
        """Query rows that a tile multiplies."""
        return least(kernel.unit * ceil_div(self.new, kernel.unit), kernel.rows) if kernel.unit else kernel.rows

    def tile_columns(self, kernel: Kernel) -> tuple[Any, Any]:
        """Key columns that a mean tile and the longest tile multiply, masked ones of a cut key tile among them.

        Key tiles start at multiples of their size: the diagonal cuts one of them, on average in half; so does the far
        edge of a window.
        """
        length = self.prefix + self.new
        tile = 1.0 * kernel.columns
        whole = tile * ceil_div(length, tile)
        span = self.span(kernel)
        cut = choose(self.limit < length, tile, tile / 2.0)
        longest = choose(self.limit < length, self.limit + span + tile, whole)
        return least(self.columns + span / 2.0 + cut, whole), least(longest, whole)

    def longest_piece(self, kernel: Kernel, sms: int) -> Any:
        """Key columns of the longest piece of work: of the longest tile, or of its largest split.

        FlashAttention 3 cuts tiles that fill less than 0.8 of the SMs and have more than 4 steps, so that all key
        steps, masked ones counted, spread evenly with 10 % to spare (hopper/heuristics.h, flash_prepare_scheduler.cu).
        """
        longest = 1.0 * self.tile_columns(kernel)[1]
        if not kernel.splits:
            return longest
        length = self.prefix + self.new
        loaded = choose(self.window > 0, least(self.window + kernel.rows, length), length)
        tiles, steps = self.tiles(kernel), ceil_div(loaded, kernel.columns)
        piece = kernel.columns * ceil_div(1.1 * tiles * steps, sms)
        return choose((tiles < 0.8 * sms) & (steps > 4), least(longest, piece), longest)

    def token_blocks(self) -> Any:
        """Blocks of helper kernels with a block for every token: the cache write, and vLLM's making of fp8 queries."""
        tokens = self.batch * self.new
        if self.stack != "vllm" or self.kv_dtype != "fp8":
            return tokens
        return tokens * (1.0 + ceil_div(self.heads * self.head_dim, QUANTISE_CHUNK))

    def helpers(self, architecture: str) -> Any:
        """Helper kernels whose time does not depend on the length, beside the cache write and the attention.

        On Hopper SGLang takes 6 to 9 µs more with heads of 192 elements, and TensorRT-LLM 3 µs more with fp8 and with
        heads of other than 128 elements: a helper for the cache write, as far as can be told. On Blackwell SGLang makes
        fp8 queries.
        """
        hopper = architecture == "sm_90"
        if self.stack == "sglang" and hopper:
            return choose(self.head_dim == 192, 1.0, 0.0)
        if self.stack == "sglang":
            return 1.0 if self.kv_dtype == "fp8" else 0.0
        if self.stack == "trtllm" and hopper:
            return 1.0 if self.kv_dtype == "fp8" else choose(self.head_dim == 128, 0.0, 1.0)
        return 0.0
