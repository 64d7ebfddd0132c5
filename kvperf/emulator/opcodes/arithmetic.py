"""Integer and floating-point arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253

from kvperf.emulator.formats import Array, is_float
from kvperf.emulator.instruction import Action, Instruction
from kvperf.emulator.opcodes.elementwise import elementwise

WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
ROUNDINGS = ("rz", "rm", "rp")


def add(threads: Any, instruction: Instruction) -> None:
    _known_rounding(threads, instruction)
    _add(threads, instruction)


def sub(threads: Any, instruction: Instruction) -> None:
    _known_rounding(threads, instruction)
    _sub(threads, instruction)


def mul(threads: Any, instruction: Instruction) -> None:
    """`.wide`, `.hi` and `.lo` of integers; floats."""
    _known_rounding(threads, instruction)
    kind = instruction.kind
    a, b = (threads.read(operand, kind) for operand in instruction.operands[1:3])
    threads.write(instruction.operands[0], *_product(instruction, a, b))


def mad(threads: Any, instruction: Instruction) -> None:
    """a·b + c; a float `mad` is an `fma`."""
    kind = instruction.kind
    if is_float(kind):
        fma(threads, instruction)
        return
    a, b = (threads.read(operand, kind) for operand in instruction.operands[1:3])
    product, wide = _product(instruction, a, b)
    threads.write(instruction.operands[0], product + threads.read(instruction.operands[3], wide), wide)


def _product(instruction: Instruction, a: Array, b: Array) -> tuple[Array, str]:
    kind = instruction.kind
    if instruction.has("wide"):
        wide = np.int64 if kind[0] == "s" else np.uint64
        return (a.astype(wide) * b.astype(wide)).astype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 4}"), WIDE[
            kind
        ]
    return (high(a, b) if instruction.has("hi") else a * b), kind


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


def fma(threads: Any, instruction: Instruction) -> None:
    """a·b + c with one rounding: the product is exact in float64, the sum is rounded to 53 bits and then once more."""
    _known_rounding(threads, instruction)
    kind = instruction.kind
    a, b, c = (threads.read(operand, kind) for operand in instruction.operands[1:4])
    result = np.multiply(a, b, dtype=np.float64)
    result += c
    if instruction.has("sat"):
        result = np.fmin(np.fmax(result, 0), 1)
    if instruction.has("relu"):
        result = np.maximum(result, 0)
    if kind not in ("f64", "f32"):
        result = result.astype(np.float32) if kind.startswith("bf16") else result
    threads.write(instruction.operands[0], result, kind)


def _known_rounding(threads: Any, instruction: Instruction) -> None:
    for rounding in ROUNDINGS:
        if rounding in instruction.modifiers:
            raise threads.fault("unknown", f"the interpreter rounds arithmetic to nearest, not .{rounding}")


def div(a: Array, b: Array) -> Array:
    """Integers truncate; a division by zero gives all ones."""
    if a.dtype.kind == "f":
        return a / b
    divisor = np.where(b == 0, b.dtype.type(1), b)
    quotient = (a - np.fmod(a, divisor)) // divisor
    return np.where(b == 0, np.array([-1]).astype(a.dtype), quotient)


def rem(a: Array, b: Array) -> Array:
    """The sign of the dividend, as in C; a remainder of a division by zero is the dividend."""
    return np.where(b == 0, a, np.fmod(a, np.where(b == 0, b.dtype.type(1), b)))


def minimum(threads: Any, instruction: Instruction) -> None:
    (_min_nan if instruction.has("NaN") else _min)(threads, instruction)


def maximum(threads: Any, instruction: Instruction) -> None:
    (_max_nan if instruction.has("NaN") else _max)(threads, instruction)


_add, _sub = elementwise(np.add), elementwise(np.subtract)
_min, _max = (
    elementwise(lambda *values: _reduce(np.fmin, values)),
    elementwise(lambda *values: _reduce(np.fmax, values)),
)
_min_nan, _max_nan = elementwise(np.minimum), elementwise(np.maximum)


def _reduce(function: Any, values: tuple[Array, ...]) -> Array:
    """Two operands, or the three of sm_100."""
    result = function(values[0], values[1])
    return function(result, values[2]) if len(values) > 2 else result


def dp4a(threads: Any, instruction: Instruction) -> None:
    """c plus the sum of the four products of bytes."""
    kinds = instruction.modifiers[-2:]
    a, b = (
        np.ascontiguousarray(np.broadcast_to(threads.read(operand, "b32"), (threads.n,)))
        .view("i1" if kind[0] == "s" else "u1")
        .reshape(-1, 4)
        .astype(np.int64)
        for operand, kind in zip(instruction.operands[1:3], kinds, strict=True)
    )
    kind = "s32" if "s32" in kinds else "u32"
    total = (a * b).sum(axis=1) + threads.read(instruction.operands[3], kind).astype(np.int64)
    threads.write(instruction.operands[0], total.astype(np.uint32), "u32")


TABLE: dict[str, Action] = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "mul24": mul,
    "mad": mad,
    "fma": fma,
    "div": elementwise(div),
    "rem": elementwise(rem),
    "min": minimum,
    "max": maximum,
    "abs": elementwise(np.abs),
    "neg": elementwise(np.negative),
    "copysign": elementwise(lambda sign, magnitude: np.copysign(magnitude, sign)),
    "sad": elementwise(lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c),
    "dp4a": dp4a,
}
