"""An instruction of PTX and its operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Register(NamedTuple):
    """`name` is unique in the kernel; `kind` is the declared type: pred, b16, b32, f32, b64 …"""

    name: str
    kind: str
    negated: bool = False


class Immediate(NamedTuple):
    """A constant: a whole number, or the bits of a float (`is_float`, with its width)."""

    bits: int
    float_bytes: int = 0


class Symbol(NamedTuple):
    """The name of a variable in memory, of a parameter, of a label, or of a special register (%tid.x)."""

    name: str


class Address(NamedTuple):
    """[base+offset]."""

    base: Register | Symbol | Immediate
    offset_bytes: int


class Vector(NamedTuple):
    """{a, b, …}."""

    parts: tuple[Any, ...]


Operand = Register | Immediate | Symbol | Address | Vector
Action = Callable[[Any, "Instruction"], Any]


def unbound(threads: Any, instruction: Instruction) -> None:
    raise AssertionError("the instruction was not bound to the table of opcodes")


@dataclass(slots=True)
class Instruction:
    """`opcode` up to the first dot, `modifiers` behind it; `line` of the PTX, `source` of the CUDA C++ if known."""

    line: int
    source: str
    text: str
    guard: Register | None
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Any, ...]
    action: Action = unbound

    @property
    def kind(self) -> str:
        """The type it works in: the last modifier that is one."""
        return self.modifiers[-1] if self.modifiers else ""

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers
