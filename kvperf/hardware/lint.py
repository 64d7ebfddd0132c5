"""Physics that a profile must not contradict: `kvperf gpus check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvperf import yaml_file
from kvperf.hardware import loading, peaks
from kvperf.hardware.architecture import VECTOR_PATHS, Architecture
from kvperf.hardware.profile import Measured, Profile

# Datasheets round bandwidths, and boards run their memory a little below its rated clock.
BANDWIDTH_TOLERANCE = 0.07
# A reading that rounds to the roof is not above it.
ROUNDING = 1.002
_ON_HBM = (
    "read_bandwidth",
    "write_bandwidth",
    "copy_bandwidth",
    "stream_bandwidth",
    "memcpy_bandwidth",
    "decode_attention_bandwidth",
    "gemv_bandwidth",
    "norm_bandwidth",
)
Fault = tuple[str, str]  # path in the file, and what is wrong there


class Finding(msgspec.Struct, frozen=True):
    """One contradiction: `where` is FILE:LINE:COLUMN."""

    where: str
    message: str


def check(path: Path) -> list[Finding]:
    """Everything wrong with a profile that can be read. Raises KvperfError where it cannot."""
    document = yaml_file.read(path)
    profile, architecture = loading.decode(document)
    used = {key for _, key in loading.source_keys(document.value, "$")}
    return [Finding(document.at(place), message) for place, message in faults(profile, architecture, used)]


def faults(profile: Profile, architecture: Architecture, used: set[str]) -> Iterator[Fault]:
    """All rules, in the order of the file; `used` are the sources that its readings name."""
    yield from _peaks(profile, architecture)
    yield from _integers(profile)
    yield from _bandwidth(profile)
    yield from _capacity(profile)
    yield from _readings(profile)
    yield from _sources(profile, used)


def _peaks(profile: Profile, architecture: Architecture) -> Iterator[Fault]:
    """A dense peak is SMs × clock × FLOP/clock/SM; twice that is the 2:4 sparse number of the datasheet."""
    for i, stated in enumerate(profile.peaks):
        problem = peaks.disagreement(stated, profile, architecture)
        if problem:
            yield f"$.peaks[{i}].value", problem


def _integers(profile: Profile) -> Iterator[Fault]:
    """Matrix units multiply int8 at least as fast as fp16, unless the profile says why not."""
    half = [p.value for p in profile.peaks if p.dtype in ("fp16", "bf16") and p.path not in VECTOR_PATHS]
    for i, stated in enumerate(profile.peaks):
        slow = stated.dtype == "int8" and stated.path not in VECTOR_PATHS and half and stated.value < max(half)
        if slow and not stated.stated_reason:
            shown = f"int8 peak of {stated.value / 1e12:.4g} TFLOP/s is below the fp16 peak"
            yield f"$.peaks[{i}].value", f"{shown} of {max(half) / 1e12:.4g}: say why in 'stated_reason'"


def _bandwidth(profile: Profile) -> Iterator[Fault]:
    """Device memory moves bus width × memory clock × transfers per clock."""
    hbm = profile.memory.hbm
    if hbm.bus_width is None or hbm.clock is None or hbm.pumps is None:
        return
    expected = hbm.bus_width.value / 8 * hbm.clock.value * hbm.pumps.value
    if abs(hbm.bandwidth.value / expected - 1) > BANDWIDTH_TOLERANCE:
        stated, computed = hbm.bandwidth.value / 1e9, expected / 1e9
        yield (
            "$.memory.hbm.bandwidth.value",
            f"bandwidth of {stated:.4g} GB/s is not bus × clock × pumps = {computed:.4g} GB/s (within 7 %)",
        )


def _capacity(profile: Profile) -> Iterator[Fault]:
    hbm, l2 = profile.memory.hbm, profile.memory.l2
    if hbm.visible and hbm.visible.value > hbm.capacity.value:
        yield "$.memory.hbm.visible.value", "the driver cannot show more memory than the card has"
    if l2 and l2.near_capacity and l2.near_capacity.value > l2.capacity.value:
        yield "$.memory.l2.near_capacity.value", "the near part of the L2 is larger than the L2"


def _readings(profile: Profile) -> Iterator[Fault]:
    """Nothing measured is above its roof, at the clock of the run."""
    for i, measured in enumerate(profile.measured):
        roof = None if measured.on else _roof(measured, profile)
        if roof is not None and measured.value > roof * ROUNDING:
            above = f"{measured.what} of {measured.value:.4g} {measured.value.unit} is above its roof of {roof:.4g}"
            yield f"$.measured[{i}].value", f"{above}: the bytes, the clock or the cache state is wrong"


def _roof(measured: Measured, profile: Profile) -> float | None:
    """The peak that bounds a reading; None for all-reduce, which a switch may do below the wire's bytes."""
    if measured.what in _ON_HBM:
        return float(profile.memory.hbm.bandwidth.value)
    link = {"gpu_link_bandwidth": profile.links.gpu, "host_link_bandwidth": profile.links.pcie}.get(measured.what)
    if link is not None:
        return float(link.per_direction.value)
    on_vectors = measured.what == "vector"
    accumulators = (measured.accumulator,) if measured.accumulator else peaks.WIDE_ACCUMULATORS
    units = [p for p in profile.peaks if p.dtype == measured.dtype and p.accumulator in accumulators]
    listed = [p for p in units if (p.path in VECTOR_PATHS) == on_vectors]
    same_path = [p for p in listed if measured.path in (None, p.path)]
    if not same_path:
        return None
    highest = max(same_path, key=lambda p: p.value)
    rated = profile.clocks.boost if highest.path in VECTOR_PATHS else profile.clocks.tensor
    rated_hz = highest.clock or (rated.value if rated else None)
    if measured.clock is None or rated_hz is None:
        return float(highest.value)
    return highest.value * measured.clock / rated_hz


def _sources(profile: Profile, used: set[str]) -> Iterator[Fault]:
    """A source names a document or a repository, and the table, page or path in it; each is used."""
    for key, source in profile.sources.items():
        if (source.document is None) == (source.repository is None):
            yield f"$.sources.{key}", f"source '{key}' names neither a document nor a repository, or both"
        if not (source.table or source.page or source.path):
            yield f"$.sources.{key}", f"source '{key}' names no table, page or path"
        if key not in used:
            yield f"$.sources.{key}", f"source '{key}' is never used"
