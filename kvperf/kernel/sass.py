"""What the assembler made of a kernel: instructions by name, and the length of its main loop.

Reads the text of NVIDIA's disassembler (`compile.disassemble`). One SM issues one instruction a clock for
each of its four parts, so the instructions a key costs bound the keys an SM can take per second, whatever
the memory does.
"""

from __future__ import annotations

import re
from collections import Counter

import msgspec

INSTRUCTION_BYTES = 16
ISSUES_PER_CLOCK = 4  # one warp instruction a clock in each of the four parts of an SM (CUDA guide, "SIMT")

_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?);")


class Instruction(msgspec.Struct, frozen=True):
    """One instruction: its address, its name with modifiers, its operands as text."""

    address: int
    name: str
    operands: str


class Loop(msgspec.Struct, frozen=True):
    """A loop of a kernel: what stands between a backward branch and its target, branches not taken included."""

    first: int
    last: int
    instructions: tuple[Instruction, ...]


def functions(text: str) -> dict[str, tuple[Instruction, ...]]:
    """The instructions of each kernel in a disassembly."""
    pieces = _FUNCTION.split(text)
    return {
        name: tuple(Instruction(int(address, 16), op, operands) for address, op, operands in _INSTRUCTION.findall(body))
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def loops(instructions: tuple[Instruction, ...]) -> list[Loop]:
    """All loops, longest first. The endless branch after the last exit is none."""
    found = []
    for instruction in instructions:
        target = re.search(r"0x([0-9a-f]+)\s*$", instruction.operands)
        if not instruction.name.startswith("BRA") or target is None:
            continue
        first, last = int(target[1], 16), instruction.address
        if first < last and "DIV" not in instruction.name:
            inside = tuple(i for i in instructions if first <= i.address <= last)
            found.append(Loop(first, last, inside))
    return sorted(found, key=lambda loop: -len(loop.instructions))


def main_loop(instructions: tuple[Instruction, ...]) -> Loop | None:
    """The longest loop that moves K and V: loads from global memory, asynchronous copies, or waits for them."""
    moving = ("LDG", "LDGSTS", "UBLKCP", "SYNCS")
    return next(
        (loop for loop in loops(instructions) if any(i.name.split(".")[0] in moving for i in loop.instructions)), None
    )


def counted(instructions: tuple[Instruction, ...]) -> Counter[str]:
    """How often each instruction stands in the code, modifiers kept."""
    return Counter(instruction.name for instruction in instructions)
