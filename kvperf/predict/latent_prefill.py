"""The time of prefill attention of a model with a latent KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import ceil_div, most
from kvperf.launches.latent_prefill import LatentPrefill
from kvperf.predict.family import Constant, Family
from kvperf.predict.joining import joined

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

# Queries, keys, values and outputs of short prompts pass at this share of the HBM peak: strided rows, read and written.
STREAM_EFFICIENCY = 0.65
# Tiles of a causal row differ in length and the longest end alone: half of one full row of keys on one SM is exposed.
EXPOSED_TAIL = 0.5

CONSTANTS = (
    Constant("launch_s", "start of the op: rotary and cache-write kernel, first loads, stores", 1.3e-5, 1e-6, 5e-5),
    Constant("tensor_efficiency", "share of the dense matrix peak that whole tiles keep", 0.6, 0.1, 1.0),
    Constant("tile_s", "start and end of a tile that follows another on its SM", 2e-6, 1e-9, 5e-5, 0.0),
)


def price(launch: LatentPrefill, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """launch + (tiles, streams joined by squares) + the tail of the longest tile, in seconds."""
    row_s = 2.0 * launch.dims * launch.tile_rows / (constants["tensor_efficiency"] * _peak(gpu))
    tiles_s = launch.tiles * launch.tile_keys * row_s
    tiles_s = tiles_s + (ceil_div(launch.tiles, gpu.sms) - 1) * constants["tile_s"]
    stream_s = launch.bytes / (STREAM_EFFICIENCY * gpu.hbm_bytes_per_s)
    tail_s = EXPOSED_TAIL * launch.keys * row_s * gpu.sms
    return constants["launch_s"] + joined(tiles_s, stream_s) + tail_s


def floor(launch: LatentPrefill, gpu: Gpu) -> Any:
    """FLOPs of the visible keys at the dense peak; bytes at the HBM peak, but for what a replayed call finds in L2."""
    from_hbm = most(0.0, launch.bytes - gpu.l2_capacity_bytes) if launch.warm else launch.bytes
    return most(launch.flops / _peak(gpu), from_hbm / gpu.hbm_bytes_per_s)


def _peak(gpu: Gpu) -> float:
    return float(gpu.peak("bf16").flops_per_s)


LATENT_PREFILL = Family("latent_prefill", CONSTANTS, price, floor)
