"""Barriers, deadlocks, polling between blocks: under every schedule, and what they report when they go wrong."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import SCHEDULES, Fault
from tests.emulator.ptx import execute

ADDRESS = """
    ld.param.u64 %x0, [p0]; mov.u32 %r0, %tid.x; mov.u32 %r10, %ctaid.x; mov.u32 %r11, %ntid.x;
    mad.lo.u32 %r12, %r10, %r11, %r0; mul.wide.u32 %x1, %r12, 4; add.s64 %x1, %x0, %x1;
"""
# Each thread writes its number to shared memory and reads that of its mirror image in the block.
MIRROR = """
    .shared .align 16 .b8 tile[512];
    mov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2;
    st.shared.u32 [%r3], %r0;
    {barrier}
    sub.u32 %r4, %r11, %r0; sub.u32 %r4, %r4, 1; shl.b32 %r4, %r4, 2; add.u32 %r4, %r1, %r4;
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%x1], %r5;
"""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_barrier_orders_the_block(schedule: str) -> None:
    out = np.zeros(256, np.uint32)
    body = ADDRESS + MIRROR.format(barrier="bar.sync 0;")
    execute(body, out, grid=(2,), block=(128,), schedule=schedule)
    assert out.tolist() == list(range(127, -1, -1)) * 2


@pytest.mark.parametrize("schedule", ["greedy", "reverse", "random"])
def test_a_missing_barrier_is_found(schedule: str) -> None:
    with pytest.raises(Fault, match="nobody wrote"):
        execute(ADDRESS + MIRROR.format(barrier=""), np.zeros(128, np.uint32), block=(128,), schedule=schedule)


def test_half_a_block_at_a_named_barrier() -> None:
    out = np.zeros(128, np.uint32)
    body = """
    setp.lt.u32 %p1, %r0, 64;
    @%p1 bra FIRST;
    bar.sync 2, 64;
    bra OUT;
    FIRST:
    bar.sync 1, 64;
    OUT:
    st.global.u32 [%x1], %r0;
    """
    execute(ADDRESS + body, out, block=(128,), schedule="greedy")
    assert out.tolist() == list(range(128))


def test_a_producer_arrives_and_goes_on() -> None:
    out = np.zeros(64, np.uint32)
    body = """
    .shared .align 4 .b8 word[4];
    setp.lt.u32 %p1, %r0, 32;
    @%p1 bra PRODUCER;
    bar.sync 3, 64;
    ld.shared.u32 %r5, [word];
    st.global.u32 [%x1], %r5;
    bra OUT;
    PRODUCER:
    st.shared.u32 [word], 9;
    bar.arrive 3, 64;
    OUT:
    """
    execute(ADDRESS + body, out, block=(64,), schedule="reverse")
    assert out.tolist() == [0] * 32 + [9] * 32


def test_a_vote_of_the_block() -> None:
    out = np.zeros(64, np.uint32)
    body = "setp.gt.u32 %p1, %r0, 40; bar.red.popc.u32 %r5, 0, %p1; st.global.u32 [%x1], %r5;"
    execute(ADDRESS + body, out, block=(64,), schedule="greedy")
    assert out.tolist() == [23] * 64
    body = "setp.gt.u32 %p1, %r0, 40; bar.red.or.pred %p2, 0, %p1; selp.u32 %r5, 1, 0, %p2; st.global.u32 [%x1], %r5;"
    execute(ADDRESS + body, out, block=(64,), schedule="greedy")
    assert out.tolist() == [1] * 64


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_threads_that_exit_before_a_barrier(schedule: str) -> None:
    body = "setp.ge.u32 %p1, %r0, 32; @%p1 ret; bar.sync 0;"
    with pytest.raises(Fault, match=r"divergent barrier.*32 wait at PTX line.*32 have exited") as caught:
        execute(ADDRESS + body, np.zeros(64, np.uint32), block=(64,), schedule=schedule)
    assert caught.value.kind == "divergence"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_barrier_for_some_of_the_block(schedule: str) -> None:
    body = "setp.ge.u32 %p1, %r0, 32; @%p1 bra OUT; bar.sync 0;\nOUT: bar.sync 0;"
    with pytest.raises(Fault, match="divergent barrier"):
        execute(ADDRESS + body, np.zeros(64, np.uint32), block=(64,), schedule=schedule)


# The last block to finish adds up what all blocks left behind.
LAST_BLOCK = """
    ld.param.u64 %x2, [p1]; ld.param.u64 %x3, [p2];
    mul.wide.u32 %x4, %r10, 4; add.s64 %x4, %x2, %x4;
    mul.lo.u32 %r1, %r10, %r10;
    setp.ne.u32 %p1, %r0, 0;
    @%p1 ret;
    {first}
    membar.gl;
    {second}
    setp.ne.u32 %p2, %r2, 15;
    @%p2 ret;
    mov.u32 %r3, 0; mov.u32 %r4, 0; mov.u64 %x5, %x2;
    LOOP:
    ld.global.u32 %r5, [%x5];
    add.u32 %r4, %r4, %r5; add.s64 %x5, %x5, 4; add.u32 %r3, %r3, 1;
    setp.lt.u32 %p3, %r3, 16;
    @%p3 bra LOOP;
    st.global.u32 [%x0], %r4;
