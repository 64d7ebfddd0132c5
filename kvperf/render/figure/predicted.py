"""What figures say of a prediction: whose kernels, whose constants, and how wide its interval is."""

from __future__ import annotations

from typing import Any

from kvperf.record import Analysis, Figures
from kvperf.render.figure.theme import Theme
from kvperf.units import decimal

NONE = "no prediction"  # how an analysis begins to say why it predicts nothing
PUBLISHED = "published"


def priced(record: Analysis) -> list[str]:
    """A line of the footer: whose kernels and constants; nothing without a prediction."""
    if record.step.predicted_s is None:
        return []
    labels = dict.fromkeys(stage.calibration for stage in record.stages if stage.calibration)
    fitted = " and ".join(label.replace(", borrowed", " (borrowed)") for label in labels if label != PUBLISHED)
    small = [", small kernels from publications"] if PUBLISHED in labels else []
    graphs = "with" if record.workload.cuda_graphs else "without"
    took = record.step.host_s
    host = f"; host time {decimal(took, 's')} is in it" if took else "; without host time, of which none was fitted"
    constants = f"constants of {fitted}{''.join(small)}" if fitted else "constants from publications"
    return [f"Predicted: {record.workload.stack} {graphs} CUDA graphs; {constants}{host}."]


def interval(found: Figures) -> tuple[float, float]:
    """The ends of the 80 % interval; the prediction itself where there is none."""
    low, high = found.predicted_low_s, found.predicted_high_s
    middle = float(found.predicted_s or 0)
    return middle if low is None else float(low), middle if high is None else float(high)


def whisker(axes: Any, theme: Theme, found: Figures, row: float, scale: float, half: float, name: str) -> None:
    """A tick at the prediction, and a line over its interval."""
    if found.predicted_s is None:
        return
    low, high = interval(found)
    at = found.predicted_s / scale
    axes.plot((low / scale, high / scale), (row, row), color=theme.ink, linewidth=0.9, gid=f"{name} interval")
    axes.plot((at, at), (row - half, row + half), color=theme.ink, linewidth=1.4, gid=name)
