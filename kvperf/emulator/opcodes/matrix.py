"""Matrix instructions of a warp: the layouts of their fragments, and the product.

A fragment spreads a matrix over the 32 lanes of a warp: lane 4·q + t holds row q (and q + 8) and, of every group of
columns, the `per` adjacent ones from t·per on, where `per` numbers fill a 32-bit register.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator import access, formats
from kvperf.emulator.formats import Array
from kvperf.emulator.instruction import Action, Address, Instruction, Vector

WARP = 32
ROWS = 8
ROW_BYTES = 16

_ELEMENTS: dict[str, tuple[str, Any]] = {
    "f16": ("f2", lambda bits: bits.astype(np.float32)),
    "bf16": ("u2", formats.bf16_values),
    "e4m3": ("u1", formats.e4m3_values),
    "e5m2": ("u1", formats.e5m2_values),
    "s8": ("i1", lambda bits: bits.astype(np.int32)),
    "u8": ("u1", lambda bits: bits.astype(np.int32)),
    "tf32": ("u4", lambda bits: (bits & np.uint32(0xFFFFE000)).view(np.float32)),
}


def _whole(threads: Any) -> int:
    """How many warps; every lane must be here."""
    if not threads.whole_warps:
        raise threads.fault("divergence", "a matrix instruction needs all lanes of the warp", 0)
    return threads.n // WARP


def _registers(threads: Any, operand: Any) -> Array:
    """The bits of a fragment: (warps, q, t, registers)."""
    parts = operand.parts if isinstance(operand, Vector) else (operand,)
    bits = np.empty((threads.n, len(parts)), np.uint32)
    for number, part in enumerate(parts):
        bits[:, number] = threads.read(part, "b32")
    return bits.reshape(-1, ROWS, 4, len(parts))


def rows_fragment(bits: Array, element: str) -> Array:
    """A (warps, 16, k): registers alternate between rows q and q + 8, then go on to the next columns."""
    dtype, decode = _ELEMENTS[element]
    warps, groups = len(bits), bits.shape[3] // 2
    values = decode(bits.view(dtype)).reshape(warps, ROWS, 4, groups, 2, -1)
    return values.transpose(0, 4, 1, 3, 2, 5).reshape(warps, 2 * ROWS, -1)


def columns_fragment(bits: Array, element: str) -> Array:
    """B (warps, k, 8): lane 4·q + t holds column q."""
    dtype, decode = _ELEMENTS[element]
    warps, groups = len(bits), bits.shape[3]
    values = decode(bits.view(dtype)).reshape(warps, ROWS, 4, groups, -1)
    return values.transpose(0, 3, 2, 4, 1).reshape(warps, -1, ROWS)


def accumulator_fragment(bits: Array, dtype: str) -> Array:
    """C (warps, 16, 8) from registers of one 32-bit number, or of two fp16."""
    values = bits.view(dtype).reshape(len(bits), ROWS, 4, 2, 2)
    return values.transpose(0, 3, 1, 2, 4).reshape(len(bits), 2 * ROWS, ROWS)


def accumulator_registers(matrix: Array) -> Array:
    """The inverse: the registers (threads, registers) of D."""
    warps = len(matrix)
    values = matrix.reshape(warps, 2, ROWS, 4, 2).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(values).reshape(warps * WARP, 4)


def mma(threads: Any, instruction: Instruction) -> None:
    """`mma.sync.aligned.m16n8k….row.col.d.a.b.c`: D = A·B + C, products exact, sums in float32 or int32."""
    _whole(threads)
    to, left, right, start = instruction.modifiers[-4:]
    a = rows_fragment(_registers(threads, instruction.operands[1]), left)
    b = columns_fragment(_registers(threads, instruction.operands[2]), right)
    numbers = {"f32": "f4", "f16": "f2", "s32": "i4"}
    c = accumulator_fragment(_registers(threads, instruction.operands[3]), numbers[start])
    d = (np.matmul(a, b) + c).astype(numbers[to])
    registers = accumulator_registers(d).view(np.uint32)
    for register, column in zip(instruction.operands[0].parts, registers.T, strict=True):
        threads.write(register, np.ascontiguousarray(column), "b32")


def ldmatrix(threads: Any, instruction: Instruction) -> None:
    """One, two or four 8×8 matrices of 16-bit numbers; lanes 8·i to 8·i + 7 give the rows of matrix i."""
    warps = _whole(threads)
    destination = instruction.operands[0]
    registers = destination.parts if isinstance(destination, Vector) else (destination,)
    giving = threads.of(threads.machine, threads.numbers.reshape(-1, WARP)[:, : ROWS * len(registers)].reshape(-1))
    address = threads.address(instruction.operands[1]).reshape(-1, WARP)[:, : ROWS * len(registers)].reshape(-1)
    rows = access.load(giving, access.space_of(instruction), address, ROW_BYTES)
    matrices = np.ascontiguousarray(rows).view(np.uint16).reshape(warps, len(registers), ROWS, ROWS)
    if instruction.has("trans"):
        matrices = matrices.swapaxes(2, 3)
    lanes = np.ascontiguousarray(matrices).view(np.uint32).reshape(warps, len(registers), WARP)
    for number, register in enumerate(registers):
        threads.write(register, lanes[:, number].reshape(-1), "b32")


def stmatrix(threads: Any, instruction: Instruction) -> None:
    """The inverse of ldmatrix."""
    warps = _whole(threads)
    target, source = instruction.operands
    assert isinstance(target, Address)
    registers = source.parts if isinstance(source, Vector) else (source,)
    lanes = np.stack([threads.read(register, "b32").reshape(warps, WARP) for register in registers], axis=1)
    matrices = np.ascontiguousarray(lanes).view(np.uint16).reshape(warps, len(registers), ROWS, ROWS)
    if instruction.has("trans"):
        matrices = matrices.swapaxes(2, 3)
    rows = np.ascontiguousarray(matrices).reshape(-1, ROWS).view(np.complex128).reshape(-1)
    given = slice(0, ROWS * len(registers))
    giving = threads.of(threads.machine, threads.numbers.reshape(-1, WARP)[:, given].reshape(-1))
    address = threads.address(target).reshape(-1, WARP)[:, given].reshape(-1)
    access.store(giving, access.space_of(instruction), address, ROW_BYTES, rows)


TABLE: dict[str, Action] = {"mma": mma, "ldmatrix": ldmatrix, "stmatrix": stmatrix}
