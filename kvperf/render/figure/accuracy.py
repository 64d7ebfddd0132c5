"""Predicted against measured time of every case that has both, with the band of ±10 %."""

from __future__ import annotations

from typing import Any

from kvperf.bench.record import Case, Record
from kvperf.errors import KvperfError
from kvperf.render.figure.gap import taken_by
from kvperf.render.figure.sheet import panel, sheet
from kvperf.render.figure.theme import SHAPES, Theme, in_house_style
from kvperf.units import decimal

SIDE = 4.4
BAND = 0.10


def predicted_cases(record: Record) -> list[Case]:
    """Readings beside a prediction. Raises KvperfError where the record has none."""
    found = [case for case in record.cases if case.predicted_s and case.statistics and not case.refused]
    if not found:
        raise KvperfError(
            "no case of the record has a predicted time beside a reading", "`kvperf bench show` prints what it has"
        )
    return found


@in_house_style
def accuracy(record: Record, theme: Theme) -> Any:
    """The figure."""
    cases = predicted_cases(record)
    pairs = [(c.statistics.median_s, c.predicted_s) for c in cases if c.statistics and c.predicted_s]
    inside = sum(abs(predicted / measured - 1) <= BAND for measured, predicted in pairs)
    subtitle = f"{inside} of {len(pairs)} within ±10 %; warm and cold readings, medians"
    footer = [taken_by(record)]
    figure, bottom = sheet(
        theme, SIDE, f"{record.environment.gpu} · predicted against measured", subtitle, footer, 0.75
    )
    axes = panel(figure, theme, 0.95, bottom, SIDE, SIDE)
    low, high = min(min(pair) for pair in pairs) / 1.6, max(max(pair) for pair in pairs) * 1.6
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    ends = (low, high)
    axes.fill_between(
        ends, [e * (1 - BAND) for e in ends], [e * (1 + BAND) for e in ends], color=theme.muted, alpha=0.2, gid="band"
    )
    axes.plot(ends, ends, color=theme.ink, linewidth=1.0, gid="equal")
    for number, name in enumerate(dict.fromkeys(case.subject for case in cases)):
        own = [(c.statistics.median_s, c.predicted_s) for c in cases if c.subject == name and c.statistics]
        axes.plot(
            *zip(*own, strict=True),
            color=theme.series[number % len(theme.series)],
            marker=SHAPES[number % len(SHAPES)],
            linestyle="none",
            markersize=5,
            label=name,
            gid=f"cases {name}",
        )
    _scales(axes, theme)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, labelcolor=theme.ink)
    return figure


def _scales(axes: Any, theme: Theme) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=20))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color=theme.grid, linewidth=0.6)
    axes.set_xlabel("measured", color=theme.ink)
    axes.set_ylabel("predicted", color=theme.ink)


def _plain(value: float) -> str:
    number, _, unit = decimal(value, "s", 4).partition(" ")
    return f"{float(number):g} {unit}"
