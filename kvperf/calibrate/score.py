"""How far predictions are from measurements."""

from __future__ import annotations

from typing import Any

import msgspec


class Score(msgspec.Struct, frozen=True):
    """Errors of `rows` predictions: |predicted / measured − 1|; bias is the median of predicted / measured."""

    rows: int
    mean: float
    median: float
    p90: float
    bias: float


def score(predicted_s: Any, measured_s: Any) -> Score:
    """Raises ValueError where a prediction is not a number."""
    import numpy as np

    ratio = predicted_s / measured_s
    if not np.isfinite(ratio).all():
        raise ValueError("a prediction is not finite")
    error = np.abs(ratio - 1)
    return Score(
        len(ratio),
        float(error.mean()),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(np.median(ratio)),
    )
