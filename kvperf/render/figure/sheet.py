"""The paper of a figure: title, panels placed in inches, footer; and the file it goes to."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from kvperf.errors import KvperfError
from kvperf.render.figure.predicted import NONE
from kvperf.render.figure.theme import Theme, house_style

WIDTH = 10.4
DPI = 200
MARGIN = 0.2
ABOVE = 1.0  # title, subtitle, and what stands above a panel
BELOW = 0.55  # tick labels and axis title
LINE = 0.135
WARNING = 0.16  # of a line of warnings
FOOTER_PT = 6.8
# What would say when and by what the file was made, each format in its own words.
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


def sheet(
    theme: Theme,
    panels: float,
    title: str,
    subtitle: str,
    footer: Sequence[str],
    above: float = ABOVE,
    warnings: Sequence[str] = (),
) -> tuple[Any, float]:
    """An empty figure with room for panels of this height; and where their lower edge is, in inches.

    above     room for title, subtitle and what stands above a panel
    warnings  what a reader must know of the figures, below the subtitle; why nothing is predicted, in the footer
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unpredicted = [text for text in warnings if text.startswith(NONE)]
    lines = folded_footer([*(f"{text[0].upper()}{text[1:]}." for text in unpredicted), *footer])
    bottom = 0.12 + LINE * len(lines) + BELOW
    warned = [line for text in warnings if text not in unpredicted for line in wrap(f"Warning: {text}.", 150)]
    height = bottom + panels + above + WARNING * len(warned)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=theme.paper)
    FigureCanvasAgg(figure)
    left = MARGIN / WIDTH
    figure.text(left, 1 - 0.16 / height, title, va="top", fontsize=11, fontweight="bold", color=theme.ink, gid="title")
    figure.text(left, 1 - 0.40 / height, subtitle, va="top", fontsize=8, color=theme.muted, gid="subtitle")
    for number, line in enumerate(warned):
        y = 1 - (0.57 + WARNING * number) / height
        figure.text(left, y, line, va="top", fontsize=8, fontweight="bold", color=theme.ink, gid="warning")
    for number, line in enumerate(reversed(lines)):
        y = (0.1 + number * LINE) / height
        figure.text(left, y, line, va="bottom", fontsize=FOOTER_PT, color=theme.muted, gid="footer")
    return figure, bottom


def folded_footer(footer: Sequence[str]) -> list[str]:
    """Footer lines no wider than the paper."""
    return [line for text in footer for line in wrap(text, 178, break_long_words=False, break_on_hyphens=False)]


def panel(figure: Any, theme: Theme, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place in inches, without the top and right lines."""
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, bottom / h, width / w, height / h), facecolor="none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.muted)
    axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.ink, labelsize=8)
    axes.set_axisbelow(True)
    return axes


def format_of(path: Path) -> str:
    """png, svg or pdf by the extension. Raises KvperfError for any other."""
    extension = path.suffix.lower().removeprefix(".")
    if extension not in METADATA:
        said = f"'.{extension}'" if extension else "no extension"
        raise KvperfError(f"{path}: {said} says no format of a figure", "name a file that ends in .png, .svg or .pdf")
    return extension


def file_bytes(figure: Any, format: str) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    held = io.BytesIO()
    with house_style():
        figure.savefig(held, format=format, dpi=DPI, facecolor=figure.get_facecolor(), metadata=METADATA[format])
    return held.getvalue()
