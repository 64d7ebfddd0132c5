"""Arithmetic that reads the same for one point and for an array of points.

`analyze` runs on plain numbers without importing NumPy; a sweep runs the same formulas on float64
arrays. No formula branches on a numeric axis (batch, context, new tokens): it calls these instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# A figure of a record: one number. In a sweep the same field holds a float64 array.
Number = int | float

_PLAIN = (int, float, bool)


def _plain(*values: Any) -> bool:
    return all(type(value) in _PLAIN for value in values)


def least(first: Any, second: Any) -> Any:
    """The smaller of two, point by point."""
    if _plain(first, second):
        return first if first <= second else second
    import numpy as np

    return np.minimum(first, second)


def most(first: Any, second: Any) -> Any:
    """The larger of two, point by point."""
    if _plain(first, second):
        return first if first >= second else second
    import numpy as np

    return np.maximum(first, second)


def choose(condition: Any, then: Any, otherwise: Any) -> Any:
    """`then` where the condition holds, `otherwise` where not."""
    if _plain(condition):
        return then if condition else otherwise
    import numpy as np

    return np.where(condition, then, otherwise)


def floor(value: Any) -> Any:
    """The largest whole number not above `value`."""
    return value // 1


def ceil_div(value: Any, size: Any) -> Any:
    """How many pieces of `size` cover `value`."""
    return -(-value // size)


def ceil_log2(count: Any) -> Any:
    """The logarithm to base 2 of a number of things, rounded up; of up to a million."""
    doublings: Any = 0
    for doubling in range(20):
        doublings = doublings + (count > (1 << doubling)) * 1
    return doublings


def power(base: Any, exponent: Any) -> Any:
    """`base` to the `exponent`."""
    if _plain(base, exponent):
        return base**exponent
    import numpy as np

    return np.power(base, exponent)


def total(values: Iterable[Any]) -> Any:
    """The sum in written order (Python 3.12's built-in sum of floats rounds differently)."""
    result: Any = 0
    for value in values:
        result = result + value
    return result
