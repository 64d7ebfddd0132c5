"""Comparison and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kvperf.emulator.flush import flush
from kvperf.emulator.formats import KINDS, Array, is_float
from kvperf.emulator.instruction import Action, Instruction, Register, Vector
from kvperf.emulator.opcodes.elementwise import Elementwise, Rule, bind

_ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_OPPOSITE = {"ltu": np.greater_equal, "leu": np.greater, "gtu": np.less_equal, "geu": np.less}
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def compared(relation: str, a: Array, b: Array) -> Array:
    """A relation of PTX: those that end in u hold for NaN, the others do not."""
    if relation in _ORDERED:
        return _ORDERED[relation](a, b)
    if relation == "neu" or (relation == "ne" and a.dtype.kind != "f"):
        return a != b
    unordered = np.isnan(a) | np.isnan(b)
    if relation == "ne":
        return (a != b) & ~unordered
    if relation in ("nan", "num"):
        return unordered if relation == "nan" else ~unordered
    if relation == "equ":
        return (a == b) | unordered
    return ~_OPPOSITE[relation](a, b)


def _relation(instruction: Instruction, kind: str, threads: Any) -> Array:
    a, b = (threads.read(operand, kind) for operand in instruction.operands[1:3])
    a, b = (flush(a), flush(b)) if instruction.has("ftz") else (a, b)
    return compared(instruction.modifiers[0], a, b)


def setp(threads: Any, instruction: Instruction) -> None:
    """p, or p|q with q the opposite; packed types give p and q for their halves."""
    kind = instruction.kind
    holds = _relation(instruction, kind, threads)
    destination = instruction.operands[0]
    both = destination.parts if isinstance(destination, Vector) else (destination,)
    results = (holds[:, 0], holds[:, 1]) if holds.ndim == 2 else (holds, ~holds)
    combine = _COMBINE.get(instruction.modifiers[1])
    for register, result in zip(both, results, strict=False):
        if combine is not None:
            result = combine(result, threads.read(instruction.operands[3], "pred"))
        threads.write(register, result, "pred")


class _Setp:
    """The plain form is bound as an elementwise instruction, the others are executed as they are."""

    @staticmethod
    def bind(instruction: Instruction) -> Action:
        relation, kind = instruction.modifiers[0], instruction.kind
        plain = isinstance(instruction.operands[0], Register) and len(instruction.operands) == 3
        if not plain or kind.endswith("x2"):
            return setp
        ordered = _ORDERED.get(relation)
        function = ordered if ordered is not None else lambda a, b: compared(relation, a, b)
        return bind(instruction, Rule(function, (kind, kind), "pred"))


def set_(threads: Any, instruction: Instruction) -> None:
    """1.0, or all ones in an integer, where the relation holds."""
    to, kind = instruction.modifiers[-2:]
    holds = _relation(instruction, kind, threads)
    combine = _COMBINE.get(instruction.modifiers[1])
    if combine is not None:
        holds = combine(holds, threads.read(instruction.operands[3], "pred"))
    if is_float(to):
        threads.write(instruction.operands[0], holds.astype(np.float32), to)
    else:
        threads.write(instruction.operands[0], np.where(holds, -1, 0).astype(np.int32), "s32")


def selp(instruction: Instruction) -> Rule:
    bits = f"b{8 * KINDS[instruction.kind].storage.itemsize}"
    return Rule(lambda a, b, p: np.where(p, a, b), (bits, bits, "pred"), bits)


def slct(threads: Any, instruction: Instruction) -> None:
    """a where c is not negative, else b."""
    kind, condition = instruction.modifiers[-2:]
    bits = f"b{8 * KINDS[kind].storage.itemsize}"
    a, b = (threads.read(operand, bits) for operand in instruction.operands[1:3])
    threads.write(instruction.operands[0], np.where(threads.read(instruction.operands[3], condition) >= 0, a, b), bits)


def testp(threads: Any, instruction: Instruction) -> None:
    """A property of a float."""
    value = threads.read(instruction.operands[1], instruction.kind)
    tiny = np.finfo(value.dtype).tiny
    properties = {
        "finite": lambda: np.isfinite(value),
        "infinite": lambda: np.isinf(value),
        "number": lambda: ~np.isnan(value),
        "notanumber": lambda: np.isnan(value),
        "normal": lambda: np.isfinite(value) & (np.abs(value) >= tiny),
        "subnormal": lambda: (value != 0) & (np.abs(value) < tiny),
    }
    threads.write(instruction.operands[0], properties[instruction.modifiers[0]](), "pred")


TABLE: dict[str, Action | Elementwise | _Setp] = {
    "setp": _Setp(),
    "set": set_,
    "selp": Elementwise(selp),
    "slct": slct,
    "testp": testp,
}
