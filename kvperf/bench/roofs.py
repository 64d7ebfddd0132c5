"""What no reading can beat: the roof of each regime, at the clocks that were recorded with it.

A reading above its roof is no feat but a mistake: of the byte count, the clock, or the cache state.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvperf.bench.record import Samples, Work
from kvperf.bench.rig import Facts
from kvperf.hardware import Gpu
from kvperf.hardware.peaks import fastest

SM_CLOCK_TOLERANCE = 0.01  # the gate reads the SM clock over 100 µs of a timer that may tick each microsecond


def hbm_bytes_per_s(facts: Facts, gpu: Gpu | None, memory_clocks_hz: Sequence[float | None] = ()) -> float | None:
    """Device memory's peak: bus width × memory clock × transfers a clock, or the datasheet's where that is higher.

    Datasheets round: H200's 4.8 TB/s are 6144 bit × 3201 MHz × 2 = 4.917 TB/s.
    """
    stated = gpu.hbm_bytes_per_s if gpu else None
    known = [clock for clock in memory_clocks_hz if clock]
    clock = max(known) if known else facts.memory_clock_max_hz
    if clock is None or not facts.memory_bus_bits:
        return stated
    pumps = gpu.profile.memory.hbm.pumps.value if gpu and gpu.profile.memory.hbm.pumps else 2
    return max(stated or 0.0, facts.memory_bus_bits / 8 * clock * pumps)


def refusal(regime: str, work: Work, samples: Samples, seconds: float, facts: Facts, gpu: Gpu | None) -> str | None:
    """Why `seconds` for this work cannot be right; None where nothing speaks against it."""
    return _too_many_bytes(regime, work, samples, seconds, facts, gpu) or _too_many_operations(
        work, samples, seconds, gpu
    )


def _too_many_bytes(
    regime: str, work: Work, samples: Samples, seconds: float, facts: Facts, gpu: Gpu | None
) -> str | None:
    if regime == "warm" and work.compulsory_bytes <= facts.l2_bytes:
        roof, name = gpu.l2_bytes_per_s if gpu else None, "L2"
    elif regime == "warm":
        # What fits L2 may come from there; only the rest must cross HBM.
        peak = hbm_bytes_per_s(facts, gpu, samples.memory_clock_hz)
        rest = 1 - facts.l2_bytes / work.compulsory_bytes
        roof, name = (peak / rest if peak else None), "HBM, for what L2 cannot hold,"
    else:
        roof, name = hbm_bytes_per_s(facts, gpu, samples.memory_clock_hz), "HBM"
    reached = work.compulsory_bytes / seconds
    if roof is None or reached <= roof:
        return None
    causes = "the byte count is too high" + (", or these bytes came from a cache" if regime != "warm" else "")
    return f"{reached / 1e12:.3f} TB/s is above the {roof / 1e12:.3f} TB/s of {name} at the recorded clocks: {causes}"


def _too_many_operations(work: Work, samples: Samples, seconds: float, gpu: Gpu | None) -> str | None:
    """Tensor and vector peaks, scaled from the clock of the profile to the highest that was read."""
    flop, operand = work.operations.get("flop"), work.operand
    if not flop or not operand or gpu is None:
        return None
    peak = fastest(gpu.profile.peaks, operand)
    if peak is None:
        return None
    clocks = [clock for clock in samples.sm_clock_hz if clock]
    tensor = gpu.profile.clocks.tensor if peak.is_matrix else None
    quoted = tensor or gpu.profile.clocks.boost
    scale = max(1.0, max(clocks) / float(quoted.value)) if clocks and quoted else 1.0
    roof, reached = peak.flops_per_s * scale * (1 + SM_CLOCK_TOLERANCE), flop / seconds
    if reached <= roof:
        return None
    return (
        f"{reached / 1e12:.1f} TFLOP/s is above the {roof / 1e12:.1f} TFLOP/s of {operand} at the recorded SM clock: "
        "the operation count is too high, or the compiler removed some"
    )
