"""Predicted against measured time, on equal decades, with the band of ±10 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvperf.bench.record import Case, Record
from kvperf.errors import KvperfError
from kvperf.render.figure.gap import taken_by
from kvperf.render.figure.sheet import panel, sheet
from kvperf.render.figure.theme import SHAPES, Theme, in_house_style
from kvperf.units import decimal

SIDE = 4.4
BAND = 0.10
MANY = 60  # points of a label: more are drawn small and see-through
LISTED = 18  # labels that the legend has room for


class Pair(NamedTuple):
    """One prediction and its measurement; pairs of one label look alike."""

    predicted_s: float
    measured_s: float
    label: str


def predicted_cases(record: Record) -> list[Case]:
    """Readings beside a prediction. Raises KvperfError where the record has none."""
    found = [case for case in record.cases if case.predicted_s and case.statistics and not case.refused]
    if not found:
        raise KvperfError(
            "no case of the record has a predicted time beside a reading", "`kvperf bench show` prints what it has"
        )
    return found


def accuracy(record: Record, theme: Theme) -> Any:
    """The figure of a record: every case that has both."""
    pairs = [
        Pair(float(case.predicted_s or 0), case.statistics.median_s, case.subject)
        for case in predicted_cases(record)
        if case.statistics
    ]
    title = f"{record.environment.gpu} · predicted against measured"
    return scatter(pairs, theme, title=title, note="warm and cold readings, medians", footer=[taken_by(record)])


@in_house_style
def scatter(pairs: Sequence[Pair], theme: Theme, *, title: str, note: str = "", footer: Sequence[str] = ()) -> Any:
    """The figure of any pairs of seconds above 0.

    note    what the pairs are, after how many lie within the band
    footer  where they are from
    """
    bad = [pair for pair in pairs if not (pair.predicted_s > 0 and pair.measured_s > 0)]
    if bad or not pairs:
        said = f"{bad[0].label} has a time of 0 or less" if bad else "there is no pair of times to draw"
        raise KvperfError(said, "a prediction is drawn against a measurement; both must be there")
    inside = sum(abs(pair.predicted_s / pair.measured_s - 1) <= BAND for pair in pairs)
    subtitle = f"{inside:,} of {len(pairs):,} within ±10 %" + (f"; {note}" if note else "")
    figure, bottom = sheet(theme, SIDE, title, subtitle, footer, 0.75)
    axes = panel(figure, theme, 0.95, bottom, SIDE, SIDE)
    times = [second for pair in pairs for second in (pair.predicted_s, pair.measured_s)]
    _plane(axes, theme, min(times) / 1.6, max(times) * 1.6)
    labels = list(dict.fromkeys(pair.label for pair in pairs))
    for number, name in enumerate(labels):
        _points(axes, theme, [pair for pair in pairs if pair.label == name], name, number)
    _scales(axes, theme)
    keys, names = axes.get_legend_handles_labels()
    if len(labels) > LISTED:
        keys, names = keys[:LISTED], [*names[: LISTED - 1], f"{names[LISTED - 1]} and {len(labels) - LISTED} more"]
    axes.legend(
        keys, names, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, labelcolor=theme.ink, markerscale=1.2
    )
    return figure


def _plane(axes: Any, theme: Theme, low: float, high: float) -> None:
    """Equal decades, the line of equality and the band around it."""
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


def _points(axes: Any, theme: Theme, own: list[Pair], name: str, number: int) -> None:
    many = len(own) > MANY
    axes.plot(
        [pair.measured_s for pair in own],
        [pair.predicted_s for pair in own],
        color=theme.series[number % len(theme.series)],
        marker=SHAPES[number % len(SHAPES)],
        linestyle="none",
        markersize=2.5 if many else 5,
        markeredgewidth=0 if many else 0.8,
        alpha=0.5 if many else 1,
        label=name,
        gid=f"cases {name}",
    )


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
