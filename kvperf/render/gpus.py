"""GPU profiles as tables and records: the list, and everything about one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kvperf.hardware.gpu import Gpu
from kvperf.hardware.levels import Level, Range
from kvperf.hardware.network import Network, load_network
from kvperf.hardware.peaks import Peak, of
from kvperf.hardware.profile import Link, Measured
from kvperf.render.table import Table
from kvperf.units import binary, decimal, significant

UNKNOWN = "unknown"
Section = tuple[str, Table]


def summary(gpu: Gpu) -> dict[str, Any]:
    """One GPU's line of the list, in base units."""
    fp16, bf16 = gpu.peak("fp16").flops_per_s, gpu.peak("bf16").flops_per_s
    return {
        "name": gpu.name,
        "title": gpu.title,
        "architecture": gpu.architecture.name,
        "sms": gpu.sms,
        "hbm_capacity_bytes": gpu.hbm_capacity_bytes,
        "hbm_bytes_per_s": gpu.hbm_bytes_per_s,
        "fp16_flops_per_s": fp16,
        "bf16_flops_per_s": bf16,
        "ridge_flops_per_byte": max(fp16, bf16) / gpu.hbm_bytes_per_s,
        "l2_capacity_bytes": gpu.l2_capacity_bytes,
    }


def listing(gpus: Iterable[Gpu]) -> Table:
    """The list, 80 columns wide. The peak is fp16's or bf16's, whichever is faster: Volta and Turing have no bf16."""
    headers = ("GPU", "arch", "SMs,\nCUs", "HBM\nGiB", "HBM\nTB/s", "16-bit\nTFLOP/s", "ridge\nFLOP/B", "L2\nMiB")
    rows = []
    for row in map(summary, gpus):
        l2 = row["l2_capacity_bytes"]
        rows.append(
            (
                row["name"],
                row["architecture"],
                UNKNOWN if row["sms"] is None else str(row["sms"]),
                significant(row["hbm_capacity_bytes"] / 2**30),
                significant(row["hbm_bytes_per_s"] / 1e12),
                significant(max(row["fp16_flops_per_s"], row["bf16_flops_per_s"]) / 1e12),
                significant(row["ridge_flops_per_byte"]),
                UNKNOWN if l2 is None else f"{l2 / 2**20:g}",
            )
        )
    return Table(headers, tuple(rows), left=2)


def record(gpu: Gpu) -> dict[str, Any]:
    """Everything about one GPU, in base units; unknown is null."""
    return {
        "schema": "kvperf.gpu-details/1",
        **summary(gpu),
        "vendor": gpu.vendor,
        "path": str(gpu.path),
        "boost_hz": _number(gpu.profile.clocks.boost),
        "tensor_hz": _number(gpu.profile.clocks.tensor),
        "power_w": _number(gpu.profile.power),
        "levels": [_builtins(level) for level in gpu.levels()],
        "peaks": [_builtins(peak) | {"ridge_flops_per_byte": ridge} for peak, ridge in _ridges(gpu)],
        "limits": _builtins(gpu.architecture.limits),
        "per_clock": _builtins(gpu.architecture.per_clock),
        "mma": _builtins(gpu.architecture.mma),
        "features": list(gpu.architecture.features),
        "rates": {
            "cuda_core_flops_per_s": gpu.cuda_core_flops_per_s,
            "exponentials_per_s": gpu.exponentials_per_s,
            "conversions_per_s": gpu.conversions_per_s,
            "graph_launch_s": gpu.graph_launch_s,
            "stream_launch_s": gpu.stream_launch_s,
        },
        "links": _builtins(gpu.profile.links),
        "node": _builtins(gpu.profile.node),
        "network": _network_record(gpu),
        "measured": [_builtins(m) | {"unit": m.value.unit} for m in gpu.profile.measured],
        "notes": [*gpu.profile.notes, *gpu.architecture.notes],
        "sources": {key: str(source) for key, source in _sources(gpu).items()},
    }


def rows(gpu: Gpu) -> list[dict[str, Any]]:
    """The peaks, levels and readings of one GPU as flat rows for CSV."""
    flat: list[dict[str, Any]] = []
    for level in gpu.levels():
        for what, value, unit in (
            ("size", level.size_bytes, "B"),
            ("bandwidth", level.bandwidth_bytes_per_s, "B/s"),
            ("latency_low", level.latency_cycles and level.latency_cycles[0], "cycles"),
            ("latency_high", level.latency_cycles and level.latency_cycles[1], "cycles"),
        ):
            flat.append(_row("level", f"{level.name} {what}", value, unit, "", level.sources))
    for peak in map(of, gpu.profile.peaks):
        name = f"{peak.dtype} {peak.accumulator} {peak.path}"
        flat.append(_row("peak", name, peak.flops_per_s, "FLOP/s", peak.kind, peak.source))
    for m in gpu.profile.measured:
        flat.append(_row("measured", _experiment(m), float(m.value), m.value.unit, m.kind, m.source))
    return flat


