"""What the lanes of a warp do together: shuffles, votes, matches, reductions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Action, Immediate, Instruction, Vector

WARP = 32
FULL = 0xFFFFFFFF


def member_mask(threads: Any, instruction: Instruction) -> Array:
    """The lanes that execute a collective instruction together, as a mask per thread."""
    opcode = instruction.opcode
    if opcode in ("shfl", "vote", "match", "redux") and instruction.has("sync"):
        mask = threads.read(instruction.operands[-1], "u32")
    elif opcode in ("bar", "barrier"):
        mask = threads.read(instruction.operands[0], "u32")
    elif opcode == "elect":
        mask = threads.read(instruction.operands[1], "u32")
    elif opcode == "activemask":
        mask = np.zeros(1, np.uint32)
    else:
        mask = np.array([FULL], np.uint32)
    return np.broadcast_to(mask, (threads.n,))


def _uniform_lanes(mode: str, amount: int, clamp: int) -> tuple[Array, Array]:
    lane = np.arange(WARP)
    return _source_lanes(mode, lane, np.array([amount]), np.array([clamp]))


_remembered_lanes = lru_cache(maxsize=256)(_uniform_lanes)


def _source_lanes(mode: str, lane: Array, amount: Array, clamp: Array) -> tuple[Array, Array]:
    """The lane each reads, and whether it lies within its segment; where not, it reads its own."""
    amount, last, segment = amount & 31, clamp & 31, clamp >> 8 & 31
    most = (lane & segment) | (last & ~segment)
    least = lane & segment
    source = {
        "up": lambda: lane - amount,
        "down": lambda: lane + amount,
        "bfly": lambda: lane ^ amount,
        "idx": lambda: least | (amount & ~segment),
    }[mode]()
    inside = source >= most if mode == "up" else source <= most
    return np.where(inside, source, lane), inside


def shfl(threads: Any, instruction: Instruction) -> None:
    """`shfl.sync.mode d|p, a, lane, clamp, mask`."""
    destination, value, amount, clamp = instruction.operands[:4]
    mode = next(m for m in instruction.modifiers if m in ("up", "down", "bfly", "idx"))
    bits = threads.read_each(value, "b32")
    if threads.whole_warps and isinstance(amount, Immediate) and isinstance(clamp, Immediate):
        source, inside = _remembered_lanes(mode, amount.bits, clamp.bits)
        result = bits.reshape(-1, WARP)[:, source].reshape(-1)
        inside = np.tile(inside, threads.n // WARP) if isinstance(destination, Vector) else inside
    else:
        operands = (threads.read(operand, "u32").astype(np.int64) for operand in (amount, clamp))
        source, inside = _source_lanes(mode, threads.lane, *operands)
        result = bits[_positions(threads, source)]
    registers = destination.parts if isinstance(destination, Vector) else (destination,)
    threads.write(registers[0], result, "b32")
    if len(registers) > 1:
        threads.write(registers[1], inside, "pred")


def _positions(threads: Any, source: Array) -> Array:
    """Where among the threads the source lanes are; reading a lane that takes no part is a fault."""
    if threads.whole_warps:
        return np.arange(threads.n) - threads.lane + source
    numbers = threads.numbers
    wanted = numbers - threads.lane + source
    found = np.minimum(np.searchsorted(numbers, wanted), threads.n - 1)
    absent = numbers[found] != wanted
    if absent.any():
        at = int(np.flatnonzero(absent)[0])
        raise threads.fault("divergence", f"reads lane {source[at]}, which does not execute the shuffle", at)
    return found


def _by_warp(threads: Any) -> tuple[Array, Array]:
    """Where each warp's threads begin among these, and how many they are."""
    warp = threads.warp
    first = np.flatnonzero(np.concatenate(([True], warp[1:] != warp[:-1])))
    return first, np.diff(np.append(first, threads.n))


def _lanes_where(threads: Any, holds: Array) -> Array:
    """Per thread the mask of its warp's lanes where something holds."""
    first, lengths = _by_warp(threads)
    bits = np.where(holds, np.uint32(1) << threads.lane.astype(np.uint32), np.uint32(0))
    return np.repeat(np.bitwise_or.reduceat(bits, first), lengths)


def vote(threads: Any, instruction: Instruction) -> None:
    """all, any, uni or ballot of a predicate over the lanes of the mask."""
    holds = threads.read_each(instruction.operands[1], "pred")
    true, taking_part = _lanes_where(threads, holds), _lanes_where(threads, np.ones(threads.n, bool))
    mode = next(m for m in instruction.modifiers if m in ("all", "any", "uni", "ballot"))
    if mode == "ballot":
        threads.write(instruction.operands[0], true, "u32")
    else:
        results = {"all": true == taking_part, "any": true != 0, "uni": (true == taking_part) | (true == 0)}
        threads.write(instruction.operands[0], results[mode], "pred")


def redux(threads: Any, instruction: Instruction) -> None:
    """One reduction of integers over the warp."""
    kind = instruction.kind
    values = threads.read_each(instruction.operands[1], kind)
    function = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[next(m for m in instruction.modifiers if m in ("add", "min", "max", "and", "or", "xor"))]
    first, lengths = _by_warp(threads)
    threads.write(instruction.operands[0], np.repeat(function.reduceat(values, first), lengths), kind)


def match(threads: Any, instruction: Instruction) -> None:
    """The lanes that hold the same value; `match.all`: all of them, if all do."""
    kind = instruction.kind
    values = threads.read_each(instruction.operands[1], kind)
    masks = np.zeros(threads.n, np.uint32)
    for start, length in zip(*_by_warp(threads), strict=True):
        here = slice(start, start + length)
        same = values[here][:, None] == values[here][None, :]
        masks[here] = (same * (np.uint32(1) << threads.lane[here].astype(np.uint32))).sum(axis=1).astype(np.uint32)
    destination = instruction.operands[0]
    registers = list(destination.parts) if isinstance(destination, Vector) else [destination]
    if instruction.has("all"):
        agree = masks == _lanes_where(threads, np.ones(threads.n, bool))
        masks = np.where(agree, masks, np.uint32(0))
        if len(registers) > 1:
            threads.write(registers[1], agree, "pred")
    threads.write(registers[0], masks, "u32")


def activemask(threads: Any, instruction: Instruction) -> None:
    threads.write(instruction.operands[0], _lanes_where(threads, np.ones(threads.n, bool)), "u32")


def elect(threads: Any, instruction: Instruction) -> None:
    """`elect.sync d|p, mask`: the first lane of the mask."""
    first, lengths = _by_warp(threads)
    leader = np.repeat(threads.lane[first], lengths)
    destination = instruction.operands[0]
    assert isinstance(destination, Vector)
    lane, is_leader = destination.parts
    threads.write(lane, leader.astype(np.uint32), "u32")
    threads.write(is_leader, threads.lane == leader, "pred")


def together(threads: Any, instruction: Instruction) -> None:
    """`bar.warp.sync`: that the lanes are here together is all it asks."""


TABLE: dict[str, Action] = {
    "shfl": shfl,
    "vote": vote,
    "redux": redux,
    "match": match,
    "activemask": activemask,
    "elect": elect,
    "bar.warp": together,
}
