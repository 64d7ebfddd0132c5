"""Bits: logic, shifts, fields, permutations and counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator.formats import KINDS, Array
from kvperf.emulator.instruction import Action, Immediate, Instruction
from kvperf.emulator.opcodes.elementwise import Elementwise, Rule, same


def shl(instruction: Instruction) -> Rule:
    """Shifts by the width or more give 0."""
    kind = instruction.kind
    bits = 8 * KINDS[kind].storage.itemsize
    amount = instruction.operands[2]
    if isinstance(amount, Immediate) and 0 <= amount.bits < bits:
        return Rule(np.left_shift, (kind, f"u{bits}"), kind)

    def shifted(value: Array, amount: Array) -> Array:
        inside = value << np.minimum(amount, bits - 1).astype(value.dtype)
        return np.where(amount < bits, inside, value.dtype.type(0))

    return Rule(shifted, (kind, "u32"), kind)


def shr(instruction: Instruction) -> Rule:
    """Shifts by the width or more give 0, or the sign of a signed value."""
    kind = instruction.kind
    bits = 8 * KINDS[kind].storage.itemsize
    amount = instruction.operands[2]
    if isinstance(amount, Immediate) and 0 <= amount.bits < bits:
        return Rule(np.right_shift, (kind, f"{kind[0].replace('b', 'u')}{bits}"), kind)

    def shifted(value: Array, amount: Array) -> Array:
        inside = value >> np.minimum(amount, bits - 1).astype(value.dtype)
        return inside if kind[0] == "s" else np.where(amount < bits, inside, value.dtype.type(0))

    return Rule(shifted, (kind, "u32"), kind)


def shf(threads: Any, instruction: Instruction) -> None:
    """Funnel shift of the 64 bits b:a."""
    a, b, amount = (threads.read(operand, "u32") for operand in instruction.operands[1:4])
    amount = (amount & np.uint32(31)) if instruction.has("wrap") else np.minimum(amount, np.uint32(32))
    both = (b.astype(np.uint64) << np.uint64(32)) | a
    if instruction.has("l"):
        result = (both << amount.astype(np.uint64)) >> np.uint64(32)
    else:
        result = both >> amount.astype(np.uint64)
    threads.write(instruction.operands[0], result.astype(np.uint32), "u32")


def lop3(threads: Any, instruction: Instruction) -> None:
    """Any function of three bits, by its truth table."""
    a, b, c = (threads.read(operand, "b32") for operand in instruction.operands[1:4])
    table = instruction.operands[4]
    assert isinstance(table, Immediate)
    result = np.zeros(1, np.uint32)
    for row in range(8):
        if table.bits >> row & 1:
            result = result | ((a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c))
    threads.write(instruction.operands[0], result, "b32")


def bfe(threads: Any, instruction: Instruction) -> None:
    """A field of bits, extended by its sign where the type has one."""
    kind = instruction.kind
    value = threads.read(instruction.operands[1], kind)
    start, length = (threads.read(operand, "u32").astype(np.int64) & 0xFF for operand in instruction.operands[2:4])
    width = 8 * value.dtype.itemsize
    unsigned = value.view(f"u{value.dtype.itemsize}").astype(np.uint64)
    field = np.where(start < width, unsigned >> np.minimum(start, width - 1).astype(np.uint64), np.uint64(0))
    field = np.where(
        length < 64, field & ((np.uint64(1) << np.minimum(length, 63).astype(np.uint64)) - np.uint64(1)), field
    )
    if kind[0] == "s":
        top = np.minimum(start + length - 1, width - 1)
        sign = (length > 0) & ((unsigned >> np.maximum(top, 0).astype(np.uint64)) & np.uint64(1)).astype(bool)
        kept = np.minimum(length, np.maximum(width - start, 0))
        ones = np.where(
            kept < 64, ~((np.uint64(1) << np.minimum(kept, 63).astype(np.uint64)) - np.uint64(1)), np.uint64(0)
        )
        field = np.where(sign, field | ones, field)
    threads.write(instruction.operands[0], field.astype(f"u{value.dtype.itemsize}"), "u" + kind[1:])


def bfi(threads: Any, instruction: Instruction) -> None:
    """The low bits of a, inserted into b."""
    kind = instruction.kind
    a, b = (threads.read(operand, kind).astype(np.uint64) for operand in instruction.operands[1:3])
    start, length = (
        (threads.read(operand, "u32") & np.uint32(0xFF)).astype(np.uint64) for operand in instruction.operands[3:5]
    )
    one, last = np.uint64(1), np.uint64(63)
    field = np.where(length > last, ~np.uint64(0), (one << np.minimum(length, last)) - one)
    mask = np.where(start > last, np.uint64(0), field << np.minimum(start, last))
    result = (b & ~mask) | ((a << np.minimum(start, last)) & mask)
    threads.write(instruction.operands[0], result.astype(f"u{KINDS[kind].storage.itemsize}"), kind)


def prmt(threads: Any, instruction: Instruction) -> None:
    """Four bytes picked from the eight of b:a; the top bit of a selector repeats the byte's sign."""
    a, b, selector = (threads.read(operand, "b32").astype(np.uint64) for operand in instruction.operands[1:4])
    both, result = (b << np.uint64(32)) | a, np.zeros(1, np.uint64)
    for byte in range(4):
        pick = (selector >> np.uint64(4 * byte)) & np.uint64(0xF)
        value = (both >> (np.uint64(8) * (pick & np.uint64(7)))) & np.uint64(0xFF)
        sign = np.where(value & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        result = result | (np.where(pick & np.uint64(8), sign, value) << np.uint64(8 * byte))
    threads.write(instruction.operands[0], result.astype(np.uint32), "b32")


def ones(value: Array) -> Array:
    """How many bits are one."""
    octets = np.ascontiguousarray(value).view(np.uint8).reshape(len(value), -1)
    return np.unpackbits(octets, axis=1).sum(axis=1).astype(np.uint32)


def popc(threads: Any, instruction: Instruction) -> None:
    value = threads.read(instruction.operands[1], instruction.kind)
    threads.write(instruction.operands[0], ones(value), "u32")


def leading_zeros(value: Array) -> Array:
    """Zeros above the highest one."""
    bits = 8 * value.dtype.itemsize
    smeared = value
    for shift in (1, 2, 4, 8, 16, 32):
        if shift < bits:
            smeared = smeared | (smeared >> value.dtype.type(shift))
    return np.uint32(bits) - ones(smeared)


def clz(threads: Any, instruction: Instruction) -> None:
    value = threads.read(instruction.operands[1], instruction.kind)
    threads.write(instruction.operands[0], leading_zeros(value), "u32")


def bfind(threads: Any, instruction: Instruction) -> None:
    """The place of the highest one; all ones where there is none."""
    kind = instruction.kind
    value = threads.read(instruction.operands[1], kind)
    if kind[0] == "s":
        value = np.where(value < 0, ~value, value).view(f"u{value.dtype.itemsize}")
    zeros, bits = leading_zeros(value), np.uint32(8 * value.dtype.itemsize)
    place = zeros if instruction.has("shiftamt") else bits - np.uint32(1) - zeros
    threads.write(instruction.operands[0], np.where(zeros == bits, np.uint32(0xFFFFFFFF), place), "u32")


def reverse_bits(value: Array) -> Array:
    bits = 8 * value.dtype.itemsize
    result = np.zeros_like(value)
    for bit in range(bits):
        result |= ((value >> value.dtype.type(bit)) & value.dtype.type(1)) << value.dtype.type(bits - 1 - bit)
    return result


TABLE: dict[str, Action | Elementwise] = {
    "and": same(np.bitwise_and),
    "or": same(np.bitwise_or),
    "xor": same(np.bitwise_xor),
    "not": same(np.invert),
    "cnot": same(lambda a: (a == 0).astype(a.dtype)),
    "shl": Elementwise(shl),
    "shr": Elementwise(shr),
    "shf": shf,
    "lop3": lop3,
    "bfe": bfe,
    "bfi": bfi,
    "prmt": prmt,
    "popc": popc,
    "clz": clz,
    "bfind": bfind,
    "brev": same(reverse_bits),
}
