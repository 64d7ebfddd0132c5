"""The roofline of a step in two panels: what its stages could reach, and how long each takes.

Left, on equal decades, so that memory roofs rise at exactly 45°: dots of the stages that multiply matrices, hollow for
the bound, filled for a measurement. Right: bars of every stage. Dots and bars share their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvperf.measured import Measured
from kvperf.record import Analysis
from kvperf.render.analysis import headline, precision
from kvperf.render.figure import dots
from kvperf.render.figure.bars import bars, numbered
from kvperf.render.figure.labels import Place, Shape, put
from kvperf.render.figure.predicted import priced
from kvperf.render.figure.roofs import Roof, flat_roofs, memory_roofs, sources
from kvperf.render.figure.sheet import ABOVE, panel, sheet
from kvperf.render.figure.theme import Theme, in_house_style
from kvperf.units import significant

PLOT_WIDTH, LOWEST_PLOT = 4.5, 3.75  # inches
ROW = 0.19
LABEL_PT, ABOVE_PT = 7.5, 14
RIGHT = 1.75  # decades beyond the highest ridge: a ceiling's name has room under it


@in_house_style
def roofline(
    record: Analysis,
    theme: Theme,
    *,
    hbm: tuple[str, str],
    caches: Sequence[tuple[str, float | None, str | None]] = (),
    measured: Measured | None = None,
) -> Any:
    """The figure.

    hbm     the device memory's type, and whether its peak is spec, measured or derived
    caches  levels whose roofs are drawn too: name, bytes a second, kind
    """
    asked = (record, theme, hbm, caches, measured)
    # The lowest of the caches carries all bytes of the kernels: where its rate is unknown, they mean nothing here.
    marking = bool(caches) and caches[0][1] is not None
    figure, marked = _drawn(*asked, marking)
    return _drawn(*asked, False)[0] if marking and not marked else figure


def _drawn(
    record: Analysis,
    theme: Theme,
    hbm: tuple[str, str],
    caches: Sequence[tuple[str, float | None, str | None]],
    measured: Measured | None,
    marking: bool,
) -> tuple[Any, bool]:
    """The figure; and whether a stage is marked where the caches see it, of which the footer speaks if `marking`."""
    plotted = numbered(record, measured)
    height = max(LOWEST_PLOT, ROW * len(record.stages) + 0.1)
    footer = _footer(record, hbm, caches, measured, marking)
    figure, bottom = sheet(theme, height, headline(record), precision(record), footer, ABOVE, record.warnings)
    axes = panel(figure, theme, 0.68, bottom, PLOT_WIDTH, height)
    roofs = memory_roofs(record, hbm, caches), flat_roofs(record)
    _scale(axes, theme, record, plotted, measured, height)
    taken: list[Shape] = []
    _roofs(axes, theme, record, *roofs, taken)
    drawn = dots.dots(axes, theme, record, plotted, measured, taken)
    marks = dots.cache_points(axes, theme, drawn, taken) if marking else []
    within = _room(axes)
    _name_roofs(axes, theme, *roofs, taken, within)
    dots.name_dots(axes, theme, drawn, taken, within)
    dots.name_marks(axes, theme, marks, taken, within)
    right = panel(figure, theme, 0.68 + PLOT_WIDTH + 1.72, bottom, 2.15, height)
    bars(right, theme, record, plotted, measured)
    return figure, bool(marks)


def _scale(
    axes: Any,
    theme: Theme,
    record: Analysis,
    plotted: dict[str, int],
    measured: Measured | None,
    height: float,
) -> None:
    """Equal decades on both axes, wide enough for dots, ridges and labels."""
    import math

    stages = [stage for stage in record.stages if stage.name in plotted]
    peak = max(p.flops_per_s for p in record.gpu.peaks)
    xs = [x for s in stages if (x := dots.intensity(s)) and not dots.is_beyond(record, s)]
    ys = [stage.matrix_flops / stage.bound_s for stage in stages]
    ys += [stage.matrix_flops / stage.predicted_s for stage in stages if stage.predicted_s]
    if measured:
        ys += [stage.matrix_flops / measured.stages[stage.name] for stage in stages if stage.name in measured.stages]
    ridge = math.log10(peak / record.gpu.hbm_bytes_per_s)
    low = min([math.log10(min(xs)) - 0.75, ridge - 2.2]) if xs else ridge - 2.2
    room = 1.25 if len(xs) < len(stages) else 0.7  # for those without end
    high = max([math.log10(max(xs)) + room, ridge + RIGHT]) if xs else ridge + RIGHT
    top = math.log10(peak) + 0.42
    decades = max(high - low, (top - math.log10(min(ys)) + 0.6) * PLOT_WIDTH / height)
    low = high - decades
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(10**low, 10**high)
    axes.set_ylim(10 ** (top - decades * height / PLOT_WIDTH), 10**top)
    axes.set_aspect("equal", adjustable="box")
    _ticks(axes, theme)


def _ticks(axes: Any, theme: Theme) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, scale in ((axes.xaxis, 1.0), (axes.yaxis, 1e12)):
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _, scale=scale: f"{value / scale:,.10g}"))
        axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=20))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=1.5)
    axes.grid(which="major", color=theme.grid, linewidth=0.6)
    axes.set_xlabel("arithmetic intensity  [FLOP / HBM byte that must cross]", color=theme.ink)
    axes.set_ylabel("matrix performance  [TFLOP/s]", color=theme.ink)


def _roofs(axes: Any, theme: Theme, record: Analysis, memory: list[Roof], flat: list[Roof], taken: list[Shape]) -> None:
    """Lines, their ridges, and a faint tint where memory binds whatever the dtype."""
    low, high = axes.get_xlim()
    highest = max((roof.rate for roof in flat if roof.solid), default=axes.get_ylim()[1])
    fastest = max(roof.rate for roof in memory if roof.solid)
    for roof in memory:
        colour = theme.resources["hbm"] if roof.is_hbm else theme.muted
        xs = (low, highest / roof.rate)
        _line(axes, roof, xs, (low * roof.rate, highest), colour, taken)
    for roof in flat:
        _line(axes, roof, (roof.rate / fastest, high), (roof.rate, roof.rate), theme.resources["tensor"], taken)
    ceilings = sorted((roof for roof in flat if roof.solid), key=lambda roof: roof.rate)
    if not ceilings:
        return
    lowest = ceilings[0].rate / record.gpu.hbm_bytes_per_s
    axes.axvspan(low, lowest, facecolor=theme.resources["hbm"], alpha=0.04, linewidth=0, zorder=0, gid="tint")
    dtypes = [roof.name.split(" ")[0] for roof in ceilings]
    for roof, dtype in zip(ceilings, dtypes, strict=True):
        name = "" if len(ceilings) == 1 else f"{dtype if dtypes.count(dtype) == 1 else roof.name} "
        _ridge(axes, theme, roof, roof.rate / record.gpu.hbm_bytes_per_s, name, taken)


def _ridge(axes: Any, theme: Theme, roof: Roof, ridge: float, name: str, taken: list[Shape]) -> None:
    """From the axis up to where device memory's roof meets this ceiling; named beside it, near the axis."""
    bottom = axes.get_ylim()[0]
    style = {"color": theme.muted, "linewidth": 0.8, "linestyle": ":", "zorder": 1}
    axes.plot((ridge, ridge), (bottom, roof.rate), gid=f"ridge {roof.name}", **style)
    said = axes.text(1, 1, f"{name}ridge {significant(ridge, 3)} FLOP/B", gid=f"ridge label {roof.name}")
    said.set(rotation=90, rotation_mode="anchor", fontsize=LABEL_PT, color=theme.muted)
    step = 10**0.04
    places = [
        Place(x, bottom * 10**up, "left", va)
        for up in (0.06, 1.2)
        for x, va in ((ridge / step, "bottom"), (ridge * step, "top"))
    ]
    put(said, places, taken)


