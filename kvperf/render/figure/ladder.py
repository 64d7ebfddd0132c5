"""The ladder of kernels: achieved bandwidth over the size of K and V, against what this GPU reads at best."""

from __future__ import annotations

from typing import Any

from kvperf.bench.record import Case, Record
from kvperf.errors import KvperfError
from kvperf.render.figure.gap import taken_by
from kvperf.render.figure.labels import spread
from kvperf.render.figure.sheet import panel, sheet
from kvperf.render.figure.theme import DASHES, SHAPES, Theme, in_house_style
from kvperf.units import binary, decimal

PLOT_WIDTH, PLOT_HEIGHT = 6.9, 4.3


def ladder_cases(record: Record) -> list[Case]:
    """Cold readings of attention kernels. Raises KvperfError where the record has none."""
    found = [
        case
        for case in record.cases
        if case.family in ("attention", "kernel") and case.regime == "cold" and case.statistics and not case.refused
    ]
    found = [case for case in found if case.bytes_per_s and case.work.kv_bytes]
    if record.emulated or not found:
        why = "it is emulated" if record.emulated else "none is of attention, cold and believed"
        raise KvperfError(f"the record has no reading for a ladder: {why}", "`kvperf bench attention` takes them")
    return found


@in_house_style
def ladder(record: Record, theme: Theme, peak: tuple[str, float] | None) -> Any:
    """The figure. `peak`: the GPU profile's name, and its memory's bandwidth."""
    cases = ladder_cases(record)
    shared = _shared(cases)
    where = record.environment
    footer = [
        "Medians of cold readings: K and V bytes over the kernel's time. The read ceiling was read beside them, on the "
        "same sizes.",
        f"{taken_by(record)} · kernels {where.code_hash or 'unknown'}",
    ]
    title = f"{where.gpu} · cached attention · achieved bandwidth"
    figure, bottom = sheet(theme, PLOT_HEIGHT, title, shared, footer, 0.75)
    axes = panel(figure, theme, 0.75, bottom, PLOT_WIDTH, PLOT_HEIGHT)
    axes.set_xscale("log", base=2)
    ends = [_kernel(axes, theme, n, name, cases) for n, name in enumerate(dict.fromkeys(c.subject for c in cases))]
    ends += _ceilings(axes, theme, cases, peak)
    sizes = sorted({case.work.kv_bytes for case in cases})
    axes.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    axes.set_ylim(0, max(y for _, y, _ in ends) * 1.06)
    _scales(axes, theme, sizes)
    _names(axes, theme, ends)
    return figure


def _kernel(axes: Any, theme: Theme, number: int, name: str, cases: list[Case]) -> tuple[str, float, str]:
    points = sorted((c.work.kv_bytes, c.bytes_per_s / 1e9) for c in cases if c.subject == name and c.bytes_per_s)
    colours = theme.series
    colour = colours[number % len(colours)]
    axes.plot(
        *zip(*points, strict=True),
        color=colour,
        marker=SHAPES[number % len(SHAPES)],
        linestyle=DASHES[number % len(DASHES)],
        linewidth=1.3,
        markersize=4.5,
        gid=f"kernel {name}",
    )
    return name, points[-1][1], colour


def _ceilings(
    axes: Any, theme: Theme, cases: list[Case], peak: tuple[str, float] | None
) -> list[tuple[str, float, str]]:
    ends = []
    reads = {case.work.kv_bytes: case.read_bytes_per_s / 1e9 for case in cases if case.read_bytes_per_s}
    if reads:
        points = sorted(reads.items())
        xs, ys = [x for x, _ in points], [y for _, y in points]
        if len(points) == 1:  # a line, not a dot
            xs, ys = [xs[0] / 1.3, xs[0] * 1.3], ys * 2
        axes.plot(xs, ys, color=theme.ink, linewidth=1.2, linestyle=(0, (4, 2)), gid="read ceiling")
        ends.append((f"read ceiling {decimal(ys[-1] * 1e9, 'B/s')} (measured)", ys[-1], theme.ink))
    if peak:
        name, rate = peak
        axes.axhline(rate / 1e9, color=theme.ink, linewidth=1.8, gid="datasheet")
        ends.append((f"{name} {decimal(rate, 'B/s')} (spec)", rate / 1e9, theme.ink))
    return ends


def _scales(axes: Any, theme: Theme, sizes: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: binary(value)))
    axes.minorticks_off()
    axes.grid(which="major", color=theme.grid, linewidth=0.6)
    axes.set_xlabel("K and V read", color=theme.ink)
    axes.set_ylabel("achieved  [GB/s]", color=theme.ink)


def _names(axes: Any, theme: Theme, ends: list[tuple[str, float, str]]) -> None:
    """Right of each curve's end, spread so that none covers another."""
    top = axes.get_ylim()[1]
    places = spread([y / top for _, y, _ in ends], 0.042)
    for (name, y, colour), at in zip(ends, places, strict=True):
        axes.plot((1.0, 1.03), (y / top, at), transform=axes.transAxes, color=colour, linewidth=0.7, clip_on=False)
        axes.text(
            1.035, at, name, transform=axes.transAxes, va="center", fontsize=7.6, color=theme.ink, gid=f"name {name}"
        )


def _shared(cases: list[Case]) -> str:
    """What all shapes have in common."""
    first = cases[0].shape
    kept = {k: v for k, v in first.items() if all(case.shape.get(k) == v for case in cases)}
    return "cold · " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in kept.items())
