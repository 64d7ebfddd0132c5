"""The work of a stage: FLOPs by unit, bytes by kind, kernels. Works add."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import ceil_div, most, total

# Rows of the matrix-unit tiles that padding is counted for: 8 on Volta, 16 and 32 for mma.sync and MFMA,
# 64 and 128 for wgmma and tcgen05.
TILE_ROWS = (8, 16, 32, 64, 128)


class Work(msgspec.Struct, frozen=True):
    """What a stage computes and moves, on one GPU.

    matrix_by_operand  matrix FLOPs by the operand format of the product (one multiply-add is 2 FLOP)
    padded_flops       the same FLOPs with the rows of each product padded to whole tiles, by tile rows
    vector_flops       FLOPs outside matrix products (norms, softmax, activations, rotations)
    exponentials       evaluations of exp
    conversions_by_format  elements converted to the operand format, by the format they are stored in
    *_bytes            HBM traffic at kernel boundaries, by kind
    compulsory_bytes   what no implementation avoids: weights, cached KV, and the step's inputs and outputs, once each
    widest_kernel_bytes  activations that the stage's widest kernel reads and writes (0: it has one kernel)
    link_bytes         bytes that leave for other GPUs of the node;  network_bytes: for other nodes
    host_bytes         bytes that leave for the host
    """

    matrix_by_operand: dict[str, Any] = {}
    padded_flops: dict[int, Any] = {}
    vector_flops: Any = 0
    exponentials: Any = 0
    conversions_by_format: dict[str, Any] = {}
    weight_bytes: Any = 0
    activation_read_bytes: Any = 0
    activation_write_bytes: Any = 0
    kv_read_bytes: Any = 0
    kv_write_bytes: Any = 0
    compulsory_bytes: Any = 0
    link_bytes: Any = 0
    network_bytes: Any = 0
    host_bytes: Any = 0
    kernels: Any = 0
    widest_kernel_bytes: Any = 0

    @property
    def matrix_flops(self) -> Any:
        """Matrix FLOPs of all operand formats."""
        return total(self.matrix_by_operand.values())

    @property
    def conversions(self) -> Any:
        """Elements converted, of all stored formats."""
        return total(self.conversions_by_format.values())

    @property
    def flops(self) -> Any:
        """All FLOPs: matrix and vector. Exponentials are part of the vector FLOPs."""
        return self.matrix_flops + self.vector_flops

    @property
    def activation_bytes(self) -> Any:
        """Activations read and written."""
        return self.activation_read_bytes + self.activation_write_bytes

    @property
    def hbm_bytes(self) -> Any:
        """All traffic at kernel boundaries."""
        return self.weight_bytes + self.activation_bytes + self.kv_read_bytes + self.kv_write_bytes

    def __add__(self, other: Work) -> Work:
        sums = (_plus(mine, theirs) for mine, theirs in zip(_values(self), _values(other), strict=True))
        return Work(*sums, widest_kernel_bytes=most(self.widest_kernel_bytes, other.widest_kernel_bytes))

    def times(self, count: Any) -> Work:
        """The work of `count` layers alike, one after another."""
        products = ({k: v * count for k, v in f.items()} if isinstance(f, dict) else f * count for f in _values(self))
        return Work(*products, widest_kernel_bytes=self.widest_kernel_bytes)


SUMMED = tuple(name for name in Work.__struct_fields__ if name != "widest_kernel_bytes")


def _values(work: Work) -> list[Any]:
    return [getattr(work, name) for name in SUMMED]


def _plus(mine: Any, theirs: Any) -> Any:
    if not isinstance(mine, dict):
        return mine + theirs
    merged = dict(mine)
    for key, value in theirs.items():
        merged[key] = merged[key] + value if key in merged else value
    return merged


def padded_rows(flops: Any, rows: Any) -> dict[int, Any]:
    """`flops` of products with `rows` rows each, the rows padded to whole tiles of each size."""
    return {tile: flops * (ceil_div(rows, tile) * tile) / rows for tile in TILE_ROWS}
