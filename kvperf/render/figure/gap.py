"""Waterfalls: from the bound to a measured time, or stage by stage to the bound of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvperf.bench.record import Case, Record
from kvperf.crossings import RESOURCES
from kvperf.errors import KvperfError
from kvperf.record import Analysis, StepFigures
from kvperf.render.analysis import headline, precision
from kvperf.render.figure.predicted import interval, priced, whisker
from kvperf.render.figure.sheet import ABOVE, panel, sheet
from kvperf.render.figure.sweep import made_of
from kvperf.render.figure.theme import HATCHES, Theme, in_house_style
from kvperf.units import decimal, prefix_for

LEAST_SHARE = 0.005  # of the stages' bounds: those below it share one bar
ROW = 0.3


class Fall(NamedTuple):
    """A bar from `start_s` to `end_s`."""

    name: str
    start_s: float
    end_s: float
    colour: str
    hatch: str = ""
    total: bool = False


def gap_case(record: Record, text: str | None) -> Case:
    """The one case whose label holds the text. Raises KvperfError where there is none, or more than one."""
    found = [case for case in record.cases if case.gap and case.bound_s and case.statistics and not case.refused]
    if not found:
        raise KvperfError("the record has no case with a gap", "a gap needs a cold reading and a GPU profile")
    chosen = [case for case in found if text is None or text in case.label]
    chosen = [case for case in chosen if case.label == text] or chosen
    if not chosen:
        raise KvperfError(f"no case with a gap has '{text}' in its label", f"one label is '{found[0].label}'")
    if len(chosen) > 1:
        raise KvperfError(
            f"{len(chosen)} cases fit" + (f" '{text}'" if text else ""), f"name one: --case '{chosen[0].label}'"
        )
    return chosen[0]


def taken_by(record: Record) -> str:
    """Which run measured, and with what."""
    where = record.environment
    return f"{record.command} · {record.started} · driver {where.driver or 'unknown'} · kvperf {record.version}"


@in_house_style
def case_gap(record: Record, case: Case, theme: Theme) -> Any:
    """The figure of one case: the bound, each part of the gap, and the measured time."""
    assert case.bound_s is not None and case.statistics is not None
    hbm, more, less = theme.resources["hbm"], theme.resources["tensor"], theme.resources["link"]
    falls = [Fall("bound", 0, case.bound_s, hbm, total=True)]
    for name, seconds in case.gap.items():
        start = falls[-1].end_s
        falls.append(
            Fall(name, start, start + seconds, more if seconds >= 0 else less, "////" if seconds >= 0 else "||||")
        )
    falls.append(Fall("measured", 0, case.statistics.median_s, theme.muted, total=True))
    footer = [
        case.verdict or "The parts sum to the measured time.",
        taken_by(record),
    ]
    return _figure(theme, f"{record.environment.gpu} · {case.subject}", case.label, footer, falls, 0.75)


@in_house_style
def step_gap(record: Analysis, theme: Theme) -> Any:
    """The figure of a step: each stage adds its bound, coloured by what binds it; then what is known of the whole."""
    step, falls, rest, others = record.step, [], 0.0, 0
    least_s = LEAST_SHARE * step.serial_bound_s
    for stage in record.stages:
        if stage.bound_s < least_s:
            rest, others = rest + stage.bound_s, others + 1
            continue
        start = falls[-1].end_s if falls else 0.0
        name = stage.name.replace("_", " ")
        falls.append(Fall(name, start, start + stage.bound_s, theme.resources[stage.bound_by], HATCHES[stage.bound_by]))
    if others:
        start = falls[-1].end_s if falls else 0.0
        falls.append(Fall(f"{others} other stages", start, start + rest, theme.muted))
    falls.append(Fall("no overlap", 0, step.serial_bound_s, theme.ink, total=True))
    falls.append(Fall("bound", 0, step.bound_s, theme.resources[step.bound_by], HATCHES[step.bound_by], total=True))
    for name, seconds in (("at measured rates", step.achievable_s), ("predicted", step.predicted_s)):
        if seconds is not None:
            falls.append(Fall(name, 0, seconds, theme.muted, total=True))
    line = " Line: 80 % of such steps." if step.predicted_s is not None else ""
    footer = [
        "Each stage adds its bound; no overlap: their sum. Bound: stages may overlap, so the busiest resource's total. "
        "At measured rates: the bound at the best rates measured on this GPU." + line,
        *priced(record),
        made_of(record),
    ]
    predicted = step if step.predicted_s is not None else None
    figure = _figure(theme, headline(record), precision(record), footer, falls, ABOVE, record.warnings, predicted)
    present = [n for n in RESOURCES if any(s.bound_by == n and s.bound_s >= least_s for s in record.stages)]
    _legend(figure.axes[0], theme, present)
    return figure


def _figure(
    theme: Theme,
    title: str,
    subtitle: str,
    footer: list[str],
    falls: list[Fall],
    above: float,
    warnings: Sequence[str] = (),
    predicted: StepFigures | None = None,
) -> Any:
    """Bars one below the other. `predicted` is what the last of them is of, with its interval."""
    height = ROW * len(falls) + 0.15
    figure, bottom = sheet(theme, height, title, subtitle, footer, above, warnings)
    axes = panel(figure, theme, 1.75, bottom, 6.6, height)
    longest = max(max(fall.start_s, fall.end_s) for fall in falls)
    longest = max(longest, interval(predicted)[1]) if predicted else longest
    prefix, scale = prefix_for(longest)
    for row, fall in enumerate(falls):
        low, high = sorted((fall.start_s / scale, fall.end_s / scale))
        bar = axes.barh(row, high - low, 0.66, left=low, color=fall.colour, gid=f"fall {fall.name}")
        if fall.hatch:
            bar[0].set(hatch=fall.hatch, edgecolor=theme.paper, linewidth=0)
        if row + 1 < len(falls) and not falls[row + 1].total:
            edge = fall.end_s / scale
            axes.plot((edge, edge), (row - 0.33, row + 1.33), color=theme.muted, linewidth=0.8, zorder=1)
        if predicted and row + 1 == len(falls):
            whisker(axes, theme, predicted, row, scale, 0.2, "predicted")
            high = max(high, interval(predicted)[1] / scale)
        _label(axes, theme, fall, row, high, scale)
    axes.set_yticks(range(len(falls)), [fall.name for fall in falls])
    axes.set_ylim(len(falls) - 0.4, -0.6)
    axes.set_xlim(0, longest / scale * 1.005)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=theme.grid, linewidth=0.6)
    axes.set_xlabel(f"time  [{prefix}s]", color=theme.ink)
    return figure


def _label(axes: Any, theme: Theme, fall: Fall, row: int, high: float, scale: float) -> None:
    seconds = fall.end_s - fall.start_s
    sign = "" if fall.total or not seconds else "+" if seconds > 0 else "−"
    said = "0" if not seconds else f"{sign}{_time(abs(seconds))}"
    axes.annotate(
        said,
        (high, row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=8,
        fontweight="bold" if fall.total else "normal",
        color=theme.ink,
        annotation_clip=False,
        bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 0.6},
        gid=f"fall label {fall.name}",
    )


def _time(seconds: float) -> str:
    return decimal(seconds, "s", 4) if seconds >= 1e-9 else "<1 ns"


def _legend(axes: Any, theme: Theme, present: list[str]) -> None:
    from matplotlib.patches import Patch

    keys = [
        Patch(
            facecolor=theme.resources[n],
            hatch=HATCHES[n],
            edgecolor=theme.paper,
            linewidth=0,
            label=f"{RESOURCES[n]}-bound",
        )
        for n in present
    ]
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, labelcolor=theme.ink
    )
