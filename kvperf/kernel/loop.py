"""Loops of a kernel's machine code, and the one that walks K and V.

A loop is a natural one: its head is on every way to its backward branch, and its body is what reaches that branch
without the head. The spans between a backward branch and its target will not do: the compiler lays seldom-used code
behind the kernel's end, whose way back into the loop is a backward branch, too.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvperf.kernel.sass import INSTRUCTION_BYTES, Instruction

Graph = list[tuple[int, ...]]


class Loop(msgspec.Struct, frozen=True):
    """One loop: its head's address, that of its last backward branch, and its instructions in order of address."""

    first: int
    last: int
    instructions: tuple[Instruction, ...]

    def has(self, opcode: str) -> int:
        """How often an instruction of this name stands in the loop, modifiers aside ("HMMA") or not ("MUFU.EX2")."""
        names = [i.name if "." in opcode else i.opcode for i in self.instructions]
        return names.count(opcode)


def loops(instructions: tuple[Instruction, ...]) -> list[Loop]:
    """All loops, longest first; branches back to one head make one loop. What is never reached is none."""
    after = _successors(instructions)
    before: list[list[int]] = [[] for _ in instructions]
    for i, following in enumerate(after):
        for j in following:
            before[j].append(i)
    reached = _walk([0], after) if instructions else set()
    bodies: dict[int, set[int]] = {}
    for i in sorted(reached):
        for head in after[i]:
            # The branch closes a loop if there is no way to it but through the head.
            if head < i and i not in _walk([0], after, head):
                body = _walk([i], before, head) & reached
                bodies[head] = bodies.get(head, set()) | body | {head}
    found = [
        Loop(instructions[head].address, instructions[max(body)].address, tuple(instructions[i] for i in sorted(body)))
        for head, body in bodies.items()
    ]
    return sorted(found, key=lambda loop: -len(loop.instructions))


def tile_loop(instructions: tuple[Instruction, ...]) -> Loop | None:
    """The loop that takes a tile of keys and values a turn; None where a kernel does not do both in one loop.

    A turn of an online softmax sums scores over lanes (SHFL) and exponentiates them (MUFU.EX2). The smallest loop with
    both is the one: not that of a producer warp, of the pieces of a persistent block, or of merging partial results.
    """
    both = [loop for loop in loops(instructions) if loop.has("SHFL") and loop.has("MUFU.EX2")]
    return both[-1] if both else None


def turn_instructions(instructions: tuple[Instruction, ...], copies: float) -> int | None:
    """Instructions that a warp issues in a turn of the tile loop; None where a loop within it turns unknowably often.

    copies  asynchronous 16-byte copies (LDGSTS) of a warp and turn; a loop that does nothing else is counted by them
    Branches not taken count, though they are not issued. Code out of line does not: warps wait there for barriers.
    """
    whole = tile_loop(instructions)
    if whole is None:
        return None
    line = _in_line(whole)
    inner = [loop for loop in loops(instructions) if whole.first < loop.first <= line[-1].address]
    if not inner:
        return len(line)
    loop, per_turn = inner[0], inner[0].has("LDGSTS")
    if len(inner) > 1 or not per_turn or loop.has("HMMA") or loop.has("SHFL"):
        return None
    turns, rest = divmod(copies - (whole.has("LDGSTS") - per_turn), per_turn)
    return len(line) + int(turns - 1) * len(loop.instructions) if turns >= 1 and not rest else None


def _in_line(loop: Loop) -> tuple[Instruction, ...]:
    """What follows the loop's head without a gap."""
    return tuple(
        instruction
        for i, instruction in enumerate(loop.instructions)
        if instruction.address == loop.first + i * INSTRUCTION_BYTES
    )


def _successors(instructions: tuple[Instruction, ...]) -> Graph:
    """Where each instruction goes on, by index."""
    index = {instruction.address: i for i, instruction in enumerate(instructions)}
    meeting: dict[str, int] = {}  # where the threads of a barrier register meet again
    found: Graph = []
    for i, instruction in enumerate(instructions):
        opcode, target = instruction.opcode, index.get(instruction.target) if instruction.target is not None else None
        following = [i + 1] if i + 1 < len(instructions) else []
        if opcode == "BSSY" and target is not None:
            meeting[instruction.operands.split(",")[0]] = target
        elif opcode == "BSYNC" and instruction.operands.strip() in meeting:
            following.append(meeting[instruction.operands.strip()])
        elif opcode in ("EXIT", "RET", "KILL"):
            following = following if instruction.guard else []
        elif opcode == "BRA" and target is not None and "DIV" not in instruction.name:
            # BRA.DIV leaves for code that only warps out of step need.
            always = not instruction.guard and "," not in instruction.operands
            following = [target] if always else [*following, target]
        found.append(tuple(following))
    return found


def _walk(start: Iterable[int], edges: Graph | list[list[int]], around: int | None = None) -> set[int]:
    """What the edges reach from `start`, without going through `around`."""
    waiting = [i for i in start if i != around]
    found = set(waiting)
    while waiting:
        for following in edges[waiting.pop()]:
            if following != around and following not in found:
                found.add(following)
                waiting.append(following)
    return found
