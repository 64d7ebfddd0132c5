"""Fragments of matrix instructions against plain products of matrices, from their layouts in the PTX manual."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import bf16_bits, bf16_values, e4m3_bits, e4m3_values
from tests.emulator.ptx import execute

RANDOM = np.random.default_rng(3)
GROUP, IN_GROUP = np.arange(32) >> 2, np.arange(32) & 3


def a_element(lane: int, i: int, per: int) -> tuple[int, int]:
    """(row, column) of number `i` of a lane, as the manual states it for m16n8k16 (per 2) and m16n8k32 (per 4)."""
    group, inner = lane >> 2, lane & 3
    row = group if (i // per) % 2 == 0 else group + 8
    column = inner * per + i % per + (4 * per if i // per >= 2 else 0)
    return row, column


def b_element(lane: int, i: int, per: int) -> tuple[int, int]:
    group, inner = lane >> 2, lane & 3
    return inner * per + i % per + (4 * per if i >= per else 0), group


def c_element(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + (8 if i >= 2 else 0), (lane & 3) * 2 + (i & 1)


def fragment(matrix: np.ndarray, place: object, count: int, *arguments: int) -> np.ndarray:
    """The registers (lanes, 32-bit words) of a matrix of narrow numbers."""
    numbers = [[matrix[place(lane, i, *arguments)] for i in range(count)] for lane in range(32)]  # type: ignore[operator]
    return np.array(numbers, matrix.dtype).view(np.uint32)


def product(kind: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, object]:
    """D of one mma.sync on the bits of A and B."""
    per = 4 // a.dtype.itemsize
    number = "s32" if kind == "s8" else "f32"
    shape = f"m16n8k{a.shape[1]}"
    operands = [fragment(a, a_element, 4 * per, per), fragment(b, b_element, 2 * per, per), fragment(c, c_element, 4)]
    words = np.concatenate(operands, axis=1).copy()
    out = np.zeros((32, 4), c.dtype)
    body = f"""
    ld.param.u64 %x0, [p0]; ld.param.u64 %x1, [p1]; mov.u32 %r0, %tid.x;
    mad.wide.u32 %x0, %r0, 40, %x0; mad.wide.u32 %x1, %r0, 16, %x1;
    {" ".join(f"ld.global.u32 %r{1 + i}, [%x0+{4 * i}];" for i in range(6))}
    {" ".join(f"ld.global.{number} %{'r' if kind == 's8' else 'f'}{10 + i}, [%x0+{24 + 4 * i}];" for i in range(4))}
    mma.sync.aligned.{shape}.row.col.{number}.{kind}.{kind}.{number} {{R0,R1,R2,R3}}, {{%r1,%r2,%r3,%r4}}, {{%r5,%r6}},
      {{R0,R1,R2,R3}};
    st.global.v4.{number} [%x1], {{R0,R1,R2,R3}};
    """
    for i in range(4):
        body = body.replace(f"R{i}", f"%{'r' if kind == 's8' else 'f'}{10 + i}")
    counts = execute(body, words, out).counts
    d = np.zeros_like(c)
    for lane in range(32):
        for i in range(4):
            d[c_element(lane, i)] = out[lane, i]
    return d, counts


@pytest.mark.parametrize("kind", ["f16", "bf16", "s8", "e4m3"])
def test_products(kind: str) -> None:
    k = 16 if kind in ("f16", "bf16") else 32
    a, b = RANDOM.standard_normal((16, k)).astype(np.float32), RANDOM.standard_normal((k, 8)).astype(np.float32)
    encode, decode = {
        "f16": (lambda x: x.astype(np.float16), lambda x: x.astype(np.float64)),
        "bf16": (bf16_bits, bf16_values),
        "e4m3": (e4m3_bits, e4m3_values),
        "s8": (lambda x: (40 * x).astype(np.int8), lambda x: x.astype(np.float64)),
    }[kind]
    a, b = encode(a), encode(b)
    c = RANDOM.integers(-99, 99, (16, 8)).astype(np.int32 if kind == "s8" else np.float32)
    d, counts = product(kind, a, b, c)
    exact = decode(a).astype(np.float64) @ decode(b).astype(np.float64) + c
    np.testing.assert_allclose(d, exact, rtol=2e-6, atol=1e-5)
    assert counts.mma == {f"m16n8k{k}.{kind}": 1}  # type: ignore[attr-defined]


LOAD = """
    .shared .align 128 .b8 tile[1024];
    ld.param.u64 %x0, [p0]; ld.param.u64 %x1, [p1]; mov.u32 %r0, %tid.x;
    mad.wide.u32 %x2, %r0, 16, %x0;
    mov.u32 %r1, tile; mad.lo.u32 %r2, %r0, 16, %r1;
    ld.global.v4.u32 {%r3,%r4,%r5,%r6}, [%x2];
    st.shared.v4.u32 [%r2], {%r3,%r4,%r5,%r6};
    bar.warp.sync -1;
    mad.wide.u32 %x3, %r0, 16, %x1;
"""


@pytest.mark.parametrize("trans", [False, True])
def test_ldmatrix(trans: bool) -> None:
    """Lane l gives the address of row l % 8 of matrix l / 8, and gets two adjacent numbers of row l / 4 of each."""
    matrices, out = RANDOM.integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16), np.zeros((32, 4), np.uint32)
    body = (
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3,%r4,%r5,%r6}, [%r2]; st.global.v4.u32 [%x3], {%r3,%r4,%r5,%r6};"
    )
    body = body.replace("x4.shared", "x4.trans.shared") if trans else body
    counts = execute(LOAD + body, matrices, out).counts
    pairs = out.view(np.uint16).reshape(32, 4, 2)
    for lane in range(32):
        for number in range(4):
            matrix = matrices[number].T if trans else matrices[number]
            assert pairs[lane, number].tolist() == matrix[GROUP[lane], 2 * IN_GROUP[lane] :][:2].tolist()
    assert (counts.shared_requests, counts.shared_wavefronts, counts.bank_conflicts) == (2, 8, 0)


def test_ldmatrix_of_two_takes_addresses_of_half_the_lanes() -> None:
    matrices, out = RANDOM.integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16), np.zeros((32, 4), np.uint32)
    body = """
    setp.lt.u32 %p1, %r0, 16; selp.b32 %r2, %r2, 0x7ffffff0, %p1;
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r3,%r4}, [%r2]; st.global.v4.u32 [%x3], {%r3,%r4,%r3,%r4};
    """
    execute(LOAD + body, matrices, out)
    assert (out[:, 1].copy().view(np.uint16).reshape(8, 8) == matrices[1]).all()


def test_stmatrix_is_the_inverse() -> None:
    matrices, out = RANDOM.integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16), np.zeros((4, 8, 8), np.uint16)
    body = """
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3,%r4,%r5,%r6}, [%r2];
    stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r2+512], {%r3,%r4,%r5,%r6};
    ld.shared.v4.u32 {%r3,%r4,%r5,%r6}, [%r2+512]; st.global.v4.u32 [%x3], {%r3,%r4,%r5,%r6};
    """
    execute(LOAD + body, matrices, out)
    assert (out == matrices.swapaxes(1, 2)).all()