def sections(gpu: Gpu) -> tuple[Section, ...]:
    """The tables of `kvperf gpus show`, each with its title: what a roofline needs first, the sources last."""
    levels, unit = gpu.levels(), gpu.profile.unit
    return (
        ("memory hierarchy", _hierarchy(levels, unit)),
        ("dense peaks, with the ridge against device memory", _peaks(gpu)),
        ("links, per direction", _links(gpu)),
        ("measured", _measured(gpu)),
        ("other rates", _rates(gpu)),
        ("what cached attention keeps where", _uses(levels)),
        (f"limits of one {unit} ({gpu.architecture.name}: {gpu.architecture.title})", _limits(gpu)),
        ("sources", _source_table(gpu)),
    )


def heading(gpu: Gpu) -> str:
    """What it is, how it runs, and where its profile lies: a line each."""
    clocks = gpu.profile.clocks
    unit = gpu.profile.unit
    count = f"{unit} count {UNKNOWN}" if gpu.sms is None else f"{gpu.sms} {unit}s"
    boost = decimal(clocks.boost.value, "Hz", 4) if clocks.boost else UNKNOWN
    tensor = decimal(clocks.tensor.value, "Hz", 4) if clocks.tensor else UNKNOWN
    matrix = "matrix" if gpu.vendor == "amd" else "tensor"
    power = f"{gpu.profile.power.value:g} W" if gpu.profile.power else UNKNOWN
    return (
        f"{gpu.name}: {gpu.title}\n"
        f"{count} ({gpu.architecture.name}), boost {boost}, {matrix} {tensor}, power {power}\n"
        f"profile: {gpu.path}\n"
    )


def notes(gpu: Gpu) -> str:
    return "".join(f"- {note}\n" for note in (*gpu.profile.notes, *gpu.architecture.notes))


def _hierarchy(levels: tuple[Level, ...], unit: str) -> Table:
    rows = []
    for level in levels:
        size = UNKNOWN if level.size_bytes is None else binary(level.size_bytes)
        if level.scope == "SM" and level.size_bytes is not None:
            size += f" per {unit}"
        bandwidth = level.bandwidth_bytes_per_s
        speed = UNKNOWN if bandwidth is None else f"{decimal(bandwidth, 'B/s')} {level.bandwidth_kind}"
        rows.append((level.name, size, speed, _span(level.latency_cycles), _span(level.latency_ns)))
        if level.far_latency_cycles:
            rows.append(("  its far half", "", "", _span(level.far_latency_cycles), _span(level.far_latency_ns)))
    return Table(("level", "size", "bandwidth", "latency\ncycles", "latency\nns"), tuple(rows))


def _uses(levels: tuple[Level, ...]) -> Table:
    rows = tuple((level.name, level.use, ", ".join(level.sources)) for level in levels)
    return Table(("level", "holds", "sources"), rows, left=3)


def _peaks(gpu: Gpu) -> Table:
    rows = tuple(
        (
            peak.dtype,
            peak.accumulator,
            peak.path,
            peak.kind,
            ", ".join(peak.source),
            significant(peak.flops_per_s / 1e12),
            significant(ridge),
        )
        for peak, ridge in _ridges(gpu)
    )
    headers = ("operands", "accumulate", "path", "kind", "sources", "TFLOP/s", "ridge\nFLOP/B")
    return Table(headers, rows, left=5)


def _rates(gpu: Gpu) -> Table:
    """Ceilings of an implementation that are neither matrix units nor memory."""
    per_clock, launch, amd = gpu.architecture.per_clock, gpu.profile.launch, gpu.vendor == "amd"
    conversions = tuple(f for f in ("e4m3_to_half", "half_to_fp32", "fp32_to_bf16", "bf16_multiply"))
    steps = [reading for name in conversions if (reading := getattr(per_clock, name))]
    known = dict.fromkeys(key for reading in steps for key in reading.source)

    def row(name: str, keys: Iterable[str], value: float | None, unit: str) -> tuple[str, str, str]:
        return name, ", ".join(keys) if value else "", UNKNOWN if value is None else decimal(value, unit)

    def keys(reading: Any) -> tuple[str, ...]:
        return reading.source if reading else ()

    return Table(
        ("rate", "sources", "value"),
        (
            row(
                "exponentials" if amd else "exponentials (SFU)",
                keys(per_clock.exponentials),
                gpu.exponentials_per_s,
                "/s",
            ),
            row("FP8 KV elements to bf16", known, gpu.conversions_per_s, "/s"),
            row("kernel launch in a stream", keys(launch.stream), gpu.stream_launch_s, "s"),
            row(
                "node of a HIP graph" if amd else "node of a CUDA graph",
                keys(launch.graph_node),
                gpu.graph_launch_s,
                "s",
            ),
        ),
        left=2,
    )


def _limits(gpu: Gpu) -> Table:
    rows = []
    for name in gpu.architecture.limits.__struct_fields__:
        reading = getattr(gpu.architecture.limits, name)
        if reading is None:
            continue
        value = reading.value
        if isinstance(value, tuple):
            text = ", ".join(f"{size / 1024:g}" for size in value) + " KiB"
        else:
            text = str(value) if isinstance(value, int) else binary(value)
        rows.append((_limit(name, gpu.vendor), ", ".join(reading.source), text))
    rows += [(f"{mma.path} tile rows", ", ".join(mma.source), str(mma.rows or UNKNOWN)) for mma in gpu.architecture.mma]
    return Table(("limit", "sources", "value"), tuple(rows), left=2)


