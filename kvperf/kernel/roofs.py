"""Roofs of a kernel's design, known before it runs: HBM, arithmetic, L2, bytes in flight, issue slots.

Each is the time that one resource takes at least for what the kernel asks of it. The longest of them is the time that
the design cannot beat; issue slots are an estimate and no part of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvperf.arith import Number
from kvperf.hardware.peaks import WIDE_ACCUMULATORS

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.kernel.traffic import Traffic

# FLOP of one matrix instruction, and the format whose rate it runs at.
MATRIX = {
    "m16n8k16.f16": (2 * 16 * 8 * 16, "fp16"),
    "m16n8k16.bf16": (2 * 16 * 8 * 16, "bf16"),
    "m16n8k32.s8": (2 * 16 * 8 * 32, "int8"),
}
CUDA_CORES = "fp32 multiply-adds"


class KernelRoofs(msgspec.Struct, frozen=True):
    """Seconds that each roof of the design takes; null where a rate is unknown.

    hbm_s     compulsory bytes over the HBM peak: the bound
    tensor_s  what the kernel multiplies, padding included, at the rates of the instructions it uses
    l2_s      all requested bytes over the L2 bandwidth
    flight_s  waiting for K and V, by Little's law at the lowest latency of an idle memory; null also where the kernel
              holds enough in flight to read at the peak
    issue_s   an estimate: instructions of the loop over tiles at four a clock and SM; null where they can't be counted
    """

    hbm_s: Number
    tensor_s: Number | None
    l2_s: Number | None
    flight_s: Number | None
    issue_s: Number | None

    def slowest(self) -> str:
        """The roof that takes longest, without the estimate; where two are equal, memory first."""
        known = {name: getattr(self, name) for name in ("hbm_s", "tensor_s", "l2_s", "flight_s")}
        known = {name: seconds for name, seconds in known.items() if seconds is not None}
        return max(known, key=lambda name: known[name])


def arithmetic_rates(gpu: Gpu, asked: Traffic) -> dict[str, float | None]:
    """FLOP/s of each kind of instruction that the kernel multiplies with; None where the profile does not say.

    Kernels without matrix instructions multiply on the CUDA cores. The others use mma.sync: the peak of wgmma or
    tcgen05 is no rate of theirs.
    """
    if not asked.mma:
        return {CUDA_CORES: gpu.cuda_core_flops_per_s}
    return {name: _mma_sync(gpu, MATRIX[name][1]) for name in asked.mma}


def arithmetic_s(gpu: Gpu, asked: Traffic) -> float | None:
    """Seconds of all multiplications, padded rows and keys included; None where a rate is unknown."""
    seconds = 0.0
    for name, rate in arithmetic_rates(gpu, asked).items():
        if rate is None:
            return None
        flops = asked.mma[name] * MATRIX[name][0] if asked.mma else 2 * asked.multiply_adds
        seconds += flops / rate
    return seconds


def l2_s(gpu: Gpu, requested_bytes: float) -> float | None:
    """Seconds that the L2 needs for all bytes a kernel requests: re-reading K/V per query head shows here."""
    return None if gpu.l2_bytes_per_s is None else requested_bytes / gpu.l2_bytes_per_s


def _mma_sync(gpu: Gpu, dtype: str) -> float | None:
    """The dense peak of mma.sync that accumulates in fp32, of integers in int32."""
    found = [
        float(peak.value)
        for peak in gpu.profile.peaks
        if (peak.dtype, peak.path) == (dtype, "mma.sync") and peak.accumulator in WIDE_ACCUMULATORS
    ]
    return max(found, default=None)
