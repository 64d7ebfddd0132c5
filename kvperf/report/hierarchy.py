"""The memory hierarchy: what each level holds, how fast it answers, and who says so."""

from __future__ import annotations

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
        if level.far_latency_cycles:
            latency = (*latency, "; far ", *between(f"{name}.far_cycles", level.far_latency_cycles, "cycles"))
        elapsed = between(f"{name}.latency_ns", level.latency_ns, "ns")
        scope = unit if level.scope == "SM" else level.scope
        cites = joined(subject.sources(level.sources), " ")
        rows.append(row(level.name, scope, held(f"{name}.size", level.size_bytes), rate, latency, elapsed, cites))
    return Table(
        "What each level holds, delivers and takes to answer",
        ("level", "of", "capacity", "bandwidth", "latency", "latency", "sources"),
        tuple(rows),
        notes=(
            line("Capacity is of one of what the second column names; bandwidth is of the whole GPU."),
            line("Latencies are an unloaded pointer chase, lowest to highest reading on this very GPU."),
            line("Nanoseconds come from readings whose clock was recorded; registers: one dependent multiply-add."),
        ),
    )


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
