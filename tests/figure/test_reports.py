"""The figures in reports/ are what the program draws."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

import kvperf
from kvperf.cli import run

REPORTS = Path(kvperf.__file__).parent.parent / "reports"
KEPT = {extension: REPORTS / f"roofline-llama-3.1-8b-h100.{extension}" for extension in ("svg", "png")}
DRAWN_WITH = "3.11"  # other versions of matplotlib write the same figure in other words


def redrawn(folder: Path, extension: str) -> Path:
    target = folder / f"figure.{extension}"
    assert run(["plot", "--output", str(target)]) == 0
    return target


def test_the_figure_says_what_the_program_says(tmp_path: Path) -> None:
    kept, now = KEPT["svg"], redrawn(tmp_path, "svg")
    assert words(kept) == words(now)


@pytest.mark.skipif(not matplotlib.__version__.startswith(DRAWN_WITH), reason=f"drawn with matplotlib {DRAWN_WITH}")
def test_the_figure_is_drawn_the_same(tmp_path: Path) -> None:
    kept, now = KEPT["svg"].read_text(), redrawn(tmp_path, "svg").read_text()
    number = re.compile(r"-?\d+\.\d+")
    assert number.split(kept) == number.split(now)
    pairs = zip(number.findall(kept), number.findall(now), strict=True)
    assert max(abs(float(a) - float(b)) for a, b in pairs) < 0.05


def test_the_picture_looks_the_same(tmp_path: Path) -> None:
    from matplotlib.image import imread

    kept, now = imread(KEPT["png"]), imread(redrawn(tmp_path, "png"))
    assert kept.shape == now.shape
    assert abs(kept - now).mean() < 0.01


def words(path: Path) -> list[str]:
    return re.findall(r">([^<>]+)</text>", path.read_text(encoding="utf-8"))
