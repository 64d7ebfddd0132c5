"""A hardware profile from a run of the ceilings: limits as the driver says, ceilings as they were read.

What only a datasheet knows is left to the user: the profile says where. Peaks are derived from the architecture's
FLOP per clock and SM at the highest SM clock, so that they stand above every reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from kvperf.bench.record import Case, Environment, Record
from kvperf.errors import KvperfError
from kvperf.files import folder
from kvperf.hardware import Architecture
from kvperf.hardware.loading import load_architecture
from kvperf.units import decimal

# Subjects of ceilings → what a profile calls them.
BANDWIDTHS = {
    "read": "read_bandwidth",
    "write": "write_bandwidth",
    "copy": "copy_bandwidth",
    "triad": "stream_bandwidth",
}
PRODUCTS = {
    "fma_fp32": ("vector", "fp32", "cuda_core"),
    "fma_fp16": ("vector", "fp16", "cuda_core"),
    "fma_bf16": ("vector", "bf16", "cuda_core"),
    "mma_sync_fp16": ("mma", "fp16", "mma.sync"),
    "mma_sync_bf16": ("mma", "bf16", "mma.sync"),
    "mma_sync_int8": ("mma", "int8", "mma.sync"),
    "mma_sync_e4m3": ("mma", "fp8", "mma.sync"),
    "wgmma": ("mma", "bf16", "wgmma"),
}


def profile_text(record: Record, name: str) -> str:
    """The profile as YAML. Raises KvperfError where the record has no ceilings that a profile needs."""
    where, found = record.environment, _ceilings(record)
    if record.emulated or not _best(found, "read"):
        raise KvperfError("the record has no reading of the memory's bandwidth", "write profiles of bench ceilings")
    file = folder("hardware") / "architectures" / f"sm_{where.capability}.yaml"
    if not file.is_file():
        raise KvperfError(f"sm_{where.capability} is an architecture that no file describes", f"add {file.name}")
    return "\n".join(_lines(where, found, load_architecture(file), name, record)) + "\n"


def _lines(
    where: Environment, found: list[Case], architecture: Architecture, name: str, record: Record
) -> Iterator[str]:
    geforce = "GeForce" in where.gpu
    yield f"# Written by kvperf {record.version} from readings of {record.started}. From the datasheet, fill in: title,"
    yield "# the memory's type, clocks.tensor and the peaks at that clock, links.gpu. docs/profiles.md has the rules."
    yield "schema: kvperf.gpu/1"
    yield f"name: {name}"
    yield f"title: {json.dumps(where.gpu)}"
    yield "vendor: nvidia"
    yield f"aliases: [{json.dumps(where.gpu)}]"
    yield f"architecture: sm_{where.capability}"
    if geforce:
        yield "geforce: true"
    yield f"sms: {{value: {where.sms}, kind: spec, source: [driver]}}"
    yield from _clocks_and_peaks(where, architecture, geforce)
    yield from _memory(where, found)
    yield from _links(found)
    if where.power_cap_w:
        yield f"power: {{value: {where.power_cap_w:.0f} W, kind: spec, source: [driver], note: enforced limit}}"
    yield from _launch(found)
    yield from _measured(found)
    yield "sources:"
    versions = f"driver {where.driver or 'unknown'}, CUDA {where.cuda or 'unknown'}"
    yield f'  driver: {{document: "{versions}", table: device attributes}}'
    yield f'  bench: {{document: "kvperf bench ceilings, {record.started}", table: "seed {record.seed}"}}'


def _clocks_and_peaks(where: Environment, architecture: Architecture, geforce: bool) -> Iterator[str]:
    clock_hz = where.sm_clock_max_hz
    if clock_hz is None:
        yield "peaks: []"
        return
    boost = f"{{value: {clock_hz / 1e6:.0f} MHz, kind: spec, source: [driver], note: highest}}"
    yield f"clocks: {{boost: {boost}, tensor: {boost}}}"
    yield "peaks:"
    for rate in architecture.flop_per_clock:
        exact = architecture.rate(rate.dtype, rate.accumulator, rate.path, geforce)
        assert exact is not None
        value = decimal(where.sms * clock_hz * exact.value, "FLOP/s", 4)
        unit = f"dtype: {rate.dtype}, accumulator: {rate.accumulator}, path: {rate.path}"
        yield f"- {{{unit}, value: {value}, kind: derived, source: [driver], note: SMs × clock × FLOP/clock/SM}}"


def _memory(where: Environment, found: list[Case]) -> Iterator[str]:
    yield "memory:"
    if latency := _latency(found, "l1"):
        yield f"  l1: {{latency: [{latency}]}}"
    if where.l2_bytes:
        yield "  l2:"
        yield f"    capacity: {{value: {where.l2_bytes} B, kind: spec, source: [driver]}}"
        if l2 := max((c for c in found if c.subject == "l2_read" and c.rate), key=lambda c: c.rate or 0, default=None):
            note = f"kind: measured, source: [bench], note: footprint of {int(l2.shape['bytes'])} B"
            yield f"    bandwidth: {{value: {decimal(l2.rate or 0, 'B/s', 4)}, {note}}}"
        for key, level in (("latency", "l2"), ("far_latency", "l2_far")):
            if latency := _latency(found, level):
                yield f"    {key}: [{latency}]"
    yield "  hbm:"
    yield "    type: device memory"
    yield f"    capacity: {{value: {where.memory_bytes} B, kind: spec, source: [driver]}}"
    yield f"    visible: {{value: {where.memory_bytes} B, kind: spec, source: [driver]}}"
    read = _best(found, "read") or 0.0
    clock_hz, bits = where.memory_clock_max_hz, where.memory_bus_bits
    peak = bits / 8 * clock_hz * 2 if clock_hz and bits else 0.0
    if peak >= read and clock_hz:
        yield (
            f"    bandwidth: {{value: {decimal(peak, 'B/s', 4)}, kind: derived, source: [driver], "
            "note: bus width × memory clock × 2}"
        )
        yield f"    bus_width: {{value: {bits} bit, kind: spec, source: [driver]}}"
        yield f"    clock: {{value: {clock_hz / 1e6:.0f} MHz, kind: spec, source: [driver]}}"
        yield "    pumps: {value: 2, kind: spec, source: [driver], note: double data rate}"
    else:
        yield f"    bandwidth: {{value: {decimal(read, 'B/s', 4)}, kind: measured, source: [bench], note: best read}}"
    if latency := _latency(found, "memory"):
        yield f"    latency: [{latency}]"


def _links(found: list[Case]) -> Iterator[str]:
    rates = [c.rate for c in found if c.family == "host" and c.rate]
    if rates:
        value = f"{{value: {decimal(max(rates), 'B/s', 4)}, kind: measured, source: [bench], note: pinned copy}}"
        yield f"links: {{pcie: {{name: host link, per_direction: {value}}}}}"


def _launch(found: list[Case]) -> Iterator[str]:
    known = {"stream": _rate(found, "launch in a stream"), "graph_node": _rate(found, "graph node")}
    parts = [f"{k}: {{value: {1e9 / r:.0f} ns, kind: measured, source: [bench]}}" for k, r in known.items() if r]
    if parts:
        yield f"launch: {{{', '.join(parts)}}}"


def _measured(found: list[Case]) -> Iterator[str]:
    yield "measured:"
    for subject, what in BANDWIDTHS.items():
        if best := _best(found, subject):
            yield f"- {{what: {what}, value: {decimal(best, 'B/s', 4)}, kind: measured, source: [bench]}}"
    for subject, (what, dtype, path) in PRODUCTS.items():
        case = next((c for c in found if c.subject == subject and c.rate), None)
        if case and case.rate:
            clock = f", clock: {_clock_hz(case) / 1e6:.0f} MHz" if _clock_hz(case) else ""
            unit = f"what: {what}, dtype: {dtype}, path: {path}"
            yield f"- {{{unit}, value: {decimal(case.rate, 'FLOP/s', 4)}, kind: measured, source: [bench]{clock}}}"


def _ceilings(record: Record) -> list[Case]:
    """Readings that can be believed."""
    return [c for c in record.cases if c.family in ("ceiling", "host") and c.refused is None and c.statistics]


def _best(found: list[Case], subject: str) -> float | None:
    cold = [c for c in found if c.subject == subject and c.regime == "cold"]
    return max((c.bytes_per_s for c in cold if c.bytes_per_s), default=None)


def _rate(found: list[Case], subject: str) -> float | None:
    return next((c.rate for c in found if c.subject == subject and c.rate), None)


def _clock_hz(case: Case) -> float:
    known = sorted(clock for clock in case.samples.sm_clock_hz if clock)
    return known[len(known) // 2] if known else 0.0


def _latency(found: list[Case], level: str) -> str | None:
    """A pointer chase in clocks where the SM clock was read, else in time."""
    case = next((c for c in found if c.subject == "latency" and c.shape.get("level") == level and c.rate), None)
    if case is None or not case.rate:
        return None
    clock_hz = _clock_hz(case)
    if not clock_hz:
        return f"{{value: {1e9 / case.rate:.0f} ns, kind: measured, source: [bench]}}"
    value = f"{clock_hz / case.rate:.0f} cycles"
    return f"{{value: {value}, kind: measured, source: [bench], clock: {clock_hz / 1e6:.0f} MHz}}"
