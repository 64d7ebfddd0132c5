"""Arms of a kernel that overlap, but hide one another only where one is much longer."""

from __future__ import annotations

import math
from typing import Any


def joined(*arms: Any, sharpness: int = 2) -> Any:
    """The 2-norm of times, or their 4-norm: near the longest where that stands out, above it where two are alike.

    Products and square roots only: these round alike for one number and for an array.
    """
    total: Any = 0.0
    for arm in arms:
        square = arm * arm
        total = total + (square * square if sharpness == 4 else square)
    root = _square_root(total)
    return _square_root(root) if sharpness == 4 else root


def _square_root(value: Any) -> Any:
    if isinstance(value, int | float):
        return math.sqrt(value)
    import numpy as np

    return np.sqrt(value)
