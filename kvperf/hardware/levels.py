"""The memory hierarchy as cached attention sees it: sizes, bandwidths, latencies and uses."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvperf.hardware.architecture import Architecture
from kvperf.hardware.profile import Cache, LatencyReading, Profile
from kvperf.hardware.reading import Reading

USES = {
    "registers": "m, l and O of each query; MMA fragments",
    "shared": "K and V tiles in flight",
    "l1": "loads that bypass shared memory; streamed K and V find no reuse",
    "l2": "K and V shared by the query heads of a group; activations between kernels",
    "llc": "what the L2 slices share; activations between kernels",
    "hbm": "weights and KV cache",
}
Range = tuple[float, float]


class Level(msgspec.Struct, frozen=True):
    """One level. `size_bytes` is of one SM where `scope` is "SM"; bandwidths are of the whole GPU.

    latency_cycles, latency_ns  lowest and highest reading on this very GPU; nanoseconds only from readings
                                whose clock was recorded. far_*: the other half of a split L2.
    """

    name: str
    scope: str
    use: str
    size_bytes: float | None = None
    bandwidth_bytes_per_s: float | None = None
    bandwidth_kind: str | None = None
    latency_cycles: Range | None = None
    latency_ns: Range | None = None
    far_latency_cycles: Range | None = None
    far_latency_ns: Range | None = None
    sources: tuple[str, ...] = ()


def levels(profile: Profile, architecture: Architecture) -> tuple[Level, ...]:
    """Registers, shared memory, L1, L2, last-level cache and device memory, closest to the SM first."""
    memory = profile.memory
    on_chip = (_registers(profile, architecture), _shared(profile, architecture), _l1(profile, architecture))
    caches = [_cache(key, cache) for key, cache in (("l2", memory.l2), ("llc", memory.llc)) if cache]
    hbm = memory.hbm
    size = hbm.visible or hbm.capacity
    last = Level(
        name=hbm.type,
        scope="GPU",
        use=USES["hbm"],
        size_bytes=float(size.value),
        bandwidth_bytes_per_s=float(hbm.bandwidth.value),
        bandwidth_kind=hbm.bandwidth.kind,
        latency_cycles=_cycles(hbm.latency),
        latency_ns=_nanoseconds(hbm.latency),
        sources=_sources(size, hbm.bandwidth, *hbm.latency),
    )
    return (*on_chip, *caches, last)


def _registers(profile: Profile, architecture: Architecture) -> Level:
    fma, boost = architecture.dependent_fma, profile.clocks.boost
    cycles = None if fma is None else (float(fma.value), float(fma.value))
    ns = None if cycles is None or boost is None else (cycles[0] / boost.value * 1e9, cycles[1] / boost.value * 1e9)
    return Level(
        name="registers",
        scope="SM",
        use=_use("registers", profile),
        size_bytes=float(architecture.limits.register_file.value),
        latency_cycles=cycles,
        latency_ns=ns,
        sources=_sources(architecture.limits.register_file, fma),
    )


def _shared(profile: Profile, architecture: Architecture) -> Level:
    """Bandwidth: bytes per clock and SM × SMs × boost clock."""
    size, rate, boost = architecture.limits.shared_per_sm, architecture.per_clock.shared_bytes, profile.clocks.boost
    known = rate is not None and boost is not None and profile.sms is not None
    bandwidth = rate.value * profile.sms.value * boost.value if known else None  # pyright: ignore[reportOptionalMemberAccess]
    latency = profile.memory.shared.latency
    return Level(
        name="LDS" if profile.vendor == "amd" else "shared memory",
        scope="SM",
        use=USES["shared"],
        size_bytes=float(size.value) if size else None,
        bandwidth_bytes_per_s=bandwidth,
        bandwidth_kind="derived" if bandwidth else None,
        latency_cycles=_cycles(latency),
        latency_ns=_nanoseconds(latency),
        sources=_sources(size, rate, *latency),
    )


def _l1(profile: Profile, architecture: Architecture) -> Level:
    size, latency = architecture.limits.l1 or architecture.limits.l1_and_shared, profile.memory.l1.latency
    return Level(
        name="L1 cache",
        scope="SM",
        use=_use("l1", profile),
        size_bytes=float(size.value) if size else None,
        latency_cycles=_cycles(latency),
        latency_ns=_nanoseconds(latency),
        sources=_sources(size, *latency),
    )


def _cache(key: str, cache: Cache) -> Level:
    return Level(
        name="L2 cache" if key == "l2" else "last-level cache",
        scope="GPU",
        use=USES[key],
        size_bytes=float(cache.capacity.value),
        bandwidth_bytes_per_s=float(cache.bandwidth.value) if cache.bandwidth else None,
        bandwidth_kind=cache.bandwidth.kind if cache.bandwidth else None,
        latency_cycles=_cycles(cache.latency),
        latency_ns=_nanoseconds(cache.latency),
        far_latency_cycles=_cycles(cache.far_latency),
        far_latency_ns=_nanoseconds(cache.far_latency),
        sources=_sources(cache.capacity, cache.bandwidth, *cache.latency, *cache.far_latency),
    )


def _use(key: str, profile: Profile) -> str:
    """The same in the vendor's own words."""
    words = (("MMA", "MFMA"), ("shared memory", "LDS")) if profile.vendor == "amd" else ()
    use = USES[key]
    for ours, theirs in words:
        use = use.replace(ours, theirs)
    return use


def _cycles(readings: tuple[LatencyReading, ...]) -> Range | None:
    """Lowest and highest, in cycles; a reading in seconds counts where its clock is known."""
    cycles: list[float] = []
    for reading in readings:
        if reading.on is None and reading.value.unit == "cycles":
            cycles.append(float(reading.value))
        elif reading.on is None and reading.clock:
            cycles.append(reading.value * reading.clock)
    return _range(cycles)


def _nanoseconds(readings: tuple[LatencyReading, ...]) -> Range | None:
    """Lowest and highest, in nanoseconds: cycles ÷ the clock of the same reading."""
    times: list[float] = []
    for reading in readings:
        if reading.on is None and reading.value.unit == "s":
            times.append(reading.value * 1e9)
        elif reading.on is None and reading.clock:
            times.append(reading.value / reading.clock * 1e9)
    return _range(times)


def _range(values: list[float]) -> Range | None:
    return (min(values), max(values)) if values else None


def _sources(*readings: Reading | LatencyReading | None) -> tuple[str, ...]:
    """The sources' keys in the order they were used, each once."""
    given: Iterable[Reading | LatencyReading] = (reading for reading in readings if reading)
    return tuple(dict.fromkeys(key for reading in given for key in reading.source))
