"""Placing labels: overlap of polygons, and spreading along a line."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kvperf.render.figure.labels import disc, overlap, spread

SQUARE = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]


def test_overlap_of_turned_shapes() -> None:
    diamond = [(1.6, 0.5), (2.1, 1.0), (1.6, 1.5), (1.1, 1.0)]
    assert not overlap(SQUARE, diamond)
    assert overlap(SQUARE, [(x - 0.2, y) for x, y in diamond])
    # Their boxes overlap, they do not: along the same diagonal.
    assert not overlap([(0, 0.2), (2, 2.2), (1.9, 2.3), (-0.1, 0.3)], [(0, -0.2), (2, 1.8), (2.1, 1.7), (0.1, -0.3)])


def test_a_line_through_a_shape_overlaps_it() -> None:
    assert overlap(SQUARE, [(-1, -1), (2, 2)])
    assert not overlap(SQUARE, [(-1, 0), (0, 1.5)])
    assert not overlap(SQUARE, [(2, 2), (3, 3)])


def test_a_disc_is_not_smaller_than_its_circle() -> None:
    points = disc(3, 4, 2)
    edges = zip(points, [*points[1:], points[0]], strict=True)
    middles = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in edges]
    assert min(math.hypot(x - 3, y - 4) for x, y in middles) >= 2 - 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_spread_keeps_order_and_room(wanted: list[float]) -> None:
    found = spread(wanted, 0.05)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [found[i] for i in order]
    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(placed))


def test_what_has_room_stays() -> None:
    assert spread([0.9, 0.1, 0.5], 0.05) == [0.9, 0.1, 0.5]
