"""How figures look: Okabe and Ito's colours on light or dark, one font, nothing from the user's own settings.

Every colour is doubled by a shape, a dash or a hatch, so that figures can be read in greyscale.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

ThemeName = Literal["light", "dark"]
BLUE, SKY, ORANGE, VERMILLION = "#0072B2", "#56B4E9", "#E69F00", "#D55E00"
GREEN, YELLOW, PURPLE = "#009E73", "#F0E442", "#CC79A7"


class Theme(NamedTuple):
    """Colours. `resources` by what binds; `series` for curves, `weights` and the rest for what fills memory."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    resources: dict[str, str]
    series: tuple[str, ...]


LIGHT = Theme(
    "light",
    "#FFFFFF",
    "#1A1A1A",
    "#595959",
    "#E3E3E3",
    {"hbm": BLUE, "tensor": ORANGE, "link": GREEN},
    (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, "#1A1A1A"),
)
DARK = Theme(
    "dark",
    "#14171A",
    "#ECECEC",
    "#A8ACB0",
    "#33383D",
    {"hbm": SKY, "tensor": VERMILLION, "link": YELLOW},
    (SKY, VERMILLION, YELLOW, GREEN, PURPLE, ORANGE, "#ECECEC"),
)
THEMES = {"light": LIGHT, "dark": DARK}

MARKERS = {"hbm": "o", "tensor": "s", "link": "D"}
HATCHES = {"hbm": "", "tensor": "////", "link": "||||"}  # of lines: a pattern of dots fills half a megabyte
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))

SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "kvperf",
    "pdf.fonttype": 42,
    "path.simplify": False,
}


@contextmanager
def house_style() -> Any:
    """Matplotlib's own defaults and ours, whatever the user's settings say."""
    matplotlib = _matplotlib()
    defaults: Any = {
        k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "interactive"))
    }
    with matplotlib.rc_context(defaults | SETTINGS):
        yield


def _matplotlib() -> Any:
    """Matplotlib, imported without MPLBACKEND: a backend that is not installed here would stop it, and none is used.

    Where the name is good it is set afterwards, so that a notebook still shows the figures of its own.
    """
    import sys

    if "matplotlib" in sys.modules or "MPLBACKEND" not in os.environ:
        import matplotlib

        return matplotlib
    asked = os.environ.pop("MPLBACKEND")
    try:
        import matplotlib
    finally:
        os.environ["MPLBACKEND"] = asked
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = asked
    return matplotlib


def in_house_style(draw: Callable[..., Any]) -> Callable[..., Any]:
    """A function that draws, under house_style."""

    @functools.wraps(draw)
    def styled(*arguments: Any, **named: Any) -> Any:
        with house_style():
            return draw(*arguments, **named)

    return styled
