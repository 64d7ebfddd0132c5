"""The memory hierarchy: what each level holds, how fast it answers, and who says so."""

from __future__ import annotations

from typing import Any

from kvperf.report.document import Line, Section, Table, Text, joined, line, row, text
from kvperf.report.subject import Subject
from kvperf.report.values import between, bytes_per_s, count, held, over, times, word

LIMITS = {
    "threads of a warp": "warp_threads",
    "threads": "threads_per_sm",
    "warps": "warps_per_sm",
    "blocks": "blocks_per_sm",
    "threads of a block": "threads_per_block",
    "registers of a thread": "registers_per_thread",
    "registers of a block": "registers_per_block",
    "shared memory": "shared_per_sm",
    "shared memory of a block": "shared_per_block",
}
REGISTERS = "registers"
BYTES = ("shared_per_sm", "shared_per_block")


def section(subject: Subject) -> Section:
    return Section("hierarchy", "The memory hierarchy", (_levels(subject), _reading(subject), _limits(subject)))


def _levels(subject: Subject) -> Table:
    unit = subject.gpu.profile.unit
    rows = []
    for level in subject.gpu.levels():
        name = f"hierarchy.{level.name.replace(' ', '_')}"
        rate: Line = (bytes_per_s(f"{name}.bandwidth", level.bandwidth_bytes_per_s),)
        if level.bandwidth_kind:
            rate = (*rate, f" ({level.bandwidth_kind})")
        latency = between(f"{name}.latency_cycles", level.latency_cycles, "cycles")
        borrowed = level.name == REGISTERS and _is_borrowed(subject)
        if borrowed:
            latency = (*latency, " (another GPU's)")
        if level.far_latency_cycles:
            latency = (*latency, "; far ", *between(f"{name}.far_cycles", level.far_latency_cycles, "cycles"))
        elapsed = between(f"{name}.latency_ns", None if borrowed else level.latency_ns, "ns")
        scope = unit if level.scope == "SM" else level.scope
        cites = joined(subject.sources(level.sources), " ")
        rows.append(row(level.name, scope, held(f"{name}.size", level.size_bytes), rate, latency, elapsed, cites))
    return Table(
        "What each level holds, delivers and takes to answer",
        ("level", "of", "capacity", "bandwidth", "latency", "latency", "sources"),
        tuple(rows),
        notes=(
            line("Capacity is of one of what the second column names; bandwidth is of the whole GPU."),
            line("Latencies are an unloaded pointer chase, lowest to highest reading on this very GPU unless marked."),
            line("Nanoseconds come from readings whose clock was recorded; registers: one dependent multiply-add."),
            *_notes(subject),
        ),
    )


def _is_borrowed(subject: Subject) -> bool:
    """Whether the multiply-add was read on another generation: its note says on which."""
    fma = subject.gpu.architecture.dependent_fma
    return fma is not None and fma.note is not None


def _notes(subject: Subject) -> list[Line]:
    """What the profile says of single readings."""
    memory, architecture = subject.gpu.profile.memory, subject.gpu.architecture
    limits, hbm = architecture.limits, memory.hbm
    readings: list[tuple[str, Any]] = [(REGISTERS, architecture.dependent_fma), (REGISTERS, limits.register_file)]
    readings += [
        ("shared memory", reading) for reading in (architecture.per_clock.shared_bytes, *memory.shared.latency)
    ]
    readings += [("L1 cache", reading) for reading in (limits.l1 or limits.l1_and_shared, *memory.l1.latency)]
    for name, cache in (("L2 cache", memory.l2), ("last-level cache", memory.llc)):
        if cache is not None:
            read = (cache.capacity, cache.bandwidth, *cache.latency, *cache.far_latency)
            readings += [(name, reading) for reading in read]
    readings += [(hbm.type, reading) for reading in (hbm.visible or hbm.capacity, hbm.bandwidth, *hbm.latency)]
    said = dict.fromkeys((name, reading.kind, reading.note) for name, reading in readings if reading and reading.note)
    return [
        line("{} ({}): {}.", name, word(f"hierarchy.note.{n}.kind", kind), word(f"hierarchy.note.{n}", note))
        for n, (name, kind, note) in enumerate(said)
    ]


def _reading(subject: Subject) -> Text:
    """What lives where, and the steps between the levels."""
    gpu, levels = subject.gpu, subject.gpu.levels()
    lines = [line("{}: {}.", level.name, level.use) for level in levels]
    registers, last = levels[0].size_bytes, levels[-1]
    if registers is not None and gpu.sms:
        lines.append(
            line(
                "The register files of {} {}s hold {} together.",
                count("hierarchy.sms", gpu.sms),
                gpu.profile.unit,
                held("hierarchy.registers.total", registers * gpu.sms),
            )
        )
    l2 = gpu.l2_bytes_per_s
    if l2 is not None:
        lines.append(
            line(
                "The L2 delivers {} the bandwidth of {}: what query heads read again must not ask for more than that.",
                times("hierarchy.l2_over_memory", over(l2, gpu.hbm_bytes_per_s)),
                last.name,
            )
        )
    best = gpu.measured_hbm_bytes_per_s
    if best is not None:
        lines.append(
            line(
                "The best reading of {} on this GPU is {}, {} the specified peak.",
                last.name,
                bytes_per_s("hierarchy.memory.measured", best),
                times("hierarchy.memory.measured_share", best / gpu.hbm_bytes_per_s),
            )
        )
    return Text(tuple(lines), listed=True)


def _limits(subject: Subject) -> Table | Text:
    unit, limits = subject.gpu.profile.unit, subject.gpu.architecture.limits
    rows = []
    for title, field in LIMITS.items():
        reading = getattr(limits, field)
        if reading is None:
            continue
        make = held if field in BYTES else count
        rows.append(
            row(title, make(f"limits.{field}", int(reading.value)), joined(subject.sources(reading.source), " "))
        )
    if not rows:
        return text(line("The limits of one {} are {}.", unit, word("limits", None)))
    return Table(f"What one {unit} takes", ("limit", "value", "sources"), tuple(rows))
