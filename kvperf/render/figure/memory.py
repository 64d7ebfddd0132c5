"""What fills the GPU as batch or context grows, up to the first size that does not fit."""

from __future__ import annotations

from typing import Any

from kvperf.capacity import Memory
from kvperf.crossings import Sweep, shared_warnings
from kvperf.record import Analysis
from kvperf.render.analysis import precision
from kvperf.render.figure.labels import spread
from kvperf.render.figure.sheet import ABOVE, panel, sheet
from kvperf.render.figure.sweep import heading, size_name
from kvperf.render.figure.theme import Theme, in_house_style

PLOT_WIDTH, PLOT_HEIGHT = 8.0, 3.9
GIB = 1 << 30
LINE_PT = 12
# Field, name, hatch.
PARTS = (
    ("resident_weight_bytes", "weights", ""),
    ("kv_cache_bytes", "KV cache", "////"),
    ("activation_peak_bytes", "activations", "||||"),
    ("reserve_bytes", "reserve", "xxxx"),
)


@in_house_style
def memory(found: Sweep, theme: Theme) -> Any:
    """The figure."""
    record = found.records[0]
    reserve = "context, workspaces and captured graphs"
    if record.memory.collective_buffer_bytes:
        reserve += ", with the buffers of collectives"
    note = f"Bytes on the busiest GPU. Faint bars do not fit. The reserve is for {reserve}."
    footer = [note, from_profile(record)]
    figure, bottom = sheet(theme, PLOT_HEIGHT, heading(found), precision(record), footer, ABOVE, shared_warnings(found))
    axes = panel(figure, theme, 0.75, bottom, PLOT_WIDTH, PLOT_HEIGHT)
    for place, kept in enumerate(r.memory for r in found.records):
        _stack(axes, theme, place, kept)
    names = [size_name(size) for size in found.sizes]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    _limits(axes, theme, record.memory)
    _largest(axes, theme, found)
    axes.set_xlabel("sequences of the step" if found.over == "batch" else "context of each sequence  [tokens]")
    axes.xaxis.label.set_color(theme.ink)
    axes.set_ylabel("memory of the GPU  [GiB]", color=theme.ink)
    axes.grid(axis="y", color=theme.grid, linewidth=0.6)
    _legend(axes, theme)
    return figure


def _stack(axes: Any, theme: Theme, place: int, kept: Memory) -> None:
    base = 0.0
    for (field, name, hatch), colour in zip(PARTS, colours(theme), strict=True):
        held = getattr(kept, field) + (kept.collective_buffer_bytes if field == "reserve_bytes" else 0)
        size = float(held) / GIB
        bar = axes.bar(place, size, 0.72, bottom=base, color=colour, hatch=hatch, edgecolor=theme.paper, linewidth=0)
        bar[0].set(gid=f"part {name}", alpha=0.35 if kept.fits is False else 1)
        base += size


def colours(theme: Theme) -> tuple[str, ...]:
    return (*theme.series[:3], theme.muted)


def _largest(axes: Any, theme: Theme, found: Sweep) -> None:
    """Its name in bold below its bar, and in words above the capacity."""
    if found.crossings:
        at = found.crossings[0].at
        axes.get_xticklabels()[found.sizes.index(at)].set_fontweight("bold")
        said = f"largest that fits: {at} {'sequences' if found.over == 'batch' else 'tokens of context'}"
    else:
        said = "every size fits" if found.records[-1].memory.fits else "no size fits"
    limit = found.records[0].model.max_context_tokens
    if found.over == "seq" and found.crossings and limit and found.crossings[0].at > limit:
        said += f" (the model takes {limit})"
    capacity = found.records[0].memory.capacity_bytes
    if capacity is not None:
        axes.annotate(
            said,
            (0, capacity / GIB),
            xycoords=("axes fraction", "data"),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8.5,
            fontweight="bold",
            color=theme.ink,
            gid="largest",
        )


def _limits(axes: Any, theme: Theme, kept: Memory) -> None:
    if kept.capacity_bytes is None:
        return
    capacity = kept.capacity_bytes / GIB
    usable = capacity * kept.usable_fraction
    lines = (
        (usable, f"usable {usable:.1f} ({kept.usable_fraction:.0%})", "-"),
        (capacity, f"capacity {capacity:.1f}", (0, (4, 2))),
    )
    top = max(axes.get_ylim()[1], capacity * 1.14)
    axes.set_ylim(0, top)
    places = spread([y / top for y, _, _ in lines], LINE_PT / 72 / PLOT_HEIGHT)
    for (y, name, dash), at in zip(lines, places, strict=True):
        axes.axhline(y, color=theme.ink, linewidth=1.1, linestyle=dash, gid=f"limit {name.split()[0]}")
        ends = (1.0, 1.012), (y / top, at)
        axes.plot(*ends, transform=axes.transAxes, color=theme.ink, linewidth=0.7, clip_on=False)
        axes.text(
            1.016,
            at,
            name,
            transform=axes.transAxes,
            va="center",
            fontsize=8,
            color=theme.ink,
            gid="limit label",
        )


def _legend(axes: Any, theme: Theme) -> None:
    from matplotlib.patches import Patch

    keys = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=theme.paper, linewidth=0, label=name)
        for (_, name, hatch), colour in zip(PARTS, colours(theme), strict=True)
    ]
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, labelcolor=theme.ink
    )


def from_profile(record: Analysis) -> str:
    return f"Profile {record.gpu.name} · kvperf {record.version}"