"""
STORE, COUNT = "st.global.u32 [%x4], %r1;", "atom.global.add.u32 %r2, [%x3], 1;"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_last_block_combines(schedule: str) -> None:
    out, parts, count = np.zeros(1, np.uint32), np.zeros(16, np.uint32), np.zeros(1, np.uint32)
    body = ADDRESS + LAST_BLOCK.format(first=STORE, second=COUNT)
    options = {"grid": (16,), "schedule": schedule, "names": "out parts count", "initialised": {"parts": False}}
    execute(body, out, parts, count, **options)
    assert out[0] == sum(i * i for i in range(16))


def test_a_block_that_counts_itself_before_it_has_stored_is_found() -> None:
    body = ADDRESS + LAST_BLOCK.format(first=COUNT, second=STORE)
    options = {"grid": (16,), "names": "out parts count", "initialised": {"parts": False}}
    with pytest.raises(Fault, match="parts, which nobody wrote"):
        execute(body, *(np.zeros(16, np.uint32) for _ in range(3)), schedule="reverse", **options)


# Block 1 waits in a loop until block 0, which comes later in the code, has set a flag.
POLL = """
    setp.eq.u32 %p1, %r10, {setter};
    @%p1 bra SET;
    WAIT:
    ld.volatile.global.u32 %r1, [%x0];
    setp.eq.u32 %p2, %r1, 0;
    @%p2 bra WAIT;
    ret;
    SET:
    st.global.u32 [%x0], 1;
"""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_block_may_poll_for_another(schedule: str) -> None:
    flag = np.zeros(64, np.uint32)
    execute(ADDRESS + POLL.format(setter=0), flag, grid=(2,), schedule=schedule)
    assert flag[0] == 1


def test_polling_for_what_never_comes_is_a_deadlock() -> None:
    with pytest.raises(Fault, match="deadlock") as caught:
        execute(ADDRESS + POLL.format(setter=9), np.zeros(64, np.uint32), grid=(2,))
    assert caught.value.kind == "deadlock"


def test_a_trap_is_a_fault() -> None:
    with pytest.raises(Fault, match="stops itself"):
        execute("trap;", np.zeros(1, np.uint32))


def test_each_schedule_starts_the_blocks_in_its_order() -> None:
    orders = set()
    for schedule in SCHEDULES:
        order, count = np.zeros(64, np.uint32), np.zeros(1, np.uint32)
        body = (
            ADDRESS
            + """
        ld.param.u64 %x3, [p1]; setp.ne.u32 %p1, %r0, 0; @%p1 ret;
        atom.global.add.u32 %r2, [%x3], 1;
        mul.wide.u32 %x4, %r10, 4; add.s64 %x4, %x0, %x4; st.global.u32 [%x4], %r2;
        """
        )
        execute(body, order, count, grid=(64,), schedule=schedule, resident_blocks=4)
        assert sorted(order) == list(range(64))
        orders.add(tuple(order))
    assert len(orders) >= 3
