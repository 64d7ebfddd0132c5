"""Number formats: every code of the narrow ones, rounding to nearest even, saturation, NaN."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import bf16_bits, bf16_values, e4m3_bits, e4m3_values, e5m2_bits, e5m2_values
from tests.emulator.ptx import each_lane

RANDOM = np.random.default_rng(2)
F32 = (RANDOM.standard_normal(32) * 100).astype(np.float32)


def test_bf16_is_the_upper_half_of_float32_rounded_to_even() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bf16_values(bits)
    numbers = ~np.isnan(values)
    assert (bf16_bits(values)[numbers] == bits[numbers]).all()
    assert np.isnan(bf16_values(bf16_bits(values[~numbers]))).all()
    one, step = np.float32(1), np.float32(2**-8)
    ties = bf16_values(bf16_bits(np.array([one + step, one + 3 * step], np.float32)))
    assert ties.tolist() == [1.0, 1 + 4 * step]


@pytest.mark.parametrize(
    ("values", "bits", "largest"), [(e4m3_values, e4m3_bits, 448.0), (e5m2_values, e5m2_bits, 57344.0)]
)
def test_fp8(values: object, bits: object, largest: float) -> None:
    codes = np.arange(256, dtype=np.uint8)
    numbers = values(codes)  # type: ignore[operator]
    finite = np.isfinite(numbers)
    assert (bits(numbers[finite]) == codes[finite]).all()  # type: ignore[operator]
    assert numbers[finite].max() == largest
    assert values(bits(np.array([1e9, -1e9], np.float32))).tolist() == [largest, -largest]  # type: ignore[operator]
    assert np.isnan(values(bits(np.array([np.nan], np.float32)))).all()  # type: ignore[operator]
    positive = np.unique(numbers[finite & (numbers >= 0)])
    middles = ((positive[1:].astype(np.float64) + positive[:-1]) / 2).astype(np.float32)
    assert (bits(middles) % 2 == 0).all()  # type: ignore[operator]
    nearest = positive[np.abs(positive[:, None] - np.abs(F32 / 10)).argmin(axis=0)]
    assert (np.abs(values(bits(F32 / 10))) == nearest).all()  # type: ignore[operator]


def test_e4m3_has_its_published_values() -> None:
    assert e4m3_values(np.array([0x01, 0x08, 0x38, 0x7E, 0xB8], np.uint8)).tolist() == [2**-9, 2**-6, 1, 448, -1]
    assert e4m3_values(e4m3_bits(np.array([3.3], np.float32)))[0] == 3.25


def test_halves() -> None:
    half = F32.astype(np.float16)
    found = each_lane("cvt.rn.f16.f32 %d, %a;", F32, out=np.float16)
    assert (found == half).all()
    assert (each_lane("cvt.f32.f16 %d, %a;", half, out=np.float32) == half.astype(np.float32)).all()
    assert (each_lane("cvt.rn.bf16.f32 %d, %a;", F32, out=np.uint16) == bf16_bits(F32)).all()


def test_two_floats_to_a_packed_register_the_first_on_top() -> None:
    other = F32[::-1].copy()
    found = each_lane("cvt.rn.f16x2.f32 %d, %a, %b;", F32, other, out=np.uint32).view(np.float16).reshape(32, 2)
    assert (found[:, 1] == F32.astype(np.float16)).all()
    assert (found[:, 0] == other.astype(np.float16)).all()
    found = each_lane("cvt.rn.bf16x2.f32 %d, %a, %b;", F32, other, out=np.uint32).view(np.uint16).reshape(32, 2)
    assert (found[:, 1] == bf16_bits(F32)).all()
    found = each_lane("cvt.rn.satfinite.e4m3x2.f32 %d, %a, %b;", F32, other, out=np.uint16).view(np.uint8)
    assert (found.reshape(32, 2)[:, 1] == e4m3_bits(F32)).all()


def test_packed_fp8_to_packed_fp16() -> None:
    codes = RANDOM.integers(0, 255, (32, 2)).astype(np.uint8) & np.uint8(0xFE)
    found = each_lane("cvt.rn.f16x2.e4m3x2 %d, %a;", codes.view(np.uint16).reshape(32), out=np.uint32)
    assert (found.view(np.float16).reshape(32, 2) == e4m3_values(codes)).all()


@pytest.mark.parametrize(("rounding", "function"), [("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor)])
def test_floats_to_integers(rounding: str, function: object) -> None:
    found = each_lane(f"cvt.{rounding}.s32.f32 %d, %a;", F32, out=np.int32)
    assert (found == function(F32)).all()  # type: ignore[operator]


def test_floats_beyond_an_integer_saturate_and_nan_is_zero() -> None:
    value = np.array([3e9, -3e9, np.nan, np.inf] * 8, np.float32)
    found = each_lane("cvt.rni.s32.f32 %d, %a;", value, out=np.int32)
    assert found[:4].tolist() == [2**31 - 1, -(2**31), 0, 2**31 - 1]
    found = each_lane("cvt.rni.s8.f32 %h1, %a; cvt.s32.s8 %d, %h1;", value / np.float32(1e7), out=np.int32)
    assert found[:4].tolist() == [127, -128, 0, 127]


def test_integers_widen_by_their_sign_and_wrap_when_narrowed() -> None:
    value = np.arange(-16, 16, dtype=np.int32) * 37
    assert (each_lane("cvt.s64.s32 %d, %a;", value, out=np.int64) == value).all()
    assert (each_lane("cvt.u64.u32 %d, %a;", value, out=np.uint64) == value.view(np.uint32)).all()
    assert (each_lane("cvt.s32.s8 %d, %a;", value, out=np.int32) == value.astype(np.int8)).all()
    assert (
        each_lane("cvt.sat.s8.s32 %h1, %a; cvt.s32.s8 %d, %h1;", value, out=np.int32) == value.clip(-128, 127)
    ).all()


def test_packing_and_unpacking() -> None:
    bits = F32.view(np.uint32)
    body = """
    mov.b32 {%h1, %h2}, %a;
    mov.b32 %r1, {%h2, %h1};
    mov.b64 %x1, {%r1, %a};
    mov.b64 {%r2, %r3}, %x1;
    sub.u32 %d, %r2, %r3;
    """
    found = each_lane(body, bits, out=np.uint32)
    assert (found == ((bits >> 16 | bits << 16) - bits)).all()


def test_packing_with_a_constant() -> None:
    """bf16 to fp32 on sm_80, where no conversion exists."""
    bits = F32.view(np.uint32)
    body = "mov.b32 {%h1, %h2}, %a; mov.b32 %d, {0, %h2};"
    assert (each_lane(body, bits, out=np.uint32) == (bits & 0xFFFF0000)).all()


def test_a_swap_through_moves_keeps_both_values() -> None:
    body = (
        "mov.u32 %r1, %a; mov.u32 %r2, %b; mov.u32 %r3, %r1; mov.u32 %r1, %r2; mov.u32 %r2, %r3; sub.u32 %d, %r1, %r2;"
    )
    a, b = np.arange(32, dtype=np.uint32), np.arange(32, dtype=np.uint32) * 5
    assert (each_lane(body, a, b, out=np.uint32) == b - a).all()
