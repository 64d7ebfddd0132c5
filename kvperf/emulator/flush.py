"""`.ftz`: subnormal fp32 numbers become zeros of their sign, among the operands and in the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from kvperf.emulator.formats import Array

# Numbers with the exponents of fp32. Others, and fp16 in fp32, are never subnormal there, or `.ftz` is not about them.
KINDS = ("f32", "bf16", "bf16x2")
_TINY = np.finfo(np.float32).tiny
_ONE = np.uint32(1)
# Twice the bits of the smallest normal number, less one: as zero becomes the largest of all, subnormals are below it.
_LEAST = 2 * 0x00800000 - 1


def flush(values: Array) -> Array:
    """float32 with zeros of their sign for subnormals."""
    return np.where(np.abs(values) < _TINY, np.copysign(np.float32(0), values), values)


def _twice_less_one(values: Array) -> Array:
    bits = values.view(np.uint32)
    return bits + bits - _ONE


def flushing(function: Callable[..., Any], kinds: tuple[str, ...], to: str) -> Callable[..., Any]:
    """The function with subnormal operands and results flushed. Most often there are none, which one pass tells."""
    fp32 = [kind in KINDS for kind in kinds]
    places = [place for place, here in enumerate(fp32) if here]
    flushes_result = to in KINDS

    def computed(*values: Array) -> Array:
        result = function(*values)
        seen = [_twice_less_one(values[place]) for place in places]
        if flushes_result:
            seen.append(_twice_less_one(result))
        if np.minimum.reduce(reduce(np.minimum, seen), axis=None) >= _LEAST:
            return result
        result = function(*(flush(value) if here else value for value, here in zip(values, fp32, strict=True)))
        return flush(result) if flushes_result else result

    return computed
