"""A matrix product as a stack launches it: the bytes, the tiles, the split of K and the quantisation in front."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from kvperf.arith import ceil_div, floor, least, most
from kvperf.dtypes import dtype, operand

# One split covers at least this much of K: below it the reduction costs more than it saves.
SPLIT_K_MIN = 512


class Kernel(msgspec.Struct, frozen=True):
    """What is known of the kernel a stack picks for one kind of operands.

    tiles           [rows of m, columns of n] of the output tiles it can pick from
    splits          whether it may split K over idle SMs
    idle            share of a wave's empty places that costs time (1: a static schedule waits for its last wave;
                    less: the library has tile shapes between ours to fill it with)
    k_step          elements of K in one step of the main loop
    exposed         steps' times that one step takes: 1 where loads run ahead of the multiplies
    quantise_bytes  bytes that move per activation element before the product (0: activations arrive quantised)
    row_chunk       activation elements one block of the quantisation takes at a time; 0: not a block for each row
    """

    tiles: tuple[tuple[int, int], ...]
    splits: bool
    idle: float
    k_step: int
    quantise_bytes: float = 0.0
    row_chunk: int = 0
    exposed: float = 1.0


TILES = ((64, 64), (64, 128), (128, 128), (128, 256))
# tcgen05 multiplies 128 rows at a time (64 use half of it).
TILES_SM100 = ((64, 128), (128, 128), (128, 256))
# Read off nvfp4 tables of sm_120: 3.4 ns for an element of K in a small product, as a 128×128 tile takes at the peak.
TILES_SM120 = ((128, 128), (128, 256))
# What stacks do to bf16 activations before an fp8 product, in bytes moved per element: read twice (largest magnitude,
# then scale) and write (dynamic scales), or read once and write (known scale, or a scale for each 128 elements, found
# in registers). The slopes of the tables over m×k agree with these within a third; the kernels were not read.
TWO_READS, ONE_READ, ONE_READ_FP4 = 5.0, 3.0, 2.5625


class Gemm(msgspec.Struct, frozen=True):
    """[m × k] activations times a [k × n] weight matrix; m, n, k may be arrays (of tokens, rows of a table).

    weight, activation  names of formats
    stack      "vllm", "sglang" or "trtllm": which kernel and which quantisation
    warm       True: the same buffers again and again, as tables are measured. False: a step, everything from HBM
    copies     warm only: weight matrices the benchmark rotates through
    arrives_quantised  the kernels before it write its input quantised, as they do where scales are known in advance
    own_input  warm only: each of these has its own activations and output (SGLang's benchmark), not one for all
    """

    m: Any
    n: Any
    k: Any
    weight: str = "bf16"
    activation: str = "bf16"
    stack: str = "vllm"
    warm: bool = False
    copies: Any = 1.0
    own_input: bool = False
    arrives_quantised: bool = False

    @property
    def operand(self) -> str:
        """The format the matrix unit multiplies."""
        return operand(dtype(self.weight), dtype(self.activation))

    @property
    def kind(self) -> str:
        """Which kernels: bf16, fp8 (a scale for a tensor, row or column), fp8_block (for 128×128), nvfp4."""
        if self.operand not in ("fp8", "int8", "fp4"):
            return "bf16"
        if self.operand == "fp4":
            return "nvfp4"
        return "fp8_block" if self.weight in ("fp8-block", "mxfp8") else "fp8"

    @property
    def flops(self) -> Any:
        """2*m*n*k."""
        return 2.0 * self.m * self.n * self.k

    @property
    def weight_bytes(self) -> Any:
        return dtype(self.weight).element_bytes * self.n * self.k

    @property
    def input_bytes(self) -> Any:
        return dtype(self.activation).element_bytes * self.m * self.k

    @property
    def output_bytes(self) -> Any:
        """bf16 out."""
        return 2.0 * self.m * self.n

    @property
    def bytes(self) -> Any:
        """Weights, inputs and outputs once each."""
        return self.weight_bytes + self.input_bytes + self.output_bytes

    def kernel(self, architecture: str) -> Kernel:
        """The kernel's rules on an architecture ("sm_90").

        bf16 is cuBLAS in all three stacks. TensorRT-LLM's fp8 behaves alike (its times stop growing with K where a
        split sets in). The others are CUTLASS and DeepGEMM kernels, whose times grow with K throughout (no split)
        and in whole waves. `idle` 0.25 is the best one value over GPUs and stacks, on `fit` rows.
        """
        kind = self.kind
        if kind == "bf16":
            return Kernel(TILES, splits=True, idle=0.25, k_step=64)
        if kind == "fp8" and self.stack == "trtllm":
            return Kernel(TILES, splits=True, idle=0.25, k_step=128, quantise_bytes=TWO_READS)
        tiles = TILES_SM100 if architecture.startswith("sm_10") else TILES
        static = Kernel(tiles, splits=False, idle=1.0, k_step=128)
        if kind == "nvfp4":
            # Measured: 1.3-1.8 ns for an element of K in TensorRT-LLM, 0.6 in the other two.
            exposed = 3.0 if self.stack == "trtllm" and architecture.startswith("sm_10") else 1.0
            tiles = TILES_SM120 if architecture == "sm_120" else tiles
            return replace(static, tiles=tiles, quantise_bytes=ONE_READ_FP4, exposed=exposed)
        if kind == "fp8_block":
            return replace(static, quantise_bytes=ONE_READ)
        if self.stack == "vllm":  # static scale; read off the tables: time per row, in steps of 2048 of its elements
            return replace(static, quantise_bytes=ONE_READ, row_chunk=2048)
        return replace(static, quantise_bytes=TWO_READS)

    def tiles(self, tile: tuple[int, int]) -> Any:
        """Output tiles of [rows, columns] `tile`."""
        return ceil_div(self.m, tile[0]) * ceil_div(self.n, tile[1])

    def splits(self, tiles: Any, sms: int) -> Any:
        """Into how many parts K is cut so that every SM has a tile; 1 where the tiles fill them already."""
        return least(most(floor(sms / tiles), 1.0), ceil_div(self.k, SPLIT_K_MIN))

    def hot(self, capacity: float) -> tuple[Any, Any]:
        """Shares of the weights and of the activations still in `capacity` bytes of L2 when they are read again.

        What lies between two reads of the same bytes decides (least recently used leaves first): all copies of the
        weights for a weight, one of them for an activation that all copies share. All is kept up to half the
        capacity and nothing from the whole of it on.
        """
        if not self.warm:
            return 0.0, 0.0
        passing = self.input_bytes + self.output_bytes
        if self.own_input:
            passing = self.copies * passing
            turn = self.copies * self.weight_bytes + passing
            return _kept(turn, capacity), _kept(turn, capacity)
        turn = self.copies * self.weight_bytes + passing
        return _kept(turn, capacity), _kept(self.weight_bytes + passing, capacity)

    def quantise_rows(self, chunk: int) -> Any:
        """Blocks' worth of work with one block a row: each further chunk of a row costs 2/3 of the first."""
        return self.m * (1.0 + 2.0 * ceil_div(self.k, chunk)) / 3.0


def _kept(between: Any, capacity: float) -> Any:
    return least(most(2.0 - 2.0 * between / capacity, 0.0), 1.0)
