"""What is on a drawn figure: its texts, whether they overlap, and artists by the name they were given."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from kvperf.render.figure.labels import outline, overlap


def named(figure: Any, start: str) -> list[Any]:
    """Artists whose gid begins so, in the order they were added."""
    found = figure.findobj(lambda artist: (artist.get_gid() or "").startswith(start), include_self=False)
    return list(dict.fromkeys(found))


def texts(figure: Any) -> list[Any]:
    """All that can be read."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    found = figure.findobj(lambda artist: isinstance(artist, Text), include_self=False)
    kept = [t for t in dict.fromkeys(found) if t.get_text() and t.get_visible()]
    hidden = {id(t) for axes in figure.axes for t in _beyond_the_limits(axes)}
    return [t for t in kept if id(t) not in hidden]


def _beyond_the_limits(axes: Any) -> list[Any]:
    """Tick labels that matplotlib makes and does not draw."""
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        drawn = {id(tick) for tick in axis._update_ticks()}
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        found += [t for tick in ticks if id(tick) not in drawn for t in (tick.label1, tick.label2)]
        found += [tick.label2 for tick in ticks]
    return found


def corners(text: Any) -> list[tuple[float, float]]:
    if text.get_rotation() in (0, 90):
        box = text.get_window_extent()
        return [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    return list(outline(text))


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other."""
    placed = [(t.get_text(), corners(t)) for t in texts(figure)]
    return [(a, b) for (a, at), (b, there) in combinations(placed, 2) if overlap(at, there)]


def outside(figure: Any) -> list[str]:
    """Texts that leave the paper."""
    width, height = figure.get_size_inches() * figure.dpi
    return [
        t.get_text() for t in texts(figure) if any(not (0 <= x <= width and 0 <= y <= height) for x, y in corners(t))
    ]
