"""Instructions that compute each thread's result from its own operands.

Most of a kernel is of this sort, so what does not change from one execution to the next (which registers, which types)
is settled once, when the instruction is bound: a `Rule` says what to compute, `bind` makes the action of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kvperf.emulator.flush import flushing
from kvperf.emulator.formats import KINDS, Array, is_float
from kvperf.emulator.instruction import Action, Immediate, Instruction, Operand, Register

Reader = Callable[[Any], Array]


class Rule(NamedTuple):
    """Result = function(operands read as `kinds`), of type `to`."""

    function: Callable[..., Any]
    kinds: tuple[str, ...]
    to: str


class Elementwise(NamedTuple):
    """An entry of the table: the rule of an instruction, from its modifiers."""

    rule: Callable[[Instruction], Rule]

    def bind(self, instruction: Instruction) -> Action:
        return bind(instruction, self.rule(instruction))


def same(function: Callable[..., Any]) -> Elementwise:
    """All operands and the result have the instruction's type."""
    return Elementwise(
        lambda instruction: Rule(function, (instruction.kind,) * (len(instruction.operands) - 1), instruction.kind)
    )


def reader(operand: Operand, kind: str) -> Reader:
    """How to read an operand as numbers of a type."""
    storage, decode, _ = KINDS[kind]
    if isinstance(operand, Immediate):
        bits = operand.bits & ((1 << 8 * storage.itemsize) - 1)
        constant = decode(np.array([bits], storage))
        return lambda threads: constant
    plain = _plain(kind)
    if type(operand) is not Register or operand.negated or plain is None or kind == "pred":
        return lambda threads: threads.read(operand, kind)
    if KINDS[operand.kind].storage.itemsize != plain.itemsize:
        return lambda threads: threads.read(operand, kind)
    name = operand.name

    def read(threads: Any) -> Array:
        bits = threads.values.get(name)
        if bits is None:
            bits = threads.fetch(operand)
        return bits if bits.dtype is plain else bits.view(plain)

    return read


def bind(instruction: Instruction, rule: Rule) -> Action:
    """The action: the operands are read, the function is applied, the result is written."""
    destination, *sources = instruction.operands
    readers = [reader(operand, kind) for operand, kind in zip(sources, rule.kinds, strict=False)]
    function = flushing(rule.function, rule.kinds, rule.to) if instruction.has("ftz") else rule.function
    function = _saturated(function) if instruction.has("sat") and is_float(rule.to) else function
    compute = _applied(function, readers)
    dtype = _plain_result(destination, rule.to)
    to = rule.to
    if dtype is None or not any(isinstance(operand, Register) for operand in sources):
        return lambda threads, instruction: threads.write(destination, compute(threads), to)
    assert isinstance(destination, Register)
    name = destination.name

    def action(threads: Any, instruction: Instruction) -> None:
        result = compute(threads)
        if result.dtype is not dtype:
            result = result.astype(dtype)
        threads.values[name] = result
        threads.written.add(name)

    return action


def _applied(function: Callable[..., Any], readers: list[Reader]) -> Reader:
    """function(read(threads) …), without a loop where there are few."""
    if len(readers) == 1:
        (first,) = readers
        return lambda threads: function(first(threads))
    if len(readers) == 2:
        first, second = readers
        return lambda threads: function(first(threads), second(threads))
    if len(readers) == 3:
        first, second, third = readers
        return lambda threads: function(first(threads), second(threads), third(threads))
    return lambda threads: function(*(read(threads) for read in readers))


def _plain(kind: str) -> np.dtype[Any] | None:
    """The NumPy type that is a PTX type bit for bit, or None."""
    storage, decode, _ = KINDS[kind]
    dtype = decode(np.zeros(1, storage)).dtype
    return dtype if dtype.itemsize == storage.itemsize and not kind.endswith("x2") else None


def _plain_result(destination: Operand, kind: str) -> np.dtype[Any] | None:
    """The NumPy type of the result, where it fills the register as it is."""
    dtype = _plain(kind)
    if dtype is None or type(destination) is not Register:
        return None
    return dtype if dtype.itemsize == KINDS[destination.kind].storage.itemsize else None


def _saturated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Floats clamped to [0, 1], NaN to 0."""
    return lambda *values: np.fmin(np.fmax(function(*values), 0), 1)
