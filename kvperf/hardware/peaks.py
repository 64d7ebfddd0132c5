"""Dense peaks: derived from SMs × clock × FLOP/clock/SM, and chosen for an operand format."""

from __future__ import annotations

import msgspec

from kvperf import units
from kvperf.dtypes import WIDER
from kvperf.hardware.architecture import VECTOR_PATHS, Architecture
from kvperf.hardware.profile import Profile, StatedPeak

TOLERANCE = 0.02
# Sums of hundreds of products need at least this much; fp16 and bf16 accumulators lose the small addends.
WIDE_ACCUMULATORS = ("fp32", "fp64", "int32")


class Peak(msgspec.Struct, frozen=True):
    """A dense peak of one unit, FLOP/s. `path` is the instruction that reaches it."""

    flops_per_s: float
    dtype: str
    accumulator: str
    path: str
    kind: str
    source: tuple[str, ...]

    @property
    def is_matrix(self) -> bool:
        return self.path not in VECTOR_PATHS


def of(stated: StatedPeak) -> Peak:
    return Peak(float(stated.value), stated.dtype, stated.accumulator, stated.path, stated.kind, stated.source)


def derived(stated: StatedPeak, profile: Profile, architecture: Architecture) -> float | None:
    """SMs × clock × FLOP/clock/SM, in FLOP/s; None where one factor is unknown."""
    rate = architecture.rate(stated.dtype, stated.accumulator, stated.path, profile.geforce)
    if rate is None or profile.sms is None:
        return None
    clock = getattr(profile.clocks, rate.clock_name)
    clock_hz = stated.clock or (clock.value if clock else None)
    return None if clock_hz is None else profile.sms.value * float(clock_hz) * rate.value


def product(profile: Profile) -> str:
    """The words for `derived`."""
    return f"{profile.unit}s × clock × FLOP/clock/{profile.unit}"


def disagreement(stated: StatedPeak, profile: Profile, architecture: Architecture, written: str = "") -> str | None:
    """What is wrong with a peak that differs from its derivation by more than 2 % and does not say why.

    `written` is the peak as its file has it: the derivation is printed in the same unit.
    """
    expected = derived(stated, profile, architecture)
    if expected is None or stated.stated_reason:
        return None
    ratio = stated.value / expected
    if abs(ratio - 1) <= TOLERANCE:
        return None
    written = written or f"{stated.value / 1e12:.4g} TFLOP/s"
    unit = f"{stated.dtype} {stated.path} peak of {written}"
    computed = f"{product(profile)} = {units.like(written, expected, 'FLOP/s')}"
    if abs(ratio - 2) <= 2 * TOLERANCE:
        return f"{unit} looks like a 2:4 sparse number: it is twice {computed}"
    return f"{unit} is {abs(ratio - 1):.1%} {'above' if ratio > 1 else 'below'} {computed}"


def fastest(stated: tuple[StatedPeak, ...], operand: str) -> Peak | None:
    """The fastest unit that multiplies `operand` exactly, with fp32 (integers: int32) accumulation or wider."""
    formats = (operand, *WIDER.get(operand, ()))
    best: StatedPeak | None = None
    for peak in stated:
        usable = peak.dtype in formats and peak.accumulator in WIDE_ACCUMULATORS
        if usable and (best is None or (peak.value, _prefers(peak, operand)) > (best.value, _prefers(best, operand))):
            best = peak
    return of(best) if best else None


def _prefers(peak: StatedPeak, operand: str) -> bool:
    """Between two equal peaks, the one of the operand's own format."""
    return peak.dtype == operand
