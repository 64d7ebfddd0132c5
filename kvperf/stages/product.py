"""The matrix part of a stage."""

from __future__ import annotations

from typing import Any

from kvperf.dtypes import DType, operand
from kvperf.work import padded_rows


def product(flops: Any, rows: Any, weight: DType, given: DType, elements: Any) -> dict[str, Any]:
    """Fields of a Work for `rows` rows of `given` times `elements` stored elements of `weight`.

    Stored elements that the matrix unit can't multiply as they are get converted first.
    """
    unit = operand(weight, given)
    converted = int(weight.operand != unit)
    return {
        "matrix_by_operand": {unit: flops},
        "padded_flops": padded_rows(flops, rows),
        "conversions_by_format": {weight.operand: elements} if converted else {},
    }
