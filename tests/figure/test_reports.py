"""The figures in reports/ are what the program draws.

`kvperf plot ARGUMENTS --output reports/NAME --force`, with the arguments below, draws each again.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

import kvperf
from kvperf.cli import run

REPORTS = Path(kvperf.__file__).parent.parent / "reports"
KEPT: dict[str, list[str]] = {
    "roofline-llama-3.1-8b-h100.svg": [],
    "roofline-llama-3.1-8b-h100-dark.svg": ["--theme", "dark"],
    "roofline-llama-3.1-8b-h100-batch-64.svg": ["--batch", "64"],
    "roofline-deepseek-v3-h200.svg": ["--gpu", "h200", "--model", "deepseek-v3", "--batch", "128"],
    "sweep-llama-3.1-8b-h100.svg": ["sweep"],
    "memory-llama-3.1-8b-h100.svg": ["memory"],
}
PICTURE = "roofline-llama-3.1-8b-h100.png"
DRAWN_WITH = "3.11"  # other versions of matplotlib write the same figure in other words
LARGEST = 120_000  # bytes
ALIKE = 1e-4  # of the pixels may differ; without its dots ten times as many do
NUMBER = re.compile(r"-?\d+\.\d+")

same_matplotlib = pytest.mark.skipif(
    not matplotlib.__version__.startswith(DRAWN_WITH), reason=f"drawn with matplotlib {DRAWN_WITH}"
)


def redrawn(folder: Path, name: str) -> Path:
    assert run(["plot", *KEPT.get(name, []), "--output", str(folder / name)]) == 0
    return folder / name


@pytest.mark.parametrize("name", list(KEPT))
def test_the_figure_is_drawn_the_same(name: str, tmp_path: Path) -> None:
    """Word for word; and line for line where it is the same matplotlib."""
    kept, now = REPORTS / name, redrawn(tmp_path, name)
    assert words(kept) == words(now)
    assert kept.stat().st_size < LARGEST
    if not matplotlib.__version__.startswith(DRAWN_WITH):
        return
    before, after = kept.read_text(encoding="utf-8"), now.read_text(encoding="utf-8")
    assert NUMBER.split(before) == NUMBER.split(after)
    pairs = zip(NUMBER.findall(before), NUMBER.findall(after), strict=True)
    assert max(abs(float(a) - float(b)) for a, b in pairs) < 0.05


@same_matplotlib
def test_the_picture_looks_the_same(tmp_path: Path) -> None:
    assert unlike(REPORTS / PICTURE, redrawn(tmp_path, PICTURE)) < ALIKE


@same_matplotlib
def test_a_picture_without_its_dots_looks_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    monkeypatch.setattr(Axes, "scatter", lambda *arguments, **named: None)
    assert unlike(REPORTS / PICTURE, redrawn(tmp_path, PICTURE)) > 5 * ALIKE


def test_nothing_else_is_kept() -> None:
    drawn = {path.name for path in REPORTS.iterdir() if path.suffix in (".png", ".svg", ".pdf")}
    assert drawn == {*KEPT, PICTURE}


def unlike(a: Path, b: Path) -> float:
    """The fraction of pixels that are of another colour."""
    from matplotlib.image import imread

    kept, now = imread(a), imread(b)
    assert kept.shape == now.shape
    return float((abs(kept - now).max(axis=-1) > 0.2).mean())


def words(path: Path) -> list[str]:
    return re.findall(r">([^<>]+)</text>", path.read_text(encoding="utf-8"))
