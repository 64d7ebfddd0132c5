"""Views of the attention kernels: the list, the ladder side by side, the trials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kvperf.kernel.account import KernelAccount
from kvperf.kernel.catalogue import KERNELS, Kernel
from kvperf.render.analysis import folded
from kvperf.render.table import Table, markdown
from kvperf.units import significant

if TYPE_CHECKING:
    from kvperf.kernel.catalogue import KERNELS
from kvperf.kernel.verify import Verdict, Verification

# Roofs in a narrow column.
BECAUSE = {"hbm": "HBM", "tensor": "math", "l2": "L2", "flight": "flight"}


def listing(kernels: list[Kernel]) -> str:
    """Every kernel: what it is, what it changes against the one named, what that buys."""
    parts = []
    for k in kernels:
        lines = [f"{k.name}: {k.title}"]
        lines.append(f"  against {k.against}: {k.changes}" if k.against else f"  {k.changes}")
        lines.append(f"  buys: {k.buys}")
        takes = f"head_dim {_head_dims(k)}, up to {_most_group(k)} query heads a KV head, sm_{_lowest(k)} and later"
        parts.append(folded([*lines, f"  {takes}"]))
    return "\n".join(parts)


def listing_markdown(kernels: list[Kernel]) -> str:
    """The same as a Markdown table."""
    headers = ("kernel", "what", "against", "changes", "buys", "head_dim", "group ≤", "sm ≥")
    rows = tuple(
        (k.name, k.title, k.against or "", k.changes, k.buys, _head_dims(k), str(_most_group(k)), str(_lowest(k)))
        for k in kernels
    )
    return markdown(Table(headers, rows, left=6))


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
            "head_dims": _head_dims(k).replace(",", ""),
            "max_group": _most_group(k),
            "min_capability": _lowest(k),
        }
        for k in kernels
    ]


def account_row(found: KernelAccount) -> dict[str, Any]:
    """One kernel as a flat row in base units; launch figures are of the first launch."""
    first = found.launches[0]
    names = ("kernel", "gpu", "batch", "heads", "kv_heads", "head_dim", "seq", "dtype", "page_tokens", "splits")
    row = {name: getattr(found, name) for name in (*names, "split_tokens")}
    row["launches"] = len(found.launches)
    row |= {name: getattr(first, name) for name in ("blocks", "registers", "spill_bytes", "shared_bytes", "waves")}
    row["blocks_per_sm"] = first.occupancy.blocks_per_sm if first.occupancy else None
    row["warps_share"] = first.occupancy.warps_share if first.occupancy else None
    names = ("requested_bytes", "compulsory_bytes", "reread_factor", "matrix_flops", "flops_per_byte")
    names += ("requested_flops_per_byte", "mma_utilisation", "memory_bytes", "fits", "bound_s", "bound_by")
    row |= {name: getattr(found, name) for name in names}
    row["mma"] = " ".join(f"{name}={count}" for name, count in found.mma.items())
    row["held_bytes_per_sm"] = found.in_flight.held_bytes_per_sm
    row["in_flight_limits"] = found.in_flight.limits
    row |= {name: getattr(found.roofs, name) for name in found.roofs.__struct_fields__}
    return row | {"design_s": found.design_s, "slowest_roof": found.slowest_roof}


def verdicts(found: tuple[Verdict, ...]) -> Table:
    """One line a kernel: its trials, the worst error against its limit, requested bytes against the closed form."""
    headers = ("kernel", "S", "runs", "error", "limit", "cache bytes\nrequested", "cache bytes\npredicted", "verdict")
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
        span = _span([v.seq for v in runs])
        rows.append((name, span, str(len(runs)), error, f"{shown.limit:.1e}", requested, predicted, verdict))
    return Table(headers, tuple(rows))


def verification_heading(found: Verification) -> str:
    """Where and what was run: the lines above the table."""
    runs = found.verdicts
    schedules = ", ".join(dict.fromkeys(v.schedule for v in runs))
    values = ", ".join(dict.fromkeys(v.values for v in runs))
    splits = ", ".join(str(n) for n in sorted({v.splits or 1 for v in runs}))
    shapes = f"S {_span([v.seq for v in runs])} · splits {splits} · {values} values"
    return folded([f"{found.gpu} (sm_{found.capability}) · {runs[0].dtype} · {shapes}", f"schedules: {schedules}"])


def rounding_note(found: Verification) -> str:
    """What the error of matrix kernels in bf16 is of; empty where there are none."""
    matrix = {name for name, kernel in KERNELS.items() if "tensor cores" in kernel.strategies}
    if not any(v.dtype == "bf16" and v.kernel in matrix for v in found.verdicts):
        return ""
    return folded(
        ["on tensor cores in bf16: the error before the result is rounded to bf16, which is exact to the bit"]
    )


def ladder(accounts: list[KernelAccount]) -> Table:
    """The kernels side by side on one shape, no wider than a terminal."""
    headers = (
        "kernel",
        "splits",
        "blocks",
        "waves",
        "occ.\n%",
        "asked\nMB",
        "re-\nread",
        "bound\nµs",
        "least\nµs",
        "why",
    )
    rows = []
    for found in accounts:
        first = found.launches[0]
        rows.append(
            (
                found.kernel,
                str(found.splits),
                str(first.blocks),
                "?" if first.waves is None else f"{first.waves:.2f}",
                "?" if first.occupancy is None else f"{100 * first.occupancy.warps_share:.0f}",
                significant(found.requested_bytes / 1e6, 3),
                f"{found.reread_factor:.2f}",
                significant(found.bound_s * 1e6, 3),
                significant(found.design_s * 1e6, 3),
                BECAUSE[found.slowest_roof],
            )
        )
    return Table(headers, tuple(rows))


def ladder_notes(accounts: list[KernelAccount]) -> str:
    """What the columns mean."""
    lines = [
        "blocks, waves and occupancy are of the first launch; asked: bytes that threads request; bound: any kernel; "
        "least: this design, because of its arithmetic (math), the HBM, the L2, or too few bytes in flight (flight)"
    ]
    unknown = [name for name in ("tensor", "l2") if any(getattr(a.roofs, f"{name}_s") is None for a in accounts)]
    if unknown:
        left_out = " and ".join(
            {"tensor": "the rate of some matrix instructions", "l2": "the L2 bandwidth"}[n] for n in unknown
        )
        lines.append(f"least leaves out what is unknown here: {left_out}")
    if accounts[0].uncompiled:
        lines.append(f"occupancy unknown: {accounts[0].uncompiled}; splits are chosen as if an SM held one block")
    return folded(lines)


def _head_dims(chosen: Kernel) -> str:
    return ", ".join(str(d) for d in sorted({d for row in chosen.support for d in row.head_dims}))


def _most_group(chosen: Kernel) -> int:
    return max(row.max_group for row in chosen.support)


def _lowest(chosen: Kernel) -> int:
    return min(row.min_capability for row in chosen.support)


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"
