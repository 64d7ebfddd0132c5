"""What the assembler made of a kernel: its instructions, by name and address.

Reads the text of NVIDIA's disassembler (`compile.disassemble`).
"""

from __future__ import annotations

import re
from collections import Counter

import msgspec

INSTRUCTION_BYTES = 16

_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?);")


class Instruction(msgspec.Struct, frozen=True):
    """One instruction: its address, its name with modifiers, its operands as text, and the predicate before it."""

    address: int
    name: str
    operands: str
    guard: str = ""

    @property
    def opcode(self) -> str:
        """The name without modifiers."""
        return self.name.split(".")[0]

    @property
    def target(self) -> int | None:
        """The address that the operands end with: where a branch goes."""
        found = re.search(r"0x([0-9a-f]+)\s*$", self.operands)
        return int(found[1], 16) if found else None


def functions(text: str) -> dict[str, tuple[Instruction, ...]]:
    """The instructions of each kernel in a disassembly."""
    pieces = _FUNCTION.split(text)
    return {
        name: tuple(
            Instruction(int(address, 16), op, operands, guard.strip())
            for address, guard, op, operands in _INSTRUCTION.findall(body)
        )
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def counted(instructions: tuple[Instruction, ...]) -> Counter[str]:
    """How often each instruction stands in the code, modifiers kept."""
    return Counter(instruction.name for instruction in instructions)
