"""The special-function unit. Approximations are computed in float64 and rounded: closer than the hardware's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Instruction
from kvperf.emulator.opcodes.elementwise import Elementwise, Rule


def _function(function: Callable[[Array], Array]) -> Elementwise:
    """In float64, rounded once."""

    def rule(instruction: Instruction) -> Rule:
        double = instruction.kind == "f64"

        def computed(value: Array) -> Array:
            result = function(value.astype(np.float64))
            return result if double else result.astype(np.float32)

        return Rule(computed, (instruction.kind,), instruction.kind)

    return Elementwise(rule)


TABLE: dict[str, Elementwise] = {
    "ex2": _function(np.exp2),
    "lg2": _function(np.log2),
    "rcp": _function(lambda value: 1.0 / value),
    "rsqrt": _function(lambda value: 1.0 / np.sqrt(value)),
    "sqrt": _function(np.sqrt),
    "sin": _function(np.sin),
    "cos": _function(np.cos),
    "tanh": _function(np.tanh),
}
