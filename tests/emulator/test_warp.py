"""Shuffles, votes, matches and reductions; lanes that are apart meet at them."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import SCHEDULES, Fault
from tests.emulator.ptx import each_lane

LANE = np.arange(32)
VALUE = np.arange(100, 132, dtype=np.uint32)


@pytest.mark.parametrize(
    ("mode", "amount", "clamp", "source"),
    [
        ("bfly", 5, 0x1F, LANE ^ 5),
        ("idx", 7, 0x1F, np.full(32, 7)),
        ("down", 3, 0x1F, np.where(LANE + 3 < 32, LANE + 3, LANE)),
        ("up", 3, 0x00, np.where(LANE >= 3, LANE - 3, LANE)),
        ("idx", 2, 0x181F, (LANE & ~7) | 2),
        ("bfly", 4, 0x181F, LANE ^ 4),
        ("down", 3, 0x181F, np.where((LANE & 7) + 3 < 8, LANE + 3, LANE)),
    ],
)
@pytest.mark.parametrize("by_register", [False, True])
def test_shuffles(mode: str, amount: int, clamp: int, source: object, by_register: bool) -> None:
    operand = "%b" if by_register else str(amount)
    body = f"shfl.sync.{mode}.b32 %d, %a, {operand}, {clamp}, -1;"
    assert (each_lane(body, VALUE, np.uint32(amount), out=np.uint32) == VALUE[source]).all()


def test_a_shuffle_within_half_a_warp() -> None:
    body = """
    mov.u32 %d, 0;
    setp.lt.u32 %p1, %r60, 16;
    @!%p1 bra OUT;
    shfl.sync.bfly.b32 %d, %a, 1, 31, 0xffff;
    OUT:
    """
    expected = np.where(LANE < 16, VALUE[LANE ^ 1], 0)
    assert (each_lane(body, VALUE, out=np.uint32) == expected).all()


def test_a_shuffle_that_reads_an_absent_lane_is_a_fault() -> None:
    body = "setp.lt.u32 %p1, %r60, 16; mov.u32 %d, 0; @!%p1 bra OUT; shfl.sync.bfly.b32 %d, %a, 16, 31, 0xffff;\nOUT:"
    with pytest.raises(Fault, match="does not execute the shuffle"):
        each_lane(body, VALUE, out=np.uint32)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lanes_wait_for_each_other_where_the_code_does_not_bring_them_together(schedule: str) -> None:
    """The odd lanes take a way that the compiler laid out behind the place where they meet."""
    body = """
    and.b32 %r1, %r60, 1;
    setp.eq.u32 %p1, %r1, 1;
    mov.u32 %r2, %a;
    @%p1 bra ODD;
    MEET:
    shfl.sync.bfly.b32 %d, %r2, 1, 31, -1;
    bra OUT;
    ODD:
    add.u32 %r2, %r2, 1000;
    bra MEET;
    OUT:
    """
    own = VALUE + np.where(LANE % 2, 1000, 0)
    assert (each_lane(body, VALUE, out=np.uint32, schedule=schedule) == own[LANE ^ 1]).all()


def test_lanes_that_have_exited_are_not_waited_for() -> None:
    body = "setp.ge.u32 %p1, %r60, 8; @%p1 ret; bar.warp.sync -1; mov.u32 %d, 5;"
    assert each_lane(body, VALUE, out=np.uint32).tolist() == [5] * 8 + [0] * 24


def test_votes() -> None:
    body = "setp.gt.u32 %p1, %a, 120; vote.sync.ballot.b32 %d, %p1, -1;"
    assert each_lane(body, VALUE, out=np.uint32)[0] == int(sum(1 << i for i in range(32) if VALUE[i] > 120))
    body = "setp.gt.u32 %p1, %a, {0}; vote.sync.{1}.pred %p2, %p1, -1; selp.u32 %d, 1, 0, %p2;"
    assert each_lane(body.format(99, "all"), VALUE, out=np.uint32)[0] == 1
    assert each_lane(body.format(100, "all"), VALUE, out=np.uint32)[0] == 0
    assert each_lane(body.format(130, "any"), VALUE, out=np.uint32)[0] == 1


def test_reduction_and_match() -> None:
    assert (each_lane("redux.sync.add.u32 %d, %a, -1;", VALUE, out=np.uint32) == VALUE.sum()).all()
    assert (each_lane("redux.sync.max.s32 %d, %a, -1;", VALUE, out=np.uint32) == 131).all()
    found = each_lane("match.any.sync.b32 %d, %a, -1;", (LANE % 2).astype(np.uint32), out=np.uint32)
    assert found.tolist() == [0x55555555, 0xAAAAAAAA] * 16


def test_one_lane_is_elected() -> None:
    body = "elect.sync %r1|%p1, -1; selp.u32 %d, 1, 0, %p1;"
    assert each_lane(body, VALUE, out=np.uint32).tolist() == [1] + [0] * 31


def test_two_warps_do_not_mix() -> None:
    value = np.arange(64, dtype=np.uint32)
    found = each_lane("shfl.sync.idx.b32 %d, %a, 3, 31, -1;", value, out=np.uint32, threads=64)
    assert found.tolist() == [3] * 32 + [35] * 32


# Each lane writes to shared memory and reads what the lane 16 further wrote, behind what may bring the two together.
EXCHANGE = """
    .shared .align 16 .b8 tile[128];
    mov.u32 %r1, tile; shl.b32 %r2, %r60, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, 64; add.u32 %r4, %r1, %r4;
    {start}
    st.shared.u32 [%r3], %a;
    {between}
    ld.shared.u32 %d, [%r4];
