"""A step over batch or context: time, tokens a second or bytes, with the sizes where its character changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from kvperf.crossings import ATTENTION, FFN, Sweep, bound_of, shared_warnings
from kvperf.record import Analysis
from kvperf.render.analysis import COUNTED, precision
from kvperf.render.figure.labels import spread
from kvperf.render.figure.predicted import interval, priced
from kvperf.render.figure.sheet import panel, sheet
from kvperf.render.figure.theme import DASHES, SHAPES, Theme, in_house_style
from kvperf.units import decimal, significant

Show = Literal["time", "tokens", "bytes"]
PLOT_WIDTH, PLOT_HEIGHT = 7.6, 3.9
ROW = 0.17  # of a crossing's line of text
RIGHT = 0.85  # of the axes: further right a crossing is named on its left


class Curve(NamedTuple):
    """A quantity of the record, and how it is called; of a prediction, the ends of its interval too."""

    name: str
    of: Callable[[Analysis], float]
    ends: Callable[[Analysis], tuple[float, float]] | None = None


def _rates(record: Analysis) -> tuple[float, float]:
    """Tokens a second at the ends of the interval."""
    tokens = (record.step.tokens_per_s_predicted or 0) * (record.step.predicted_s or 0)
    low_s, high_s = interval(record.step)
    return tokens / high_s, tokens / low_s


TIMES = (
    Curve("bound", lambda record: record.step.bound_s),
    Curve("attention", lambda record: bound_of(record, ATTENTION)),
    Curve("MLP", lambda record: bound_of(record, FFN)),
    Curve("predicted", lambda record: record.step.predicted_s or 0, lambda record: interval(record.step)),
)
RATES = (
    Curve("all sequences", lambda record: record.step.tokens_per_s_bound),
    Curve("each sequence", lambda record: record.step.tokens_per_s_bound / record.workload.batch),
    Curve("predicted", lambda record: record.step.tokens_per_s_predicted or 0, _rates),
)
# With a chunk beside them, the decoding sequences get a token each, and the chunk the others.
MIXED_RATES = (RATES[0], Curve("decode sequence", lambda record: 1 / record.step.bound_s), RATES[2])
BYTES = (
    Curve("must cross HBM", lambda record: record.step.compulsory_bytes),
    Curve("weights", lambda record: record.step.weight_bytes),
    Curve("KV read", lambda record: record.step.kv_read_bytes),
    Curve("KV written", lambda record: record.step.kv_write_bytes),
)
SHOWN = {
    "time": (
        TIMES,
        "s",
        "time",
        "Bound: no kernels at this precision are faster; attention and MLP are its parts.",
    ),
    "tokens": (RATES, "/s", "", "Sequences: at the bound, no kernels at this precision give more."),
    "bytes": (BYTES, "B", "bytes a step", "KV read and written as by the kernels of the serving plan."),
}


PREDICTED = {
    "time": "the whole step, with the band that holds 80 % of such steps",
    "tokens": "all sequences, with the band that holds 80 % of such steps",
}


@in_house_style
def sweep(found: Sweep, show: Show, theme: Theme) -> Any:
    """The figure."""
    record = found.records[0]
    curves, unit, title, note = SHOWN[show]
    if show == "tokens" and record.workload.phase == "mixed":
        curves = MIXED_RATES
    above = ROW * len(found.crossings)
    shaded = any(r.memory.fits is False for r in found.records)
    drawn = show != "bytes" and record.step.predicted_s is not None
    note += f" Predicted: {PREDICTED[show]}." if drawn else ""
    note += " Shaded: it does not fit into the GPU's memory." if shaded else ""
    footer = [note, *(priced(record) if drawn else ()), made_of(record)]
    figure, bottom = sheet(
        theme, PLOT_HEIGHT, heading(found), precision(record), footer, 0.72 + above, shared_warnings(found)
    )
    axes = panel(figure, theme, 0.95, bottom, PLOT_WIDTH, PLOT_HEIGHT)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends = [_curve(axes, theme, found, curve, number) for number, curve in enumerate(curves)]
    _sizes(axes, theme, found)
    counted = COUNTED[record.workload.phase] if show == "tokens" else ""
    _values(axes, theme, unit, title or f"{counted} a second")
    _name_curves(axes, theme, [end for end in ends if end], unit)
    mark(axes, theme, found, ROW)
    return figure


def heading(found: Sweep) -> str:
    """What was analysed, and what varies."""
    record = found.records[0]
    work, gpu = record.workload, record.gpu
    kept = f"context {work.context_tokens}" if found.over == "batch" else f"batch {work.batch}"
    name = record.model.name or "one attention layer"
    over = "batch" if found.over == "batch" else "context"
    on = gpu.name + (f" × {work.tp}" if work.tp > 1 else "")
    if found.over == "batch" and work.new_tokens > 1:
        kept += f" · {work.new_tokens} new tokens"
    return f"{on} · {name} · {work.phase} · {kept} · over {over}"


def made_of(record: Analysis) -> str:
    """Sources of the peaks, profile and version."""
    gpu = record.gpu
    first = {text.split(": ")[0]: None for text in (*gpu.hbm_source, *(s for p in gpu.peaks for s in p.source))}
    return f"Peaks: {', '.join(first)} · profile {gpu.name} · kvperf {record.version}"


def _curve(axes: Any, theme: Theme, found: Sweep, curve: Curve, number: int) -> tuple[str, float, str] | None:
    points = [(size, float(curve.of(r))) for size, r in zip(found.sizes, found.records, strict=True)]
    points = [point for point in points if point[1] > 0]
    if not points:
        return None
    colour = theme.ink if number == 0 else theme.series[number - 1]
    if curve.ends is not None:
        known = [(size, *curve.ends(r)) for size, r in zip(found.sizes, found.records, strict=True) if curve.of(r)]
        axes.fill_between(*zip(*known, strict=True), color=colour, alpha=0.22, linewidth=0, gid=f"band {curve.name}")
    axes.plot(
        *zip(*points, strict=True),
        color=colour,
        linestyle=DASHES[number % len(DASHES)],
        linewidth=2.0 if number == 0 else 1.4,
        marker=SHAPES[number],
        markersize=4,
        markerfacecolor=theme.paper,  # modelled, not measured
        gid=f"curve {curve.name}",
    )
    return curve.name, points[-1][1], colour


def _sizes(axes: Any, theme: Theme, found: Sweep) -> None:
    low, high = found.sizes[0], found.sizes[-1]
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.set_xticks(found.sizes, [size_name(size) for size in found.sizes])
    axes.minorticks_off()
    axes.set_xlabel("sequences of the step" if found.over == "batch" else "context of each sequence  [tokens]")
    axes.xaxis.label.set_color(theme.ink)


def size_name(size: int) -> str:
    """65536 as 64Ki, as --seq takes it."""
    for unit, name in ((1 << 20, "Mi"), (1 << 10, "Ki")):
        if size >= unit and size % unit == 0 and size >= 1 << 13:
            return f"{size // unit}{name}"
    return str(size)


def _values(axes: Any, theme: Theme, unit: str, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(numticks=20))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, unit)))
    axes.grid(which="major", color=theme.grid, linewidth=0.6)
    axes.set_ylabel(title, color=theme.ink)


def plain(value: float, unit: str) -> str:
    """A tick: 100 µs, 1 ms, 10,000."""
    if unit == "/s":
        return f"{value:,.10g}"
    number, _, scaled = decimal(value, unit, 4).partition(" ")
    return f"{float(number):g} {scaled}"


def _name_curves(axes: Any, theme: Theme, ends: Sequence[tuple[str, float, str]], unit: str) -> None:
    """Each curve's name and last value, right of its end."""
    box = axes.get_window_extent()
    high = [float(axes.transData.transform((1, value))[1] - box.y0) / box.height for _, value, _ in ends]
    for (name, value, colour), y in zip(ends, spread(high, 0.05), strict=True):
        shown = f"{float(significant(value)):,.10g}/s" if unit == "/s" else decimal(value, unit)
        axes.text(
            1.012,
            y,
            f"{name}  {shown}",
            transform=axes.transAxes,
            va="center",
            fontsize=8,
            color=theme.ink,
            gid=f"name {name}",
        )
        start = (1.0, float(axes.transData.transform((1, value))[1] - box.y0) / box.height)
        axes.plot(
            (start[0] - 0.004, 1.01),
            (start[1], y),
            transform=axes.transAxes,
            color=colour,
            linewidth=0.8,
            clip_on=False,
        )