def _line(
    axes: Any, roof: Roof, xs: tuple[float, float], ys: tuple[float, float], colour: str, taken: list[Shape]
) -> None:
    style = {"linestyle": "-", "linewidth": 1.8} if roof.solid else {"linestyle": (0, (4, 2)), "linewidth": 1.0}
    axes.plot(xs, ys, color=colour, solid_capstyle="butt", zorder=2, gid=f"roof {roof.name}", **style)
    ends = (axes.transData.transform(point) for point in zip(xs, ys, strict=True))
    taken.append([(float(x), float(y)) for x, y in ends])


def _room(axes: Any) -> Any:
    """Where labels may stand, in pixels: the axes, and a line of text above."""
    from matplotlib.transforms import Bbox

    box = axes.get_window_extent()
    return Bbox.from_extents(box.x0, box.y0, box.x1, box.y1 + ABOVE_PT * axes.figure.dpi / 72)


def _name_roofs(axes: Any, theme: Theme, memory: list[Roof], flat: list[Roof], taken: list[Shape], within: Any) -> None:
    """Each roof's name, number and unit along it: spec above the line, measured below."""
    gap = 10 ** (3.5 / 72 / PLOT_WIDTH * _decades(axes))  # 3.5 points, as a factor
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    highest = max((roof.rate for roof in flat if roof.solid), default=top)
    slide = [k / 40 for k in range(41)]
    fastest = max(roof.rate for roof in memory if roof.solid)
    for roof in flat:
        text, start = _text(axes, theme, roof, 0), roof.rate / fastest
        # Left of where it starts only the highest has room, above the memory roofs.
        sides = [(away if roof.above else -away, t) for away in (1, 4, 7, 10, 13, 16) for t in slide]
        sides += [(-away, t) for away, t in sides]
        if roof.above and roof.rate < highest:
            sides = [(away, t) for away in (1, -1, -4, -7) for t in slide[:8]] + sides
        places = [
            Place(high * (start / high) ** t, roof.rate * gap**away, "right", "bottom" if away > 0 else "top")
            for away, t in sides
        ]
        put(text, places, taken, within)
    for roof in memory:
        text = _text(axes, theme, roof, 45)
        start, end = max(low, bottom / roof.rate), highest / roof.rate
        # Anchors perpendicular to the line, `away` gaps from it: beside it on either side first.
        own = 1 if roof.above else -1
        places = [
            Place(x / gap**away, x * roof.rate * gap**away, "center", "bottom" if away > 0 else "top")
            for away in (0.7 * own, -0.7 * own, 2.4 * own, 4.0 * own)
            for x in (start * (end / start) ** t for t in _from_middle(slide))
        ]
        put(text, places, taken, within)


