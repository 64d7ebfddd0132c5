"""Physics that a profile must not contradict: `kvperf gpus check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvperf import units, yaml_file
from kvperf.hardware import loading, peaks
from kvperf.hardware.architecture import VECTOR_PATHS, Architecture
from kvperf.hardware.profile import Measured, Profile
from kvperf.yaml_file import Document

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
_REDUCTION = "all_reduce_bus_bandwidth"  # a switch that adds moves fewer bytes over the wire: no roof
Fault = tuple[str, str]  # path in the file, and what is wrong there


class Finding(msgspec.Struct, frozen=True):
    """One contradiction: `where` is FILE:LINE:COLUMN."""

    where: str
    message: str


class Report(msgspec.Struct, frozen=True):
    """What a check found, and what it could not check because a figure is missing."""

    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]


def check(path: Path) -> Report:
    """Everything wrong with a profile that can be read. Raises KvperfError where it cannot."""
    document = yaml_file.read(path)
    profile, architecture = loading.decode(document)
    findings = [Finding(document.at(place), message) for place, message in _faults(document, profile, architecture)]
    return Report(tuple(findings), tuple(_unchecked(profile, architecture)))


def _faults(document: Document, profile: Profile, architecture: Architecture) -> Iterator[Fault]:
    """All rules, in the order of the file."""
    yield from _peaks(document, profile, architecture)
    yield from _integers(document, profile)
    yield from _bandwidth(document, profile)
    yield from _capacity(profile)
    yield from _links(profile)
    yield from _readings(document, profile)
    yield from _sources(profile, {key for _, key in loading.source_keys(document.value, "$")})


def _unchecked(profile: Profile, architecture: Architecture) -> Iterator[str]:
    """The comparisons that a missing figure forbids, each with what is missing."""
    underived = [p for p in profile.peaks if not p.stated_reason and peaks.derived(p, profile, architecture) is None]
    if underived and profile.sms is None:
        yield f"peaks against {peaks.product(profile)} (no {profile.unit} count)"
    elif underived:
        names = ", ".join(f"{p.dtype} {p.path}" for p in underived)
        rates = [architecture.rate(p.dtype, p.accumulator, p.path, profile.geforce) for p in underived]
        missing = "clock" if all(rates) else "rate" if not any(rates) else "clock or rate"
        yield f"{names} against {peaks.product(profile)} (no {missing})"
    hbm = profile.memory.hbm
    parts = (("bus width", hbm.bus_width), ("memory clock", hbm.clock), ("pumps", hbm.pumps))
    missing = [name for name, reading in parts if reading is None]
    if missing:
        # Pumps count in memory clocks: without these they are nobody's omission.
        named = [name for name in missing if name != "pumps" or hbm.clock]
        yield f"{hbm.type} bandwidth against the memory clock (no {' and no '.join(named)})"
    elsewhere = sum(1 for m in profile.measured if m.on)
    if elsewhere:
        yield f"{elsewhere} {'reading' if elsewhere == 1 else 'readings'} of another card"
    bare = [m for m in profile.measured if not m.on and m.what != _REDUCTION and _roof(m, profile) is None]
    if bare:
        names = dict.fromkeys(" ".join(filter(None, (m.what, m.dtype, m.path))) for m in bare)
        yield f"{', '.join(names)} against their roofs (no such peak or link)"


def _peaks(document: Document, profile: Profile, architecture: Architecture) -> Iterator[Fault]:
    """A dense peak is SMs × clock × FLOP/clock/SM; twice that is the 2:4 sparse number of the datasheet."""
    for i, stated in enumerate(profile.peaks):
        place = f"$.peaks[{i}].value"
        problem = peaks.disagreement(stated, profile, architecture, str(document.part(place)))
        if problem:
            yield place, problem


def _integers(document: Document, profile: Profile) -> Iterator[Fault]:
    """Matrix units multiply int8 at least as fast as fp16, unless the profile says why not."""
    half = [p.value for p in profile.peaks if p.dtype in ("fp16", "bf16") and p.path not in VECTOR_PATHS]
    for i, stated in enumerate(profile.peaks):
        slow = stated.dtype == "int8" and stated.path not in VECTOR_PATHS and half and stated.value < max(half)
        if slow and not stated.stated_reason:
            place = f"$.peaks[{i}].value"
            written = str(document.part(place))
            floor = units.like(written, max(half), "FLOP/s")
            yield place, f"int8 peak of {written} is below the fp16 peak of {floor}: say why in 'stated_reason'"


def _bandwidth(document: Document, profile: Profile) -> Iterator[Fault]:
    """Device memory moves bus width × memory clock × transfers per clock."""
    hbm = profile.memory.hbm
    if hbm.bus_width is None or hbm.clock is None or hbm.pumps is None:
        return
    expected = hbm.bus_width.value / 8 * hbm.clock.value * hbm.pumps.value
    if abs(hbm.bandwidth.value / expected - 1) > BANDWIDTH_TOLERANCE:
        place = "$.memory.hbm.bandwidth.value"
        written = str(document.part(place))
        computed = units.like(written, expected, "B/s")
        yield place, f"bandwidth of {written} is not bus × clock × pumps = {computed} (within 7 %)"


def _capacity(profile: Profile) -> Iterator[Fault]:
    hbm, l2 = profile.memory.hbm, profile.memory.l2
    if hbm.visible and hbm.visible.value > hbm.capacity.value:
        yield "$.memory.hbm.visible.value", "the driver cannot show more memory than the card has"
    if l2 and l2.near_capacity and l2.near_capacity.value > l2.capacity.value:
        yield "$.memory.l2.near_capacity.value", "the near part of the L2 is larger than the L2"


def _links(profile: Profile) -> Iterator[Fault]:
    """A link between GPUs has this one and another at its ends."""
    link = profile.links.gpu
    if link and link.gpus and link.gpus.value < 2:
        yield "$.links.gpu.gpus.value", "the link joins no other GPU: count this one too"


def _readings(document: Document, profile: Profile) -> Iterator[Fault]:
    """Nothing measured is above its roof, at the clock of the run."""
    for i, measured in enumerate(profile.measured):
        roof = None if measured.on else _roof(measured, profile)
        if roof is not None and measured.value > roof * ROUNDING:
            place = f"$.measured[{i}].value"
            written = str(document.part(place))
            above = (
                f"{measured.what} of {written} is above its roof of {units.like(written, roof, measured.value.unit)}"
            )
            yield place, f"{above}: the bytes, the clock or the cache state is wrong"


def _roof(measured: Measured, profile: Profile) -> float | None:
    """The peak that bounds a reading; None for all-reduce, which a switch may do below the wire's bytes."""
    if measured.what in _ON_HBM:
        return float(profile.memory.hbm.bandwidth.value)
    link = {"gpu_link_bandwidth": profile.links.gpu, "host_link_bandwidth": profile.links.pcie}.get(measured.what)
    if link is not None:
        return float(link.per_direction.value)
    on_vectors = measured.what == "vector"
    accumulators = (measured.accumulator,) if measured.accumulator else peaks.WIDE_ACCUMULATORS
    same_format = [p for p in profile.peaks if p.dtype == measured.dtype and p.accumulator in accumulators]
    listed = [p for p in same_format if (p.path in VECTOR_PATHS) == on_vectors]
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
