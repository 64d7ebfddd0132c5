"""What the interpreter does not implement stops it, with the line; `.ftz`, `.sat` and `.approx` do what they say."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import Fault, bf16_values
from kvperf.emulator.opcodes import TABLE
from kvperf.emulator.opcodes.forms import FORMS
from tests.emulator.ptx import each_lane, execute

F32 = np.arange(1, 33, dtype=np.float32)
SUBNORMAL = np.float32(2.0**-130)
SMALLEST = np.finfo(np.float32).tiny


def test_every_entry_of_the_table_has_its_forms() -> None:
    assert set(TABLE) == set(FORMS)


@pytest.mark.parametrize(
    "instruction",
    [
        "add.rz.f32 %d, %a, %b",
        "fma.rz.ftz.f32 %d, %a, %b, %a",
        "mul.rm.f32 %d, %a, %b",
        "add.ftz.f16x2 %d, %a, %b",
        "min.ftz.xorsign.abs.f32 %d, %a, %b",
        "cvt.rz.ftz.f32.f64 %d, %x1",
        "cvt.rna.tf32.f32 %d, %a",
        "cvt.rz.f16x2.f32 %d, %a, %b",
        "slct.ftz.f32.f32 %d, %a, %b, %a",
        "lop3.or.b32 %d|%p1, %a, %b, %a, 0xE8, %p2",
        "prmt.b32.f4e %d, %a, %b, 1",
        "add.cc.u32 %d, %a, %b",
        "mad.hi.sat.s32 %d, %a, %b, %a",
        "redux.sync.min.abs.f32 %d, %a, -1",
        "shfl.bfly.b32 %d, %a, 1, 31",
        "ld.shared::cluster.u32 %d, [%x1]",
        "atom.global.add.L2::cache_hint.u32 %d, [%x1], 1, %x2",
        "discard.global.L2 [%x1], 128",
        "cp.async.ca.shared.global.L2::cache_hint [%r1], [%x1], 16, %x2",
        "cp.async.cg.shared.global [%r1], [%x1], 16, %p1",
        "cp.async.cg.shared.global [%r1], [%x1], 8",
        "cp.async.bulk.wait_group 0",
        "mbarrier.arrive.noComplete.shared.b64 %x1, [%r1], 1",
        "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%r9,%r10}, "
        "{%r1,%r2,%r3,%r4}",
        "barrier.cluster.arrive",
    ],
)
def test_what_it_does_not_implement_stops_it_with_the_line(instruction: str) -> None:
    with pytest.raises(Fault, match=r"PTX line \d+") as caught:
        each_lane(f"mov.u64 %x1, 0;\n{instruction};", F32, F32, out=np.float32)
    assert caught.value.kind == "unknown"
    assert caught.value.line > 0
    assert instruction.split(" ")[0] in caught.value.message


@pytest.mark.parametrize(
    ("instruction", "a", "b", "c", "kept", "flushed"),
    [
        ("add{}.f32 %d, %a, %b", SUBNORMAL, 0, 0, SUBNORMAL, 0),
        ("sub{}.f32 %d, %a, %b", 1.5 * SMALLEST, SMALLEST, 0, SMALLEST / 2, 0),
        ("add{}.f32 %d, %a, %b", -SUBNORMAL, -SUBNORMAL, 0, -2 * SUBNORMAL, -0.0),
        ("mul{}.f32 %d, %a, %b", SUBNORMAL, 2.0**100, 0, 2.0**-30, 0),
        ("mul{}.f32 %d, %a, %b", SMALLEST, -0.5, 0, -SMALLEST / 2, -0.0),
        ("fma.rn{}.f32 %d, %a, %b, %c", SUBNORMAL, 2.0**120, 1.0, 1 + 2.0**-10, 1),
        ("fma.rn{}.f32 %d, %a, %b, %c", 0, 0, SUBNORMAL, SUBNORMAL, 0),
        ("max{}.f32 %d, %a, %b", SUBNORMAL, 0, 0, SUBNORMAL, 0),
        ("min{}.f32 %d, %a, %b", SUBNORMAL, 1, 0, SUBNORMAL, 0),
        ("neg{}.f32 %d, %a", SUBNORMAL, 0, 0, -SUBNORMAL, -0.0),
        ("abs{}.f32 %d, %a", -SUBNORMAL, 0, 0, SUBNORMAL, 0),
        ("div.rn{}.f32 %d, %a, %b", SUBNORMAL, SUBNORMAL, 0, 1, np.nan),
        ("cvt.rpi{}.f32.f32 %d, %a", SUBNORMAL, 0, 0, 1, 0),
        ("rcp.approx{}.f32 %d, %a", 2.0**-127, 0, 0, 2.0**127, np.inf),
        ("rcp.approx{}.f32 %d, %a", 2.0**127, 0, 0, 2.0**-127, 0),
        ("lg2.approx{}.f32 %d, %a", SUBNORMAL, 0, 0, -130, -np.inf),
        ("setp.gt{}.f32 %p1, %a, %b; selp.f32 %d, 0f3F800000, 0f00000000, %p1", SUBNORMAL, 0, 0, 1, 0),
        ("setp.gt{}.f32 %p1|%p2, %a, %b; selp.f32 %d, 0f3F800000, 0f00000000, %p1", SUBNORMAL, 0, 0, 1, 0),
        ("set.gt{}.f32.f32 %d, %a, %b", SUBNORMAL, 0, 0, 1, 0),
    ],
)
def test_ftz(instruction: str, a: float, b: float, c: float, kept: float, flushed: float) -> None:
    """Also where only one lane of the warp has something to flush."""
    operands = [np.array([x] + [1] * 31, np.float32) for x in (a, b, c)]
    for modifier, expected in (("", kept), (".ftz", flushed)):
        found = each_lane(instruction.format(modifier) + ";", *operands, out=np.float32)[0]
        np.testing.assert_equal(found, np.float32(expected))
        assert np.signbit(found) == np.signbit(np.float32(expected)) or np.isnan(expected)


def test_ftz_of_a_conversion_to_integers() -> None:
    assert each_lane("cvt.rpi.s32.f32 %d, %a;", SUBNORMAL, out=np.int32)[0] == 1
    assert each_lane("cvt.rpi.ftz.s32.f32 %d, %a;", SUBNORMAL, out=np.int32)[0] == 0


@pytest.mark.parametrize("modifier", ["", ".ftz"])
def test_approximate_division_by_a_large_number_gives_zero(modifier: str) -> None:
    b = np.array([2.0**126, 1.5 * 2.0**126, -(2.0**127), np.inf] * 8, np.float32)
    found = each_lane(f"div.approx{modifier}.f32 %d, %a, %b;", np.float32(2.0**100), b, out=np.float32)
    assert found[:4].tolist() == [2.0**-26, 0, 0, 0]
    assert np.signbit(found[:4]).tolist() == [False, False, True, False]
    found = each_lane(f"div.approx{modifier}.f32 %d, %a, %b;", np.float32(np.inf), b, out=np.float32)
    assert np.isnan(found[:4]).tolist() == [False, True, True, True]


def test_integers_saturate_where_told() -> None:
    a = np.array([2**31 - 1, -(2**31), 5, -5] * 8, np.int32)
    assert each_lane("add.sat.s32 %d, %a, %b;", a, a, out=np.int32)[:4].tolist() == [2**31 - 1, -(2**31), 10, -10]
    assert each_lane("sub.sat.s32 %d, %a, %b;", a, np.int32(-1), out=np.int32)[0] == 2**31 - 1
    assert each_lane("add.s32 %d, %a, %b;", a, a, out=np.int32)[:2].tolist() == [-2, 0]


def test_bf16_fma_rounds_once() -> None:
    """(1 + 3·2^-7) · 1.5 lies midway between two bf16 numbers; 2^-30 on top of it decides, which float32 would lose."""
    factors = np.uint32(0x3F833F83), np.uint32(0x3FC03FC0)
    found = each_lane("fma.rn.bf16x2 %d, %a, %b, %c;", *factors, np.uint32(0x30803080), out=np.uint32)[0]
    assert bf16_values(np.array([found & 0xFFFF]))[0] == 1.5 + 5 * 2**-7
    found = each_lane("fma.rn.bf16x2 %d, %a, %b, %c;", *factors, np.uint32(0), out=np.uint32)[0]
    assert bf16_values(np.array([found & 0xFFFF]))[0] == 1.5 + 4 * 2**-7


def test_a_field_of_all_bits() -> None:
    a, b = np.uint64(0xFEDCBA9876543210), np.uint64(7)
    assert each_lane("bfi.b64 %d, %a, %b, 0, 64;", a, b, out=np.uint64)[0] == a
    assert each_lane("bfi.b64 %d, %a, %b, 64, 8;", a, b, out=np.uint64)[0] == b


def test_atomic_sums_are_flushed_in_global_memory_only() -> None:
    cell, out = np.array([SUBNORMAL], np.float32), np.zeros(32, np.float32)
    body = """
    .shared .align 4 .b8 sum[4];
    ld.param.u64 %x0, [p0]; ld.param.u64 %x1, [p1]; mov.u32 %r0, %tid.x; setp.eq.u32 %p1, %r0, 0;
    ld.global.f32 %f1, [%x0]; st.shared.f32 [sum], %f1;
    @%p1 red.shared.add.f32 [sum], 0f00000000; @%p1 red.global.add.f32 [%x0], 0f00000000;
    ld.shared.f32 %f2, [sum]; st.global.f32 [%x1], %f2;
    """
    execute(body, cell, out)
    assert (cell[0], out[0]) == (0, SUBNORMAL)
