"""Labels that do not overlap: each takes the first of its places where nothing else is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Point = tuple[float, float]
Shape = Sequence[Point]  # a convex polygon, in pixels
LINE, DOT, TEXT, OUTSIDE = 1, 4, 30, 60  # how bad it is to lie on one, or to leave the axes


class Place(NamedTuple):
    """A point of the axes in data, and how text sits there."""

    x: float
    y: float
    ha: str = "left"
    va: str = "bottom"


def outline(text: Any) -> Shape:
    """The corners of a text, turned as the text is, about its anchor."""
    turned = text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent()
    text.set_rotation(turned)
    anchor = text.get_transform().transform(text.get_position())
    corners = ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1))
    c, s = math.cos(math.radians(turned)), math.sin(math.radians(turned))
    ax, ay = float(anchor[0]), float(anchor[1])
    return [(ax + c * (x - ax) - s * (y - ay), ay + s * (x - ax) + c * (y - ay)) for x, y in corners]


def disc(x: float, y: float, radius: float) -> Shape:
    """A circle as an octagon around it."""
    reach = radius / math.cos(math.pi / 8)
    return [(x + reach * math.cos(k * math.pi / 4), y + reach * math.sin(k * math.pi / 4)) for k in range(8)]


def overlap(a: Shape, b: Shape) -> bool:
    """Whether two convex polygons (or segments) have a point in common: no line separates them."""
    for first in (a, b):
        for (x0, y0), (x1, y1) in zip(first, [*first[1:], first[0]], strict=True):
            for nx, ny in ((y1 - y0, x0 - x1), (x1 - x0, y1 - y0)):
                on_a = [nx * x + ny * y for x, y in a]
                on_b = [nx * x + ny * y for x, y in b]
                if (nx or ny) and (max(on_a) < min(on_b) or max(on_b) < min(on_a)):
                    return False
    return True


def put(text: Any, places: Iterable[Place], taken: list[Shape], within: Any = None) -> Place:
    """Move the text to the first free of its places, or to the one where it is the least in the way, and take it.

    within  a box in pixels that it should not leave
    """
    best: tuple[int, Place] | None = None
    for place in places:
        move(text, place)
        shape = outline(text)
        hits = sum(_weight(other) for other in taken if overlap(shape, other))
        if within is not None and not all(within.contains(x, y) for x, y in shape):
            hits += OUTSIDE
        if best is None or hits < best[0]:
            best = (hits, place)
        if not hits:
            break
    assert best is not None
    move(text, best[1])
    taken.append(outline(text))
    return best[1]


def _weight(shape: Shape) -> int:
    """A line through a text can be read, a dot under it nearly so, another text cannot."""
    return LINE if len(shape) == 2 else TEXT if len(shape) == 4 else DOT


def move(text: Any, place: Place) -> None:
    text.set_position((place.x, place.y))
    text.set_horizontalalignment(place.ha)
    text.set_verticalalignment(place.va)


def spread(wanted: Sequence[float], room: float) -> list[float]:
    """Places on a line, in the order of `wanted`, at least `room` apart and as near to it as that allows."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []

    def centre(group: list[int]) -> float:
        return sum(wanted[i] for i in group) / len(group)

    for i in order:
        groups.append([i])
        while len(groups) > 1:
            below, above = groups[-2], groups[-1]
            reach = room * (len(below) + len(above)) / 2
            if centre(above) - centre(below) >= reach:
                break
            groups[-2:] = [below + above]
    found = [0.0] * len(wanted)
    for group in groups:
        start = centre(group) - room * (len(group) - 1) / 2
        for k, i in enumerate(group):
            found[i] = start + k * room
    return found
