"""Bytes in flight: what a kernel keeps outstanding, and the time that takes by Little's law.

A byte of K or V is outstanding from its request to its arrival. A kernel that asks for B bytes which take L seconds
each, and never has more than H outstanding, takes B·L/H at least. Latencies here are those of an idle memory, the
lowest measured: an optimistic time. A loaded memory answers later, and reaching its peak takes 1.5 to 2 times the bytes
(B200: 430 ns idle, knee at 32 KiB an SM where 22 KB are needed; lookup1980/microbench-blackwell@a5eef42).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvperf.kernel.catalogue import kernel

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.kernel.launch import Launch, Plan
    from kvperf.kernel.traffic import Traffic

UNROLLED = 4  # values that a thread of weighted_values asks for at once (kernels/three_pass.cu)


class InFlight(msgspec.Struct, frozen=True):
    """Bytes of K and V that an SM keeps outstanding, against what the memory needs to run at its peak.

    held_bytes_per_sm    of the launch that holds least; None where occupancy is unknown
    needed_bytes_per_sm  HBM peak × unloaded latency ÷ SMs, at the lowest and highest measured latency
    latency_s            these latencies
    bytes_per_s          what `held_bytes_per_sm` allows at the highest and the lowest of them, never above the peak
    limits               whether waiting takes longer than reading K and V once at the peak; None where unknown
    """

    held_bytes_per_sm: int | None
    needed_bytes_per_sm: tuple[float, float] | None
    bytes_per_s: tuple[float, float] | None
    latency_s: tuple[float, float] | None = None
    limits: bool | None = None


class Holding(msgspec.Struct, frozen=True):
    """One launch that reads K and V: bytes outstanding on the fullest SM and on the whole GPU, bytes asked for."""

    bytes_per_sm: int
    total_bytes: int
    requested_bytes: int
    compulsory_bytes: int


def held_by_block(planned: Plan, launch: Launch) -> int | None:
    """Bytes of K and V that a block has outstanding at most; None for a launch that reads neither.

    The stages still to come of a ring, else the tile that is loaded at once; never more than a split has.
    """
    shape, tile = planned.shape, planned.geometry
    element = 1 if kernel(planned.kernel).cache else 2
    one = shape.head_dim * element  # a key, a value, or a token of the latent
    if planned.kernel == "three_pass":
        keys = {"scores": tile.tokens, "weighted_values": UNROLLED}.get(launch.entry)
        return None if keys is None else min(keys, shape.seq) * one
    if launch.entry != planned.launches[0].entry:
        return None
    sides = 1 if planned.kernel in ("cached_attention", "mla") else 2
    whole = sides * min(planned.split_tokens, shape.seq) * one
    stages = planned.defines.get("STAGES", 0)
    tiles = stages - 1 if stages > 1 else 1
    return min(tiles * tile.tokens * sides * one, whole)


def holding(planned: Plan, launch: Launch, asked: Traffic, gpu: Gpu, blocks_per_sm: int) -> Holding | None:
    """What a launch holds where an SM runs so many of its blocks; None for one that does not read K and V."""
    block = held_by_block(planned, launch)
    if block is None or gpu.sms is None:
        return None
    blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
    resident = max(1, min(blocks_per_sm, -(-blocks // gpu.sms)))
    requested, compulsory = asked.cache_bytes, asked.compulsory_cache_bytes
    if planned.kernel == "three_pass":  # K in one launch, V in another
        requested, compulsory = requested // 2, compulsory // 2
    return Holding(resident * block, min(blocks, resident * gpu.sms) * block, requested, compulsory)


def wait_s(gpu: Gpu, holdings: list[Holding]) -> float | None:
    """Seconds that all launches wait for K and V at least, one after the other; None where a latency is unknown.

    What is asked for once more is taken to come from the L2, which answers sooner.
    """
    hbm, l2 = _lowest(gpu, "hbm"), _lowest(gpu, "l2")
    seconds = 0.0
    for held in holdings:
        again = held.requested_bytes - held.compulsory_bytes
        if hbm is None or (again and l2 is None):
            return None
        seconds += (held.compulsory_bytes * hbm + again * (l2 or 0.0)) / held.total_bytes
    return seconds if holdings else None


def in_flight(gpu: Gpu, held_bytes_per_sm: int | None, busy_sms: float) -> InFlight:
    """Little's law for a kernel that holds `held_bytes_per_sm` on each of `busy_sms` SMs; None where unknown."""
    latency = gpu.levels()[-1].latency_ns
    if latency is None or gpu.sms is None:
        return InFlight(held_bytes_per_sm, None, None)
    fast, slow = latency[0] * 1e-9, latency[1] * 1e-9
    peak = gpu.hbm_bytes_per_s
    needed = (peak * fast / gpu.sms, peak * slow / gpu.sms)
    if held_bytes_per_sm is None:
        return InFlight(None, needed, None, (fast, slow))
    held = held_bytes_per_sm * busy_sms
    return InFlight(held_bytes_per_sm, needed, (min(peak, held / slow), min(peak, held / fast)), (fast, slow))


def _lowest(gpu: Gpu, level: str) -> float | None:
    """The lowest measured latency in seconds of the device memory or the L2."""
    found = gpu.levels()[-1] if level == "hbm" else next((at for at in gpu.levels() if at.name == "L2 cache"), None)
    return None if found is None or found.latency_ns is None else found.latency_ns[0] * 1e-9