def _limit(name: str, vendor: str) -> str:
    """A limit's key in the vendor's words."""
    words = {"sm": "SM", "l1": "L1"}
    if vendor == "amd":
        words |= {"sm": "CU", "warp": "wavefront", "warps": "wavefronts", "shared": "LDS"}
    return " ".join(words.get(word, word) for word in name.split("_"))


def _links(gpu: Gpu) -> Table:
    """Each link with its bandwidth, and how many GPUs stand behind it."""
    links, node = gpu.profile.links, gpu.profile.node
    rows = _link("to other GPUs", links.gpu) + _link("to the host", links.pcie)
    rows += _link("to its CPU", links.c2c) if links.c2c else []
    if node:
        rows.append(("one machine", node.gpus.note or "", ", ".join(node.gpus.source), f"{node.gpus.value} GPUs"))
    else:
        rows.append(("one machine", "", "", UNKNOWN))
    return Table(("link", "kind", "sources", "value"), tuple(rows + _between_machines(gpu)), left=3)


def _link(name: str, link: Link | None) -> list[tuple[str, str, str, str]]:
    """A link's row, and one for the GPUs that it joins where that is known."""
    if link is None:
        return [(name, "none", "", "")]
    bandwidth, gpus = link.per_direction, link.gpus
    rows = [(name, link.name, ", ".join(bandwidth.source), decimal(bandwidth.value, "B/s"))]
    if gpus:
        rows.append(("  joins", gpus.note or "", ", ".join(gpus.source), f"{gpus.value} GPUs"))
    return rows


def _between_machines(gpu: Gpu) -> list[tuple[str, str, str, str]]:
    """The network of usual machines, with its latency where somebody measured it."""
    named, network = gpu.profile.links.network, _network(gpu)
    if named is None or network is None:
        return [("to other machines", UNKNOWN, "", "")]
    keys = (*named.source, *network.per_direction.source)
    rows = [("to other machines", network.title, ", ".join(keys), decimal(network.bytes_per_s, "B/s"))]
    rows += [("", named.note, "", "")] if named.note else []
    if network.latency:
        rows.append(("  latency", "", ", ".join(network.latency.source), decimal(network.latency.value, "s", 2)))
    return rows


def _network_record(gpu: Gpu) -> dict[str, Any] | None:
    network = _network(gpu)
    if network is None:
        return None
    return {key: _builtins(getattr(network, key)) for key in ("name", "title", "per_direction", "latency", "notes")}


def _network(gpu: Gpu) -> Network | None:
    return load_network(gpu.network) if gpu.network else None


def _measured(gpu: Gpu) -> Table:
    rows = tuple((_experiment(m), m.note or "", ", ".join(m.source), _throughput(m)) for m in gpu.profile.measured)
    return Table(("experiment", "note", "sources", "value"), rows or (("nothing", "", "", ""),), left=3)


def _source_table(gpu: Gpu) -> Table:
    return Table(("key", "source"), tuple((key, str(source)) for key, source in _sources(gpu).items()), left=2)


def _throughput(measured: Measured) -> str:
    """FLOP/s all with one prefix, so that a column can be compared at a glance."""
    if measured.value.unit == "FLOP/s":
        return f"{significant(measured.value / 1e12, 4)} TFLOP/s"
    return decimal(float(measured.value), measured.value.unit, 4)


def _experiment(measured: Measured) -> str:
    words = [measured.what.replace("_", " "), measured.dtype, measured.path]
    words += [f"at {decimal(measured.clock, 'Hz', 4)}"] if measured.clock else []
    words += [f"on {measured.on}"] if measured.on else []
    return " ".join(word for word in words if word)


def _ridges(gpu: Gpu) -> list[tuple[Peak, float]]:
    """Each peak with the FLOP/byte above which it, and not device memory, bounds a kernel."""
    return [(peak, peak.flops_per_s / gpu.hbm_bytes_per_s) for peak in map(of, gpu.profile.peaks)]


def _sources(gpu: Gpu) -> dict[str, Any]:
    network = _network(gpu)
    return {**gpu.architecture.sources, **(network.sources if network else {}), **gpu.profile.sources}


def _span(values: Range | None) -> str:
    if values is None:
        return UNKNOWN
    low, high = (f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in values)
    return low if low == high else f"{low}–{high}"


def _row(section: str, name: str, value: Any, unit: str, kind: str, sources: Iterable[str]) -> dict[str, Any]:
    return {"section": section, "name": name, "value": value, "unit": unit, "kind": kind, "sources": " ".join(sources)}


def _number(reading: Any) -> float | None:
    return None if reading is None else float(reading.value)


def _builtins(value: Any) -> Any:
    """A struct as plain JSON values; quantities become numbers of base units."""
    return msgspec.to_builtins(value, enc_hook=float)