def mark(axes: Any, theme: Theme, found: Sweep, row: float) -> None:
    """A line at each crossing, and above the axes what happens there."""
    inch = 1 / PLOT_HEIGHT
    box = axes.get_window_extent()
    places = {c.at: float(axes.transData.transform((c.at, 1))[0] - box.x0) / box.width for c in found.crossings}
    # Text away from the lines of others: those named on their left above all.
    rows = sorted(found.crossings, key=lambda c: (1, c.at) if places[c.at] > RIGHT else (0, -c.at))
    for number, crossing in enumerate(rows):
        x, y = places[crossing.at], 1 + (0.03 + row * number) * inch + 0.01
        axes.plot(
            (crossing.at, crossing.at),
            (0, y + 0.02),
            transform=axes.get_xaxis_transform(),
            color=theme.muted,
            linewidth=0.9,
            linestyle=(0, (3, 2)),
            clip_on=False,
            zorder=1,
            gid="crossing",
        )
        text = axes.text(
            x + (0.006 if x <= RIGHT else -0.006),
            y,
            f"{size_name(crossing.at)}: {crossing.what}",
            transform=axes.transAxes,
            ha="left" if x <= RIGHT else "right",
            va="bottom",
            fontsize=7.8,
            color=theme.ink,
            gid="crossing label",
        )
        text.set_bbox({"facecolor": theme.paper, "edgecolor": "none", "pad": 0.4})  # over the lines of others
    _shade(axes, theme, found)


def _shade(axes: Any, theme: Theme, found: Sweep) -> None:
    """Behind the sizes that do not fit."""
    if found.records[-1].memory.fits is not False:
        return
    low, high = axes.get_xlim()
    full = [crossing.at for crossing in found.crossings if crossing.what == "memory runs out"]
    axes.axvspan(full[-1] if full else low, high, facecolor=theme.muted, alpha=0.14, linewidth=0, zorder=0, gid="full")
