"""Pictures inside the HTML: the figures of `kvperf plot` as SVG, light and dark."""

from __future__ import annotations

import re
from typing import Any

from kvperf.errors import KvperfError
from kvperf.report.document import Figure, Memory, Roofline


def pictures(figure: Figure) -> tuple[str, KvperfError | None]:
    """Both themes, of which the style sheet shows the one that the reader's system asks for; or why there is none."""
    from kvperf.render.figure.sheet import file_bytes
    from kvperf.render.figure.theme import THEMES

    if figure.drawn_of is None:
        return "", None
    drawn = []
    for name, theme in THEMES.items():
        try:
            picture = _drawn(figure.drawn_of, theme)
        except KvperfError as problem:
            return "", problem
        svg = _inline(file_bytes(picture, "svg").decode(), f"{type(figure.drawn_of).__name__.lower()}-{name}")
        drawn.append(f'<div class="{name}">{svg}</div>')
    return "\n".join(drawn), None


def _drawn(of: Roofline | Memory, theme: Any) -> Any:
    if isinstance(of, Roofline):
        from kvperf.render.figure.roofline import roofline

        return roofline(of.analysis, theme, hbm=of.hbm, measured=of.measured)
    from kvperf.render.figure.memory import memory

    return memory(of.sweep, theme)


def _inline(svg: str, prefix: str) -> str:
    """The drawing alone, with the names that it refers to made its own: two drawings of one page must not share them.

    Coordinates are cut to a hundredth of a point.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bd="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r'\s\bid="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    return svg.replace("<svg ", '<svg role="img" ', 1).strip()
