"""Dots of the roofline: one for each stage that multiplies matrices, where its bound and its measurement are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from kvperf.measured import Measured
from kvperf.record import Analysis, StageFigures
from kvperf.render.figure.labels import Place, Shape, disc, put
from kvperf.render.figure.theme import MARKERS, Theme

WHOLE_PT = 19.0  # radius of a dot that is the whole step
LEAST_SHARE = 0.01
DIGIT_PT = 5.3  # from the middle of a number of one digit to its corners
EDGE = 0.9  # where on the axis a stage stands that no byte must cross HBM for, or hardly one
MARK_PT = 2.5  # from the middle of a cross to its ends
DASH_PT2 = 50.0  # area of the dash at a predicted performance
FAR = 300  # times the ridge: further right there is nothing to see


class Dot(NamedTuple):
    """Where a dot is, in data and pixels, and how large."""

    stage: StageFigures
    number: int
    x: float
    y: float
    px: float
    py: float
    radius_px: float
    filled: bool


def intensity(stage: StageFigures) -> float | None:
    """Matrix FLOP over the bytes that must cross HBM, where there are any."""
    return stage.matrix_flops / stage.compulsory_bytes if stage.compulsory_bytes else None


def is_beyond(record: Analysis, stage: StageFigures) -> bool:
    """Whether the stage stands too far right to be drawn in its place."""
    found, ridge = intensity(stage), record.gpu.ridge_flops_per_byte
    return found is None or (ridge is not None and found > FAR * ridge)


def dots(
    axes: Any,
    theme: Theme,
    record: Analysis,
    plotted: dict[str, int],
    measured: Measured | None,
    taken: list[Shape],
) -> list[Dot]:
    """Draw them; those that are to be numbered: measurements where there are any, else bounds."""
    named = []
    inside = "none" if measured else theme.paper  # a reading may lie under the ring of its bound
    whole = measured.whole_s(record) if measured else 0.0
    for stage in sorted(record.stages, key=lambda s: -s.share):
        if stage.name not in plotted:
            continue
        x, y = _x(axes, record, stage), stage.matrix_flops / stage.bound_s
        bound = _dot(axes, theme, stage, plotted[stage.name], x, y, stage.share, filled=False, inside=inside)
        if is_beyond(record, stage):
            _beyond(axes, theme, stage, x, y, bound.radius_px * 72 / axes.figure.dpi)
        seconds = measured.stages.get(stage.name) if measured else None
        if stage.predicted_s:
            _predicted(axes, theme, stage, x, bound.y, not seconds, taken)
        if seconds:
            y = stage.matrix_flops / seconds
            axes.plot((x, x), (bound.y, y), color=theme.muted, linewidth=0.8, zorder=3, gid=f"stem {stage.name}")
            bound = _dot(axes, theme, stage, plotted[stage.name], x, y, seconds / whole, filled=True)
        named.append(bound)
        taken.append(disc(bound.px, bound.py, max(bound.radius_px, DIGIT_PT * axes.figure.dpi / 72)))
    return named


def _x(axes: Any, record: Analysis, stage: StageFigures) -> float:
    found = intensity(stage)
    if found is not None and not is_beyond(record, stage):
        return found
    low, high = axes.get_xlim()
    return low * (high / low) ** EDGE


def _dot(
    axes: Any,
    theme: Theme,
    stage: StageFigures,
    number: int,
    x: float,
    y: float,
    share: float,
    *,
    filled: bool,
    inside: str = "none",
) -> Dot:
    radius = WHOLE_PT * math.sqrt(max(share, LEAST_SHARE))
    colour = theme.resources[stage.bound_by]
    axes.scatter(
        [x],
        [y],
        s=(2 * radius) ** 2,
        marker=MARKERS[stage.bound_by],
        facecolors=colour if filled else inside,
        edgecolors=theme.paper if filled else colour,
        linewidths=0.6 if filled else 1.3,
        alpha=0.75 if filled else 1,
        zorder=4,
        gid=f"{'measured' if filled else 'bound'} {stage.name}",
    )
    px, py = axes.transData.transform((x, y))
    reach = radius * (math.sqrt(2) if MARKERS[stage.bound_by] == "s" else 1)
    return Dot(stage, number, x, y, float(px), float(py), reach * axes.figure.dpi / 72, filled)


def _predicted(
    axes: Any, theme: Theme, stage: StageFigures, x: float, top: float, stem: bool, taken: list[Shape]
) -> None:
    """A dash where the prediction is, below the bound; a stem between them where no measurement has one."""
    y = stage.matrix_flops / float(stage.predicted_s or stage.bound_s)
    axes.scatter([x], [y], s=DASH_PT2, marker="_", color=theme.ink, linewidths=1.4, zorder=5, gid=f"dash {stage.name}")
    if stem:
        axes.plot((x, x), (top, y), color=theme.muted, linewidth=0.8, zorder=3, gid=f"drop {stage.name}")
    ends = (axes.transData.transform(point) for point in ((x, top), (x, y)))
    taken.append([(float(px), float(py)) for px, py in ends])


def _beyond(axes: Any, theme: Theme, stage: StageFigures, x: float, y: float, radius: float) -> None:
    """An arrow to the right: the fewer bytes must cross, the further the stage stands."""
    low, high = axes.get_xlim()
    arrow = {"arrowstyle": "->", "color": theme.ink, "linewidth": 0.9, "shrinkA": radius, "shrinkB": 0}
    end = low * (high / low) ** 0.998
    axes.annotate("", xy=(end, y), xytext=(x, y), arrowprops=arrow, zorder=6, gid=f"beyond {stage.name}")


def cache_points(axes: Any, theme: Theme, drawn: list[Dot], taken: list[Shape]) -> list[Dot]:
    """Where stages stand over all bytes of their kernels, which a cache carries; an arrow leads there."""
    marks, left = [], axes.get_xlim()[0]
    for dot in drawn:
        over_plan = dot.stage.flops_per_byte
        if not over_plan or over_plan < left:
            continue
        px = float(axes.transData.transform((over_plan, dot.y))[0])
        if abs(px - dot.px) <= dot.radius_px:  # the cache carries little more than HBM must
            continue
        axes.scatter([over_plan], [dot.y], s=14, marker="x", color=theme.muted, zorder=5, gid=f"cache {dot.stage.name}")
        arrow = {"arrowstyle": "->", "color": theme.muted, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 2}
        axes.annotate("", xy=(over_plan, dot.y), xytext=(dot.x, dot.y), arrowprops=arrow, zorder=3)
        marks.append(dot._replace(x=over_plan, px=px, radius_px=MARK_PT * axes.figure.dpi / 72))
        taken.append(disc(px, dot.py, marks[-1].radius_px))
    return marks


def name_marks(axes: Any, theme: Theme, marks: list[Dot], taken: list[Shape], within: Any) -> None:
    """The numbers of the stages that are marked, beside each group of marks."""
    for group in _groups(marks, 5 * axes.figure.dpi / 72):
        numbers = in_runs(dot.number for dot in group)
        text = axes.text(1, 1, numbers, fontsize=7, color=theme.muted, zorder=7, gid=f"mark numbers {numbers}")
        put(text, _around(axes, group[0]), taken, within)


def name_dots(axes: Any, theme: Theme, drawn: list[Dot], taken: list[Shape], within: Any) -> None:
    """Their numbers: in a dot that stands alone and has room, beside a group that shares one place.

    within  a box in pixels that no number should leave
    """
    for group in _groups(drawn, 5 * axes.figure.dpi / 72):
        numbers = in_runs(dot.number for dot in group)
        largest = max(group, key=lambda d: d.radius_px)
        text = axes.text(
            1, 1, numbers, fontsize=7.5, fontweight="bold", color=theme.ink, zorder=7, gid=f"numbers {numbers}"
        )
        room = 4.2 * axes.figure.dpi / 72 * (1 + 0.8 * (len(numbers) - 1))
        others = (d for d in drawn if d is not largest)
        clear = all(math.hypot(d.px - largest.px, d.py - largest.py) > d.radius_px + room for d in others)
        if len(group) == 1 and clear and not largest.filled and largest.radius_px > room:
            text.set_position((largest.x, largest.y))
            text.set(ha="center", va="center_baseline")
            continue
        put(text, _around(axes, largest), taken, within)


def in_runs(numbers: Iterable[int]) -> str:
    """`2 4–7`: three and more in a row as their first and last."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = (f"{run[0]}–{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs)
    return " ".join(said)


def _groups(drawn: list[Dot], near_px: float) -> list[list[Dot]]:
    """Dots whose centres are too close to be told apart."""
    groups: list[list[Dot]] = []
    for dot in drawn:
        home = next((g for g in groups if any(math.hypot(dot.px - d.px, dot.py - d.py) < near_px for d in g)), None)
        if home is None:
            groups.append([dot])
        else:
            home.append(dot)
    return groups


def _around(axes: Any, dot: Dot) -> list[Place]:
    """Places around a dot, below the roof first, further out after those near."""
    found = []
    inverse = axes.transData.inverted()
    for extra in (3, 8, 14, 22, 32, 45):
        reach = dot.radius_px + extra * axes.figure.dpi / 72
        for degrees in (-35, -60, -10, -85, 10, -120, 170, 140, 110):
            angle = math.radians(degrees)
            c, s = math.cos(angle), math.sin(angle)
            x, y = inverse.transform((dot.px + reach * c, dot.py + reach * s))
            ha = "left" if c > 0.3 else "right" if c < -0.3 else "center"
            va = "bottom" if s > 0.3 else "top" if s < -0.3 else "center"
            found.append(Place(float(x), float(y), ha, va))
    return found