def _from_middle(values: list[float]) -> list[float]:
    return sorted(values, key=lambda t: (abs(t - 0.55), t))


def _decades(axes: Any) -> float:
    import math

    low, high = axes.get_xlim()
    return math.log10(high / low)


def _text(axes: Any, theme: Theme, roof: Roof, rotation: float) -> Any:
    return axes.text(
        1,
        1,
        roof.label,
        rotation=rotation,
        rotation_mode="anchor",
        fontsize=LABEL_PT,
        color=theme.ink if roof.solid else theme.muted,
        gid=f"roof label {roof.name}",
        zorder=6,
    )


def _footer(
    record: Analysis,
    hbm: tuple[str, str],
    caches: Sequence[tuple[str, float | None, str | None]],
    measured: Measured | None,
    marking: bool,
) -> list[str]:
    dash = (
        "A dash, and a tick with its 80 % interval at the bars: predicted. "
        if record.step.predicted_s is not None
        else ""
    )
    filled = f"Filled: measured on {measured.gpu}; the stem is the gap. " if measured else ""
    unknown = [name for name, rate, _ in caches if rate is None]
    plotted = numbered(record)
    far = any(dots.is_beyond(record, stage) for stage in record.stages if stage.name in plotted)
    lines = [
        f"Hollow dots: the bound, on the roof. {dash}{filled}A dot's area is its share of the step (1 % at least); its "
        "number is beside its bar. Stages without matrix products stand in the bars only."
        + (" An arrow to the edge: hardly a byte must cross HBM." if far else "")
        + (
            f" A cross with a stage's number: its intensity over all bytes of its kernels, which the {caches[0][0]} "
            "carries."
            if marking
            else ""
        )
        + (f" Bandwidth unknown: {', '.join(unknown)}." if unknown else "")
    ]
    return [*lines, *priced(record), f"{sources(record, hbm)} · profile {record.gpu.name} · kvperf {record.version}"]
