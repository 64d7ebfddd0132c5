"""Integer and floating-point arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kvperf.emulator.formats import Array, is_float
from kvperf.emulator.instruction import Action, Instruction
from kvperf.emulator.opcodes.elementwise import Elementwise, Rule, same

WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
NUMPY = {"u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64}
# Above this `div.approx` takes the reciprocal of its divisor for 0.
LARGEST_DIVISOR = 2.0**126


def _sum(function: Callable[..., Any]) -> Elementwise:
    """a ± b; integers wrap, but for `.sat.s32`."""

    def saturated(a: Array, b: Array) -> Array:
        limits = np.iinfo(np.int32)
        return np.clip(function(a.astype(np.int64), b), limits.min, limits.max).astype(np.int32)

    def rule(instruction: Instruction) -> Rule:
        kind = instruction.kind
        return Rule(saturated if kind == "s32" and instruction.has("sat") else function, (kind, kind), kind)

    return Elementwise(rule)


def mul(instruction: Instruction) -> Rule:
    """`.wide`, `.hi` and `.lo` of integers; floats."""
    kind = instruction.kind
    if instruction.has("wide"):
        return Rule(_wide_product(kind), (kind, kind), WIDE[kind])
    if instruction.has("hi"):
        return Rule(high, (kind, kind), kind)
    return Rule(np.multiply, (kind, kind), kind)


def mad(instruction: Instruction) -> Rule:
    """a·b + c; a float `mad` is an `fma`."""
    kind = instruction.kind
    if is_float(kind):
        return fma(instruction)
    product, _, to = mul(instruction)
    return Rule(lambda a, b, c: product(a, b) + c, (kind, kind, to), to)


def _wide_product(kind: str) -> Callable[[Array, Array], Array]:
    wide = NUMPY[WIDE[kind]]
    return lambda a, b: np.multiply(a, b, dtype=wide)


def high(a: Array, b: Array) -> Array:
    """The upper half of a product of integers."""
    if a.dtype.itemsize < 8:
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(8 * a.dtype.itemsize)).astype(a.dtype)
    x, y, half, low = a.astype(np.uint64), b.astype(np.uint64), np.uint64(32), np.uint64(0xFFFFFFFF)
    cross = (x >> half) * (y & low) + (((x & low) * (y & low)) >> half)
    other = (x & low) * (y >> half) + (cross & low)
    upper = (x >> half) * (y >> half) + (cross >> half) + (other >> half)
    if a.dtype.kind == "i":
        upper = upper - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return upper.astype(a.dtype)


def fma(instruction: Instruction) -> Rule:
    """a·b + c with one rounding: the product is exact in float64, the sum is rounded to 53 bits and then once more."""
    kind, relu = instruction.kind, instruction.has("relu")
    narrow = {"f32": lambda exact: exact.astype(np.float32), "bf16": _to_odd, "bf16x2": _to_odd}.get(kind, np.asarray)

    def fused(a: Array, b: Array, c: Array) -> Array:
        result = np.multiply(a, b, dtype=np.float64)
        result += c
        if relu:
            result = np.maximum(result, 0)
        return narrow(result)

    return Rule(fused, (kind,) * 3, kind)


def _to_odd(value: Array) -> Array:
    """float64 to float32, inexact ones to the neighbour with an odd mantissa: rounding to bf16 is then the only one."""
    result = value.astype(np.float32)
    inexact = (result != value) & np.isfinite(result)
    bits = result.view(np.uint32) - (inexact & (np.abs(result) > np.abs(value)))
    return (bits.astype(np.uint32) | inexact).view(np.float32)


def div(a: Array, b: Array) -> Array:
    """Integers truncate; a division by zero gives all ones."""
    if a.dtype.kind == "f":
        return a / b
    divisor = np.where(b == 0, b.dtype.type(1), b)
    quotient = (a - np.fmod(a, divisor)) // divisor
    return np.where(b == 0, np.array([-1]).astype(a.dtype), quotient)


def quotient(instruction: Instruction) -> Rule:
    """`.approx` multiplies by the reciprocal, which is 0 for a finite divisor above 2^126."""
    kind = instruction.kind

    def approximate(a: Array, b: Array) -> Array:
        beyond = (np.abs(b) > LARGEST_DIVISOR) & np.isfinite(b)
        found = a / b
        return np.where(beyond, np.where(np.isinf(a), np.float32(np.nan), np.copysign(np.float32(0), found)), found)

    return Rule(approximate if instruction.has("approx") else div, (kind, kind), kind)


def rem(a: Array, b: Array) -> Array:
    """The sign of the dividend, as in C; a remainder of a division by zero is the dividend."""
    return np.where(b == 0, a, np.fmod(a, np.where(b == 0, b.dtype.type(1), b)))


def _extreme(plain: Callable[..., Any], with_nan: Callable[..., Any]) -> Elementwise:
    """Of two operands, or of the three of sm_100; `.NaN` passes NaN on."""

    def rule(instruction: Instruction) -> Rule:
        kind, count = instruction.kind, len(instruction.operands) - 1
        function = with_nan if instruction.has("NaN") or not is_float(kind) else plain
        if count == 2:
            return Rule(function, (kind, kind), kind)
        return Rule(lambda a, b, c: function(function(a, b), c), (kind,) * 3, kind)

    return Elementwise(rule)


def dp4a(instruction: Instruction) -> Rule:
    """c plus the sum of the four products of bytes."""
    first, second = ("i1" if kind[0] == "s" else "u1" for kind in instruction.modifiers[-2:])
    signed = "s32" in instruction.modifiers[-2:]

    def octets(value: Array, dtype: str) -> Array:
        return np.ascontiguousarray(value).view(dtype).reshape(-1, 4).astype(np.int64)

    def dot(a: Array, b: Array, c: Array) -> Array:
        total = (octets(a, first) * octets(b, second)).sum(axis=1) + c
        return total.astype(np.int32 if signed else np.uint32)

    kind = "s32" if signed else "u32"
    return Rule(dot, ("b32", "b32", kind), kind)


TABLE: dict[str, Action | Elementwise] = {
    "add": _sum(np.add),
    "sub": _sum(np.subtract),
    "mul": Elementwise(mul),
    "mad": Elementwise(mad),
    "fma": Elementwise(fma),
    "div": Elementwise(quotient),
    "rem": same(rem),
    "min": _extreme(np.fmin, np.minimum),
    "max": _extreme(np.fmax, np.maximum),
    "abs": same(np.abs),
    "neg": same(np.negative),
    "copysign": same(lambda sign, magnitude: np.copysign(magnitude, sign)),
    "sad": same(lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c),
    "dp4a": Elementwise(dp4a),
}
