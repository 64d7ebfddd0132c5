"""The roofs of a step: peaks that its stages can reach, as stated and as measured on this GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvperf.record import Analysis, UsedPeak
from kvperf.units import decimal


class Roof(NamedTuple):
    """A line: bytes or FLOP a second. Stated peaks are solid and named above, readings dashed and named below."""

    name: str
    rate: float
    label: str
    solid: bool
    above: bool
    is_hbm: bool = False


def memory_roofs(
    record: Analysis, hbm: tuple[str, str], caches: Sequence[tuple[str, float | None, str | None]]
) -> list[Roof]:
    """Device memory, its best reading, and the caches that are asked for."""
    gpu, (name, kind) = record.gpu, hbm
    found = [
        Roof(name, gpu.hbm_bytes_per_s, f"{name}  {decimal(gpu.hbm_bytes_per_s, 'B/s')} ({kind})", True, True, True)
    ]
    if gpu.measured_hbm_bytes_per_s is not None:
        said = f"{decimal(gpu.measured_hbm_bytes_per_s, 'B/s')} (measured)"
        found.append(Roof(f"{name} measured", gpu.measured_hbm_bytes_per_s, said, False, False, True))
    for cache, rate, how in caches:
        if rate is not None:
            found.append(Roof(cache, rate, f"{cache}  {decimal(rate, 'B/s')} ({how})", how != "measured", True))
    return found


def flat_roofs(record: Analysis) -> list[Roof]:
    """The dense peak of each unit that the step's products use, and its best reading."""
    units: dict[tuple[str, float], list[UsedPeak]] = {}
    for peak in record.gpu.peaks:
        units.setdefault((peak.path, peak.flops_per_s), []).append(peak)
    found = []
    for (path, rate), peaks in units.items():
        name = f"{'/'.join(dict.fromkeys(peak.dtype for peak in peaks))} {path}"
        found.append(Roof(name, rate, f"{name}  {decimal(rate, 'FLOP/s')} ({peaks[0].kind})", True, True))
        readings = [peak.measured_flops_per_s for peak in peaks if peak.measured_flops_per_s is not None]
        if readings:
            said = f"{name.split(' ')[0]} {decimal(max(readings), 'FLOP/s')} (measured)"
            found.append(Roof(f"{name} measured", max(readings), said, False, False))
    return found


def sources(record: Analysis, hbm: tuple[str, str]) -> str:
    """Where the peaks come from."""
    gpu = record.gpu
    said = (
        f"{_unit(p)} {decimal(p.flops_per_s, 'FLOP/s', 4)} dense, {p.accumulator} accumulation ({_first(p.source)})"
        for p in gpu.peaks
    )
    peaks = dict.fromkeys(said)
    memory = f"{hbm[0]} {decimal(gpu.hbm_bytes_per_s, 'B/s')} ({_first(gpu.hbm_source)})"
    return "Peaks: " + "; ".join([*peaks, memory])


def _unit(peak: UsedPeak) -> str:
    return f"{peak.dtype} {peak.path}"


def _first(source: tuple[str, ...]) -> str:
    return source[0].split(": ")[0] if source else "no source"
