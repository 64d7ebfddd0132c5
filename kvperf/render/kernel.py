"""Views of the attention kernels: the list, one kernel line by line, the ladder side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kvperf.kernel.account import KernelAccount, LaunchFacts
from kvperf.kernel.catalogue import Kernel
from kvperf.render.analysis import folded
from kvperf.render.table import Table
from kvperf.units import binary, decimal, significant

if TYPE_CHECKING:
    from kvperf.kernel.verify import Verdict


def listing(kernels: list[Kernel]) -> Table:
    """One line a kernel: what it runs and what it adds to the one before."""
    headers = ("kernel", "sm\n≥", "group\n≤", "buys")
    rows = tuple(
        (
            k.name,
            str(min(row.min_capability for row in k.support)),
            str(max(row.max_group for row in k.support)),
            _short(k.buys),
        )
        for k in kernels
    )
    return Table(headers, rows, left=4)


def list_rows(kernels: list[Kernel]) -> list[dict[str, Any]]:
    """Every kernel as data."""
    return [
        {
            "kernel": k.name,
            "title": k.title,
            "against": k.against,
            "changes": k.changes,
            "buys": k.buys,
            "strategies": ", ".join(k.strategies),
            "cache": k.cache,
            "dtypes": " ".join(sorted({d for row in k.support for d in row.dtypes})),
            "head_dims": " ".join(str(d) for d in sorted({d for row in k.support for d in row.head_dims})),
            "max_group": max(row.max_group for row in k.support),
            "min_capability": min(row.min_capability for row in k.support),
        }
        for k in kernels
    ]


def page(found: KernelAccount) -> str:
    """One kernel: its idea, launches, shared memory, traffic, roofs."""
    against = f"against {found.against}: {found.changes}" if found.against else found.changes
    lines = [
        f"{found.kernel}: {found.title}",
        against,
        f"buys: {found.buys}",
        f"uses: {', '.join(found.strategies) or 'nothing yet'}",
    ]
    parts = [folded([_where(found)]), "\n", folded(lines), "\n"]
    for launch in found.launches:
        parts += [folded(_launch_lines(launch)), "\n"]
    parts += [folded(_traffic_lines(found)), "\n", folded(_roof_lines(found))]
    return "".join(parts)


def verdicts(found: tuple[Verdict, ...]) -> Table:
    """One line a kernel: its trials, the worst error against its limit, requested bytes against the closed form."""
    headers = ("kernel", "runs", "error", "limit", "cache bytes\nrequested", "cache bytes\npredicted", "verdict")
    rows = []
    for name in dict.fromkeys(v.kernel for v in found):
        runs = [v for v in found if v.kernel == name]
        wrong = [v for v in runs if v.verdict == "wrong"]
        shown = max(wrong or runs, key=lambda v: v.error if v.error is not None and v.error == v.error else math.inf)
        if any(v.requested_bytes is None for v in runs):
            requested = "–"
        else:
            requested = f"{sum(v.requested_bytes or 0 for v in runs):,}"
        error = "–" if shown.error is None else f"{shown.error:.1e}"
        verdict = f"{len(wrong)} wrong" if wrong else "right"
        predicted = f"{sum(v.predicted_bytes for v in runs):,}"
        rows.append((name, str(len(runs)), error, f"{shown.limit:.1e}", requested, predicted, verdict))
    return Table(headers, tuple(rows))


def ladder(accounts: list[KernelAccount]) -> Table:
    """The kernels side by side on one shape."""
    headers = (
        "kernel",
        "splits",
        "blocks",
        "regs",
        "shared\nKiB",
        "blocks\n/SM",
        "waves",
        "re-\nread",
        "hbm\nµs",
        "L2\nµs",
        "issue\nµs",
    )
    rows = []
    for found in accounts:
        first = found.launches[0]
        rows.append(
            (
                found.kernel,
                str(found.splits),
                str(first.blocks),
                _or_unknown(first.registers),
                significant(first.shared_bytes / 1024, 3),
                _or_unknown(first.occupancy.blocks_per_sm if first.occupancy else None),
                "unknown" if first.waves is None else f"{first.waves:.2f}",
                f"{found.reread_factor:.2f}",
                _microseconds(found.roofs.hbm_s),
                _microseconds(found.roofs.l2_s),
                _microseconds(found.roofs.issue_s),
            )
        )
    return Table(headers, tuple(rows))


def _where(found: KernelAccount) -> str:
    shape = f"batch {found.batch} · {found.heads} heads · {found.kv_heads} KV heads · head_dim {found.head_dim}"
    return f"{found.gpu} ({found.architecture}) · {shape} · {found.seq} cached tokens · {found.dtype}"


def _launch_lines(launch: LaunchFacts) -> list[str]:
    lines = [
        f"launch {launch.entry}: grid {launch.grid} = {launch.blocks} blocks of {launch.block} threads",
    ]
    shared = ", ".join(f"{name} {binary(size)}" for name, size in launch.shared.items() if size)
    lines.append(f"shared memory {binary(launch.shared_bytes)}" + (f": {shared}" if shared else ""))
    if launch.registers is None:
        return [*lines, "registers and occupancy unknown: NVRTC is not installed (kvperf[kernels])"]
    lines.append(f"registers {launch.registers} a thread, {launch.spill_bytes} bytes spilled")
    if launch.occupancy:
        by = " and ".join(launch.occupancy.limited_by)
        share = f"{launch.occupancy.warps_per_sm} warps, {launch.occupancy.warps_share:.0%}"
        lines.append(f"occupancy {launch.occupancy.blocks_per_sm} blocks an SM ({share}), limited by {by}")
    if launch.waves is not None:
        lines.append(f"waves {launch.waves:.2f}")
    return lines


def _traffic_lines(found: KernelAccount) -> list[str]:
    loads = ", ".join(f"{name} {decimal(size, 'B')}" for name, size in found.loads.items())
    stores = ", ".join(f"{name} {decimal(size, 'B')}" for name, size in found.stores.items())
    lines = [
        f"requested: loads {loads}; stores {stores}",
        f"compulsory {decimal(found.compulsory_bytes, 'B', 4)}; K and V are read {found.reread_factor:.2f} times; "
        f"{significant(found.flops_per_byte, 3)} FLOP/B",
    ]
    if found.mma:
        counts = ", ".join(f"{count:,} × {name}" for name, count in found.mma.items())
        lines.append(f"matrix instructions {counts}; {found.mma_utilisation:.0%} of their rows hold a query")
    flight = found.in_flight
    held = f"in flight {binary(flight.held_bytes_per_sm)} an SM"
    if flight.needed_bytes_per_sm:
        low, high = flight.needed_bytes_per_sm
        held += (
            f"; the memory needs {binary(low)} to {binary(high)} at its unloaded latency, 1.5 to 2 times that loaded"
        )
    return [*lines, held]


def _roof_lines(found: KernelAccount) -> list[str]:
    names = {
        "hbm_s": "HBM, compulsory bytes",
        "tensor_s": "arithmetic of this design",
        "l2_s": "L2, requested bytes",
        "flight_s": "bytes in flight",
        "issue_s": "issue slots (static estimate from the main loop)",
    }
    lines = ["roofs of this design:"]
    for field, name in names.items():
        seconds = getattr(found.roofs, field)
        lines.append(f"  {name}: {'unknown' if seconds is None else decimal(seconds, 's')}")
    lines.append(
        f"bound {decimal(found.bound_s, 's', 4)} ({found.bound_by}) for any kernel; the highest roof here is "
        f"{names[found.slowest_roof + '_s']}; predicted time: unknown, not calibrated"
    )
    return lines


def _microseconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else significant(seconds * 1e6, 3)


def _or_unknown(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _short(text: str) -> str:
    """The first clause, at most the width that is left of 80 columns."""
    from textwrap import shorten

    return shorten(text.split(";")[0], 46, placeholder=" …")
