"""Roofs of a kernel's design, known before it runs: bytes in flight, L2, and issue rate.

Little's law: what a GPU reads per second is the bytes it has outstanding over the time each takes to come.
A kernel that keeps too few bytes in flight cannot reach the bandwidth of the memory, however it computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvperf.kernel.sass import ISSUES_PER_CLOCK

if TYPE_CHECKING:
    from kvperf.hardware import Gpu


class InFlight(msgspec.Struct, frozen=True):
    """Bytes an SM keeps outstanding, against what the memory needs to run at its peak.

    needed_bytes_per_sm  HBM peak × unloaded latency ÷ SMs, at the lowest and highest measured latency
    bytes_per_s          what `held_bytes_per_sm` allows at these latencies, never above the peak
    """

    held_bytes_per_sm: int
    needed_bytes_per_sm: tuple[float, float] | None
    bytes_per_s: tuple[float, float] | None


def in_flight(gpu: Gpu, held_bytes_per_sm: int, busy_sms: float) -> InFlight:
    """Little's law for a kernel that holds `held_bytes_per_sm` on each of `busy_sms` SMs; None where unknown.

    A loaded memory answers later than an idle one: reaching the peak takes 1.5 to 2 times the needed bytes
    (B200: 430 ns idle, knee at 32 KiB where 22 KB are needed; lookup1980/microbench-blackwell@a5eef42).
    """
    latency = gpu.levels()[-1].latency_ns
    if latency is None or gpu.sms is None:
        return InFlight(held_bytes_per_sm, None, None)
    fast, slow = latency[0] * 1e-9, latency[1] * 1e-9
    peak = gpu.hbm_bytes_per_s
    held = held_bytes_per_sm * busy_sms
    return InFlight(
        held_bytes_per_sm=held_bytes_per_sm,
        needed_bytes_per_sm=(peak * fast / gpu.sms, peak * slow / gpu.sms),
        bytes_per_s=(min(peak, held / slow), min(peak, held / fast)),
    )


def l2_s(gpu: Gpu, requested_bytes: float) -> float | None:
    """Seconds that the L2 needs for all bytes a kernel requests: re-reading K/V per query head shows here."""
    return None if gpu.l2_bytes_per_s is None else requested_bytes / gpu.l2_bytes_per_s


def issue_s(gpu: Gpu, instructions: float, busy_sms: float) -> float | None:
    """Seconds to issue so many warp instructions, four a clock and SM at the boost clock."""
    boost = gpu.profile.clocks.boost
    if boost is None or not busy_sms:
        return None
    return instructions / (ISSUES_PER_CLOCK * busy_sms * float(boost.value))
