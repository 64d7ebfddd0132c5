"""The special-function unit. Approximations are computed in float64 and rounded: closer than the hardware's."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253

from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Action, Instruction

_TINY = np.finfo(np.float32).tiny


def _function(function: Any) -> Action:
    def action(threads: Any, instruction: Instruction) -> None:
        kind = instruction.kind
        value = threads.read(instruction.operands[1], kind).astype(np.float64)
        result = function(value)
        if instruction.has("ftz") and kind == "f32":
            result = np.where(np.abs(result) < _TINY, np.copysign(0.0, result), result)
        threads.write(instruction.operands[0], result.astype(np.float32) if kind != "f64" else result, kind)

    return action


def _logarithm(value: Array) -> Array:
    return np.log2(value)


TABLE: dict[str, Action] = {
    "ex2": _function(np.exp2),
    "lg2": _function(_logarithm),
    "rcp": _function(lambda value: 1.0 / value),
    "rsqrt": _function(lambda value: 1.0 / np.sqrt(value)),
    "sqrt": _function(np.sqrt),
    "sin": _function(np.sin),
    "cos": _function(np.cos),
    "tanh": _function(np.tanh),
}
