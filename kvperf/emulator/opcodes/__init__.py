"""The table of opcodes: what an instruction does, by its opcode and first modifiers, one small function each."""

from __future__ import annotations

from functools import cache
from typing import Any

from kvperf.emulator.fault import Fault
from kvperf.emulator.instruction import Action, Instruction
from kvperf.emulator.opcodes import (
    arithmetic,
    atomics,
    compare,
    control,
    convert,
    copies,
    logic,
    matrix,
    mbarrier,
    memory,
    special,
    warp,
)
from kvperf.emulator.opcodes.forms import implemented

# An action, or what binds the instruction to one when the kernel is read.
TABLE: dict[str, Any] = {
    **arithmetic.TABLE,
    **logic.TABLE,
    **compare.TABLE,
    **convert.TABLE,
    **special.TABLE,
    **memory.TABLE,
    **atomics.TABLE,
    **copies.TABLE,
    **mbarrier.TABLE,
    **warp.TABLE,
    **matrix.TABLE,
    **control.TABLE,
}
# Instructions that decide where a thread goes next; `mbarrier.try_wait` is one more.
CONTROL = frozenset(opcode for opcode in control.TABLE if "." not in opcode and opcode not in control.STRAIGHT)
# Instructions that the lanes of a warp execute together.
COLLECTIVES = frozenset(opcode.split(".")[0] for opcode in (*warp.TABLE, *matrix.TABLE) if opcode != "bar.warp")


def action_of(instruction: Instruction) -> Action:
    """The function of the longest known prefix, as in "cp.async.bulk.prefetch" before "cp.async.bulk"; it must
    implement every modifier that follows."""
    entry = _entry(instruction.opcode, instruction.modifiers)
    return entry.bind(instruction) if hasattr(entry, "bind") else entry


@cache
def _entry(opcode: str, modifiers: tuple[str, ...]) -> Any:
    for length in range(len(modifiers), -1, -1):
        key = ".".join((opcode, *modifiers[:length]))
        if key in TABLE:
            return TABLE[key] if implemented(key, modifiers[length:]) else unknown
    return unknown


def unknown(threads: object, instruction: Instruction) -> None:
    """Stops the run when a thread gets here, not when the kernel is read."""
    source = f" ({instruction.source})" if instruction.source else ""
    raise Fault(
        "unknown",
        f"PTX line {instruction.line}{source}: the interpreter does not know `{instruction.text}`",
        "kvperf/emulator/opcodes holds the table: one small function teaches it",
        instruction.line,
    )
