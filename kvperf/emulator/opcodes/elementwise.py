"""Instructions that compute each thread's result from its own operands: the operands are read, `f` is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np  # noqa: TID253

from kvperf.emulator.formats import is_float
from kvperf.emulator.instruction import Action, Instruction

Function = Callable[..., Any]


def elementwise(function: Function) -> Action:
    """d = function(a, b …) in the type of the instruction; `.sat` clamps floats to [0, 1], NaN to 0."""

    def action(threads: Any, instruction: Instruction) -> None:
        kind = instruction.kind
        result = function(*(threads.read(operand, kind) for operand in instruction.operands[1:]))
        if "sat" in instruction.modifiers and is_float(kind):
            result = np.fmin(np.fmax(result, 0), 1)
        threads.write(instruction.operands[0], result, kind)

    return action
