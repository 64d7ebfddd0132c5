"""Bars of a step: how long each stage takes at least, is predicted to take, and was measured to take."""

from __future__ import annotations

from typing import Any

from kvperf.crossings import RESOURCES
from kvperf.measured import Measured
from kvperf.record import Analysis, StageFigures
from kvperf.render.figure.predicted import interval, whisker
from kvperf.render.figure.theme import HATCHES, Theme
from kvperf.units import decimal, prefix_for


def numbered(record: Analysis, measured: Measured | None = None) -> dict[str, int]:
    """Stages that multiply matrices, and so have a dot: numbers from the longest down."""
    order = [stage for stage in sorted_stages(record, measured) if stage.matrix_flops and stage.bound_s]
    return {stage.name: number for number, stage in enumerate(order, 1)}


def sorted_stages(record: Analysis, measured: Measured | None = None) -> list[StageFigures]:
    """From the longest to the shortest, by what is known best."""
    return sorted(record.stages, key=lambda stage: -seconds_of(stage, measured))


def seconds_of(stage: StageFigures, measured: Measured | None) -> float:
    """Measured, else predicted, else the bound."""
    known = measured.stages.get(stage.name) if measured else None
    return float(known or stage.predicted_s or stage.bound_s)


def _end(stage: StageFigures, measured: Measured | None) -> float:
    """The longest of what its row shows."""
    known = measured.stages.get(stage.name) if measured else None
    return float(max(stage.bound_s, interval(stage)[1], known or 0))


def bars(axes: Any, theme: Theme, record: Analysis, plotted: dict[str, int], measured: Measured | None) -> None:
    """One row for each stage, the longest above."""
    stages = sorted_stages(record, measured)
    longest = max(_end(stage, measured) for stage in stages)
    prefix, scale = prefix_for(longest)
    for row, stage in enumerate(stages):
        _row(axes, theme, stage, row, scale, longest, measured)
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlim(0, longest / scale)
    axes.set_yticks(range(len(stages)), [_name(stage, plotted) for stage in stages])
    axes.tick_params(axis="y", length=0, labelsize=7.8)
    axes.grid(axis="x", color=theme.grid, linewidth=0.6)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"time in the step  [{prefix}s]", color=theme.ink)
    axes.set_title(_title(record, measured), loc="left", fontsize=8.5, color=theme.ink, pad=19)
    _legend(axes, theme, stages, measured)


def _row(
    axes: Any, theme: Theme, stage: StageFigures, row: int, scale: float, longest: float, measured: Measured | None
) -> None:
    colour, hatch = theme.resources[stage.bound_by], HATCHES[stage.bound_by]
    known = measured.stages.get(stage.name) if measured else None
    if known:
        axes.barh(row, known / scale, 0.82, color=theme.grid, edgecolor=theme.muted, linewidth=0.5, gid="bar measured")
    bar = axes.barh(row, stage.bound_s / scale, 0.46 if known else 0.66, color=colour, gid="bar bound")
    if hatch:
        bar[0].set(hatch=hatch, edgecolor=theme.paper, linewidth=0)
    if stage.covered_by is None:
        whisker(axes, theme, stage, row, scale, 0.4, "bar predicted")
    axes.annotate(
        _said(stage, known),
        (_end(stage, measured) / scale, row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=7.3,
        color=theme.ink,
        annotation_clip=False,
        gid="bar label",
    )


def _said(stage: StageFigures, known: float | None) -> str:
    """Beside the bar: what is known best, and its share of the step."""
    if known:
        return f"{decimal(known, 's')} · bound {_whole(stage.bound_s / known)}"
    if stage.covered_by is not None:
        return f"in {stage.covered_by.replace('_', ' ')}"
    took = stage.bound_s if stage.predicted_s is None else stage.predicted_s
    return f"{_time(took)} · {_percent(stage.share)}" if took else "0"


def _time(seconds: float) -> str:
    return decimal(seconds, "s") if seconds >= 1e-9 else "<1 ns"


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else "<1 %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"


def _name(stage: StageFigures, plotted: dict[str, int]) -> str:
    name = stage.name.replace("_", " ")
    return f"{name}  {plotted[stage.name]}" if stage.name in plotted else f"{name}  –"


def _title(record: Analysis, measured: Measured | None) -> str:
    step = record.step
    if measured and measured.step_s:
        return (
            f"step: measured {decimal(measured.step_s, 's', 4)}, bound {decimal(step.bound_s, 's', 4)} "
            f"({100 * step.bound_s / measured.step_s:.0f} %)"
        )
    bound, binds = decimal(step.bound_s, "s", 4), RESOURCES[step.bound_by]
    if step.predicted_s is None:
        return f"step: bound {bound}, {binds}-bound"
    return f"step: predicted {decimal(step.predicted_s, 's', 4)}, bound {bound} ({binds})"


def _legend(axes: Any, theme: Theme, stages: list[StageFigures], measured: Measured | None) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    present = [name for name in RESOURCES if any(s.bound_by == name and s.bound_s for s in stages)]
    predicted = any(stage.predicted_s is not None for stage in stages)
    suffix = "-bound" if len(present) + predicted + bool(measured) < 4 else ""  # or the row leaves the paper
    keys: list[Any] = [
        Patch(
            facecolor=theme.resources[n],
            hatch=HATCHES[n],
            edgecolor=theme.paper,
            linewidth=0,
            label=f"{RESOURCES[n]}{suffix}",
        )
        for n in present
    ]
    if predicted:
        keys.append(Line2D([], [], color=theme.ink, linewidth=1.4, label="predicted"))
    if measured:
        keys.append(Patch(facecolor=theme.grid, edgecolor=theme.muted, linewidth=0.5, label="measured"))
    axes.legend(
        handles=keys,
        loc="lower left",
        bbox_to_anchor=(-0.03, 0.985),
        ncols=len(keys),
        frameon=False,
        fontsize=7.3,
        labelcolor=theme.ink,
        handlelength=1.1,
        handletextpad=0.5,
        columnspacing=1.2,
    )