"""
TOGETHER = ["bar.warp.sync -1;", "bar.sync 0;", "shfl.sync.bfly.b32 %r9, %r9, 1, 31, -1;"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("between", TOGETHER)
def test_the_halves_of_a_warp_meet(between: str, schedule: str) -> None:
    body = EXCHANGE.format(start="", between=between)
    assert (each_lane(body, VALUE, out=np.uint32, schedule=schedule) == VALUE[LANE ^ 16]).all()


@pytest.mark.parametrize("start", ["", "bar.warp.sync -1;", "MEET:"])
def test_halves_that_do_not_meet_are_found(start: str) -> None:
    """Also behind a place where they met, and only under the schedule that lets them part."""
    body = EXCHANGE.format(start=start, between="")
    with pytest.raises(Fault, match="nobody wrote"):
        each_lane(body, VALUE, out=np.uint32, schedule="halves")
    assert (each_lane(body, VALUE, out=np.uint32, schedule="greedy") == VALUE[LANE ^ 16]).all()


def test_either_half_goes_first_and_a_seed_repeats_itself() -> None:
    """Lanes 5 and 20 draw a number 40 times: %d is how often each was second."""
    body = """
    .reg .b32 %n<4>;
    ld.param.u64 %x1, [out]; mov.u32 %d, 0; mov.u32 %n0, 0;
    setp.eq.u32 %p1, %r60, 5; setp.eq.u32 %p2, %r60, 20; or.pred %p1, %p1, %p2;
    LOOP:
    mov.u32 %n1, 0;
    @%p1 atom.global.add.u32 %n1, [%x1], 1;
    and.b32 %n1, %n1, 1; add.u32 %d, %d, %n1; add.u32 %n0, %n0, 1; setp.lt.u32 %p3, %n0, 40;
    bar.warp.sync -1;
    @%p3 bra LOOP;
    """
    found = [each_lane(body, VALUE, out=np.uint32, schedule="halves", seed=seed) for seed in (1, 2, 3, 1)]
    assert (found[0] == found[3]).all()
    assert len({int(lanes[5]) for lanes in found}) > 1
    assert all(0 < lanes[5] < 40 and lanes[5] + lanes[20] == 40 for lanes in found)


@pytest.mark.parametrize("seed", range(4))
def test_a_part_of_a_warp_meets_apart_from_the_rest(seed: int) -> None:
    """Lanes 8 to 23, of both halves, shuffle among themselves."""
    body = """
    mov.u32 %d, 0; add.u32 %r1, %r60, -8; setp.gt.u32 %p1, %r1, 15;
    @%p1 bra OUT;
    shfl.sync.bfly.b32 %d, %a, 1, 31, 0xffff00;
    OUT:
    """
    expected = np.where((LANE >= 8) & (LANE < 24), VALUE[LANE ^ 1], 0)
    assert (each_lane(body, VALUE, out=np.uint32, schedule="halves", seed=seed) == expected).all()
