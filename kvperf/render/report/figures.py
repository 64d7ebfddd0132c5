"""Pictures inside the HTML: the figures of `kvperf plot` as SVG, light and dark."""

from __future__ import annotations

import re
from typing import Any

from kvperf.errors import KvperfError
from kvperf.report.document import Figure
from kvperf.report.subject import Subject


def pictures(figure: Figure) -> str:
    """Both themes; the style sheet shows the one that the reader's system asks for. Empty where none can be drawn."""
    from kvperf.render.figure.sheet import file_bytes
    from kvperf.render.figure.theme import THEMES

    draw = {"roofline": _roofline, "memory": _memory}[figure.kind]
    drawn = []
    for name, theme in THEMES.items():
        try:
            picture = draw(figure.drawn_of, theme)
        except KvperfError:
            return ""
        svg = _inline(file_bytes(picture, "svg").decode(), f"{figure.kind}-{name}")
        drawn.append(f'<div class="{name}">{svg}</div>')
    return "\n".join(drawn)


def _roofline(subject: Subject, theme: Any) -> Any:
    from kvperf.render.figure.roofline import roofline

    last = subject.gpu.levels()[-1]
    hbm = last.name, last.bandwidth_kind or "spec"
    return roofline(subject.analysis, theme, hbm=hbm, measured=_measured(subject))


def _measured(subject: Subject) -> Any:
    """The readings of this step, where the record has them."""
    from kvperf.measured import measured

    if subject.record is None:
        return None
    try:
        return measured(subject.record, subject.analysis)
    except KvperfError:
        return None


def _memory(subject: Subject, theme: Any) -> Any:
    from kvperf.crossings import filling
    from kvperf.render.figure.memory import memory

    asked = dict(subject.asked or {})
    asked.pop("batch", None)
    return memory(filling("batch", **asked), theme)


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
