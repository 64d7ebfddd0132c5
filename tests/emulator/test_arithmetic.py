"""Integer, bit and floating-point instructions against NumPy and Python."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import Fault
from tests.emulator.ptx import each_lane

RANDOM = np.random.default_rng(1)
U32 = RANDOM.integers(0, 1 << 32, 32, np.uint32)
V32 = RANDOM.integers(0, 1 << 32, 32, np.uint32)
S32 = U32.view(np.int32)
T32 = V32.view(np.int32)
U64 = RANDOM.integers(0, 1 << 63, 32).astype(np.uint64) * np.uint64(2) + np.uint64(1)
V64 = RANDOM.integers(0, 1 << 63, 32).astype(np.uint64) * np.uint64(2)
F32 = RANDOM.standard_normal(32).astype(np.float32)
G32 = RANDOM.standard_normal(32).astype(np.float32)


def signed(value: int, bits: int = 32) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


@pytest.mark.parametrize(
    ("instruction", "function"),
    [
        ("add.u32", lambda a, b: a + b),
        ("sub.u32", lambda a, b: a - b),
        ("mul.lo.u32", lambda a, b: a * b),
        ("mul.hi.u32", lambda a, b: a * b >> 32),
        ("mul.hi.s32", lambda a, b: signed(a) * signed(b) >> 32),
        ("div.u32", lambda a, b: a // b),
        ("rem.u32", lambda a, b: a % b),
        ("div.s32", lambda a, b: int(signed(a) / signed(b))),
        ("rem.s32", lambda a, b: signed(a) - signed(b) * int(signed(a) / signed(b))),
        ("min.s32", lambda a, b: min(signed(a), signed(b))),
        ("max.u32", max),
        ("and.b32", lambda a, b: a & b),
        ("xor.b32", lambda a, b: a ^ b),
        ("shl.b32", lambda a, b: a << b if b < 32 else 0),
    ],
)
def test_integers(instruction: str, function: object) -> None:
    found = each_lane(f"{instruction} %d, %a, %b;", U32, V32, out=np.uint32)
    expected = [function(int(a), int(b)) & 0xFFFFFFFF for a, b in zip(U32, V32, strict=True)]  # type: ignore[operator]
    assert found.tolist() == expected


@pytest.mark.parametrize("amount", [0, 1, 17, 31, 32, 40])
def test_shifts_by_the_width_or_more(amount: int) -> None:
    assert each_lane("shl.b32 %d, %a, %b;", U32, np.uint32(amount), out=np.uint32).tolist() == [
        int(a) << amount & 0xFFFFFFFF for a in U32
    ]
    assert each_lane(f"shr.u32 %d, %a, {amount};", U32, out=np.uint32).tolist() == [int(a) >> amount for a in U32]
    assert each_lane("shr.s32 %d, %a, %b;", S32, np.uint32(amount), out=np.int32).tolist() == [
        int(a) >> amount for a in S32
    ]


def test_wide_products() -> None:
    found = each_lane("mul.wide.s32 %d, %a, %b;", S32, T32, out=np.int64)
    assert found.tolist() == [int(a) * int(b) for a, b in zip(S32, T32, strict=True)]
    found = each_lane("mad.wide.u32 %d, %a, %b, %c;", U32, V32, np.uint64(7), out=np.uint64)
    assert found.tolist() == [int(a) * int(b) + 7 for a, b in zip(U32, V32, strict=True)]
    found = each_lane("mul.hi.u64 %d, %a, %b;", U64, V64, out=np.uint64)
    assert found.tolist() == [int(a) * int(b) >> 64 for a, b in zip(U64, V64, strict=True)]
    found = each_lane("mul.hi.s64 %d, %a, %b;", U64, V64, out=np.int64)
    assert found.tolist() == [signed(int(a), 64) * signed(int(b), 64) >> 64 for a, b in zip(U64, V64, strict=True)]


def test_bit_fields() -> None:
    found = each_lane("bfe.u32 %d, %a, 5, 11;", U32, out=np.uint32)
    assert found.tolist() == [int(a) >> 5 & 0x7FF for a in U32]
    found = each_lane("bfe.s32 %d, %a, 5, 11;", S32, out=np.int32)
    assert found.tolist() == [signed(int(a) >> 5 & 0x7FF, 11) for a in U32]
    found = each_lane("bfi.b32 %d, %a, %b, 8, 16;", U32, V32, out=np.uint32)
    assert found.tolist() == [int(b) & ~0xFFFF00 | (int(a) & 0xFFFF) << 8 for a, b in zip(U32, V32, strict=True)]


def test_permutations_and_counts() -> None:
    found = each_lane("prmt.b32 %d, %a, %b, 0x7610;", U32, V32, out=np.uint32)
    octets = np.stack([U32, V32], axis=1).view(np.uint8)
    assert (found.view(np.uint8).reshape(32, 4) == octets[:, [0, 1, 6, 7]]).all()
    found = each_lane("lop3.b32 %d, %a, %b, %c, 0xE8;", U32, V32, F32.view(np.uint32), out=np.uint32)
    c = F32.view(np.uint32)
    assert (found == (U32 & V32 | U32 & c | V32 & c)).all()
    assert each_lane("popc.b32 %d, %a;", U32, out=np.uint32).tolist() == [int(a).bit_count() for a in U32]
    assert each_lane("clz.b32 %d, %a;", U32 >> 9, out=np.uint32).tolist() == [
        32 - int(a >> 9).bit_length() for a in U32
    ]
    assert each_lane("brev.b32 %d, %a;", U32, out=np.uint32).tolist() == [int(f"{a:032b}"[::-1], 2) for a in U32]
    found = each_lane("shf.l.wrap.b32 %d, %a, %b, 7;", U32, V32, out=np.uint32)
    assert found.tolist() == [((int(b) << 32 | int(a)) << 7) >> 32 & 0xFFFFFFFF for a, b in zip(U32, V32, strict=True)]
    found = each_lane("dp4a.s32.s32 %d, %a, %b, 5;", U32, V32, out=np.int32)
    a, b = (x.view(np.int8).reshape(32, 4).astype(int) for x in (U32, V32))
    assert (found == (a * b).sum(axis=1) + 5).all()


def test_fma_rounds_once() -> None:
    a = np.float32(1 + 2**-12)
    found = each_lane("fma.rn.f32 %d, %a, %b, %c;", a, a, np.float32(-1 - 2**-11), out=np.float32)
    assert found[0] == np.float32(2**-24)


def test_packed_halves() -> None:
    a, b, c = (RANDOM.standard_normal((32, 2)).astype(np.float16) for _ in range(3))
    bits = [x.view(np.uint32).reshape(32) for x in (a, b, c)]
    found = each_lane("fma.rn.f16x2 %d, %a, %b, %c;", *bits, out=np.uint32)
    exact = (a.astype(np.float64) * b + c).astype(np.float16)
    assert (found.view(np.float16).reshape(32, 2) == exact).all()
    found = each_lane("max.f16x2 %d, %a, %b;", *bits[:2], out=np.uint32)
    assert (found.view(np.float16).reshape(32, 2) == np.maximum(a, b)).all()


@pytest.mark.parametrize(
    ("relation", "of_numbers", "of_nan"),
    [("lt", True, False), ("ge", False, False), ("geu", False, True), ("neu", True, True), ("ne", True, False)],
)
def test_comparisons_with_nan(relation: str, of_numbers: bool, of_nan: bool) -> None:
    b = np.where(np.arange(32) < 16, 2, np.nan).astype(np.float32)
    found = each_lane(f"setp.{relation}.f32 %p1, %a, %b; selp.u32 %d, 1, 0, %p1;", np.float32(1), b, out=np.uint32)
    assert found.tolist() == [int(of_numbers)] * 16 + [int(of_nan)] * 16


def test_minimum_drops_nan_unless_told() -> None:
    nan = np.float32(np.nan)
    assert each_lane("min.f32 %d, %a, %b;", np.float32(1), nan, out=np.float32)[0] == 1
    assert np.isnan(each_lane("min.NaN.f32 %d, %a, %b;", np.float32(1), nan, out=np.float32)[0])


@pytest.mark.parametrize(
    ("opcode", "function"),
    [
        ("ex2.approx.ftz.f32", np.exp2),
        ("lg2.approx.f32", np.log2),
        ("rcp.approx.f32", np.reciprocal),
        ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(x)),
        ("sqrt.rn.f32", np.sqrt),
        ("sin.approx.f32", np.sin),
        ("cos.approx.f32", np.cos),
        ("tanh.approx.f32", np.tanh),
    ],
)
def test_special_functions(opcode: str, function: object) -> None:
    value = np.abs(F32) + np.float32(0.1)
    found = each_lane(f"{opcode} %d, %a;", value, out=np.float32)
    np.testing.assert_allclose(found, function(value.astype(np.float64)), rtol=1e-7)  # type: ignore[operator]


def test_a_rounding_it_does_not_know_stops_it() -> None:
    with pytest.raises(Fault, match=r"does not know `add\.rz\.f32"):
        each_lane("add.rz.f32 %d, %a, %b;", F32, G32, out=np.float32)


def test_an_opcode_it_does_not_know_stops_it_with_the_line() -> None:
    with pytest.raises(Fault, match=r"PTX line \d+.*`vadd.s32") as caught:
        each_lane("vadd.s32.s32.s32 %d, %a, %b;", S32, T32, out=np.int32)
    assert caught.value.kind == "unknown"
    assert caught.value.line > 0


def test_an_unknown_opcode_that_no_thread_reaches_is_no_fault() -> None:
    body = "setp.eq.u32 %p1, 0, 1; @%p1 vadd.s32.s32.s32 %r1, %r1, %r1; mov.b32 %d, %a;"
    assert (each_lane(body, U32, out=np.uint32) == U32).all()
