"""Moves, packing and conversions between number formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kvperf.emulator import formats
from kvperf.emulator.formats import KINDS, Array, is_float
from kvperf.emulator.instruction import Action, Instruction, Register, Vector
from kvperf.emulator.memory import LOCAL_WINDOW, SHARED_WINDOW
from kvperf.emulator.opcodes.elementwise import Rule, bind

_WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
_ROUNDED = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_SMALL_BITS = {"e4m3x2": formats.e4m3_bits, "e5m2x2": formats.e5m2_bits}
_SMALL_VALUES = {"e4m3x2": formats.e4m3_values, "e5m2x2": formats.e5m2_values}


def mov(threads: Any, instruction: Instruction) -> None:
    """A register, a constant, an address, or the packing of several registers into one and back."""
    destination, source = instruction.operands
    kind = _bits_of(instruction.kind)
    if isinstance(source, Vector):
        threads.write(destination, packed(threads, source, kind), kind)
    elif isinstance(destination, Vector):
        unpack(threads, destination, threads.read(source, kind))
    else:
        threads.write(destination, threads.read(source, kind), kind)


class _Mov:
    """From register to register is bound as an elementwise instruction."""

    @staticmethod
    def bind(instruction: Instruction) -> Action:
        destination, source = instruction.operands
        if isinstance(destination, Register) and isinstance(source, Register) and not source.negated:
            kind = _bits_of(instruction.kind)
            return bind(instruction, Rule(lambda bits: bits, (kind,), kind))
        return mov


def _bits_of(kind: str) -> str:
    return kind if kind == "pred" else f"b{8 * KINDS[kind].storage.itemsize}"


def packed(threads: Any, vector: Vector, kind: str) -> Array:
    """The bits of several registers or constants side by side, the first lowest, as one number of `kind`."""
    bits = 8 * KINDS[kind].storage.itemsize // len(vector.parts)
    parts = [np.broadcast_to(threads.read(part, f"b{bits}"), (threads.n,)) for part in vector.parts]
    return np.stack(parts, axis=1).reshape(-1).view(f"u{len(parts) * bits // 8}")


def unpack(threads: Any, vector: Vector, bits: Array) -> None:
    """The pieces of the bits to several registers, the lowest first."""
    size = bits.dtype.itemsize // len(vector.parts)
    pieces = np.ascontiguousarray(bits).view(f"u{size}").reshape(-1, len(vector.parts))
    for part, piece in zip(vector.parts, pieces.T, strict=True):
        threads.write(part, np.ascontiguousarray(piece), f"b{8 * size}")


def cvta(threads: Any, instruction: Instruction) -> None:
    """Between the address in a space and the generic one, which is the same for global memory."""
    space = next(m.split("::")[0] for m in instruction.modifiers if m != "to" and not m.startswith("u"))
    start = np.uint64(_WINDOWS.get(space, 0))
    address = threads.read(instruction.operands[1], "u64")
    threads.write(instruction.operands[0], address - start if instruction.has("to") else address + start, "u64")


class _Cvt:
    """`cvt.rounding.ftz.sat.to.from`: of one number, elementwise; of pairs, as they are."""

    @staticmethod
    def bind(instruction: Instruction) -> Action:
        to, source = instruction.modifiers[-2:]
        if to.endswith("x2") or source.endswith("x2"):
            return _cvt_pair
        return bind(instruction, Rule(conversion(to, source, instruction), (source,), to))


def conversion(to: str, source: str, instruction: Instruction) -> Callable[[Array], Array]:
    """From numbers of one type to numbers of another: floats saturate to the range of integers, integers wrap."""
    if not is_float(to):
        return _to_integer(to, source, instruction)
    rounding = next((_ROUNDED[name] for name in _ROUNDED if instruction.has(name) and is_float(source)), None)
    saturates, relu, narrow = instruction.has("sat"), instruction.has("relu"), to == "bf16"
    if rounding is None and not (saturates or relu or narrow):
        return lambda value: value

    def computed(value: Array) -> Array:
        value = value if rounding is None else rounding(value)
        value = np.fmin(np.fmax(value, 0), 1) if saturates else value
        value = np.maximum(value, 0) if relu else value
        return value.astype(np.float32) if narrow else value

    return computed


def _to_integer(to: str, source: str, instruction: Instruction) -> Callable[[Array], Array]:
    dtype = np.dtype(f"{'i' if to[0] == 's' else 'u'}{int(to[1:]) // 8}")
    if is_float(source):
        rounding = next((_ROUNDED[name] for name in _ROUNDED if instruction.has(name)), np.trunc)
        return lambda value: _whole(rounding(value), dtype)
    if instruction.has("sat"):
        limits = np.iinfo(dtype)
        return lambda value: np.array([min(max(int(number), limits.min), limits.max) for number in value], dtype)
    return lambda value: value.astype(dtype)


def _whole(value: Array, dtype: np.dtype[Any]) -> Array:
    """To the nearest whole number in range; NaN gives 0."""
    limits = np.iinfo(dtype)
    wide = np.where(np.isnan(value), 0, value.astype(np.float64))
    inside = np.clip(wide, float(limits.min), float(limits.max))
    # The largest of 64 bits is no float64: what reaches it would wrap.
    top = inside >= float(limits.max)
    return np.where(top, limits.max, np.where(top, 0, inside).astype(dtype)).astype(dtype)


def _cvt_pair(threads: Any, instruction: Instruction) -> None:
    """Packed conversions: two floats (the first operand is the upper half) or one packed register to another."""
    to, source = instruction.modifiers[-2:]
    operands = instruction.operands[1:]
    if source == "f32":
        values = np.stack([threads.read_each(o, "f32") for o in operands[1::-1]], axis=1)
    elif source in _SMALL_VALUES:
        octets = np.ascontiguousarray(threads.read_each(operands[0], "b16"))
        values = _SMALL_VALUES[source](octets.view(np.uint8).reshape(-1, 2))
    else:
        values = threads.read(operands[0], source)
    if instruction.has("relu"):
        values = np.maximum(values, 0)
    if to in _SMALL_BITS:
        threads.write(instruction.operands[0], _SMALL_BITS[to](values).view(np.uint16).reshape(-1), "b16")
    else:
        threads.write(instruction.operands[0], values.astype(np.float32), to)


TABLE: dict[str, Action | _Mov | _Cvt] = {"mov": _Mov(), "cvta": cvta, "cvt": _Cvt()}
