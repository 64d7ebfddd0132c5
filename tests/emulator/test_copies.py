"""cp.async, bulk copies and mbarriers: what has not been waited for is not there."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import SCHEDULES, Fault
from tests.emulator.ptx import execute

START = """
    .shared .align 128 .b8 tile[2048];
    .shared .align 8 .b8 full[8];
    ld.param.u64 %x0, [p0]; ld.param.u64 %x9, [p1]; mov.u32 %r0, %tid.x;
    mul.wide.u32 %x1, %r0, 16; add.s64 %x2, %x9, %x1; add.s64 %x1, %x0, %x1;
    mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r2, %r1, %r2;
"""
OUT = "ld.shared.v4.u32 {%r4,%r5,%r6,%r7}, [%r2]; st.global.v4.u32 [%x2], {%r4,%r5,%r6,%r7};"
SOURCE = np.arange(128, dtype=np.uint32)


def copied(body: str, **options: object) -> np.ndarray:
    out = np.zeros(128, np.uint32)
    copied.counts = execute(START + body, SOURCE.copy(), out, names="source out", **options).counts  # type: ignore[arg-type,attr-defined]
    return out


ISSUE = "cp.async.cg.shared.global.L2::256B [%r2], [%x1], 16;"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_copy_that_is_waited_for(schedule: str) -> None:
    out = copied(ISSUE + "cp.async.commit_group; cp.async.wait_group 0;" + OUT, schedule=schedule)
    assert (out == SOURCE).all()
    assert copied.counts.loads["source"].bytes == copied.counts.copied_bytes["source"] == 512  # type: ignore[attr-defined]
    assert (copied(ISSUE + "cp.async.wait_all;" + OUT, schedule=schedule) == SOURCE).all()


@pytest.mark.parametrize("wait", ["", "cp.async.commit_group; cp.async.wait_group 1;", "cp.async.wait_group 0;"])
def test_a_copy_that_is_not(wait: str) -> None:
    with pytest.raises(Fault, match="nobody wrote"):
        copied(ISSUE + wait + OUT)


def test_groups_are_waited_for_in_order() -> None:
    second = ISSUE.replace("[%r2]", "[%r2+512]")
    body = f"{ISSUE} cp.async.commit_group; {second} cp.async.commit_group; cp.async.wait_group 1; {OUT}"
    assert (copied(body) == SOURCE).all()
    with pytest.raises(Fault, match="nobody wrote"):
        copied(
            body.replace("ld.shared.v4.u32 {%r4,%r5,%r6,%r7}, [%r2]", "ld.shared.v4.u32 {%r4,%r5,%r6,%r7}, [%r2+512]")
        )


def test_a_source_cut_short_is_filled_with_zeros() -> None:
    body = """
    setp.lt.u32 %p1, %r0, 16; selp.u32 %r9, 16, 4, %p1;
    setp.lt.u32 %p2, %r0, 31; selp.u32 %r9, %r9, 0, %p2;
    cp.async.cg.shared.global [%r2], [%x1], 16, %r9;
    cp.async.wait_all;
    """
    out = copied(body + OUT).reshape(32, 4)
    assert (out[:16] == SOURCE.reshape(32, 4)[:16]).all()
    assert (out[16:31, 0] == SOURCE.reshape(32, 4)[16:31, 0]).all()
    assert not out[16:, 1:].any()
    assert not out[31].any()
    assert copied.counts.loads["source"].bytes == 16 * 16 + 15 * 4  # type: ignore[attr-defined]


LEADER = "setp.eq.u32 %p1, %r0, 0; mov.u32 %r10, full;"
INIT = "@%p1 mbarrier.init.shared::cta.b64 [%r10], 1; bar.sync 0;"
EXPECT = "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 %x5, [%r10], {bytes};"
BULK = "@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%x0], 512, [%r10];"
WAIT = """
    WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r10], {parity};
    @!%p2 bra WAIT;
"""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_bulk_copy_completes_on_its_mbarrier(schedule: str) -> None:
    body = LEADER + INIT + EXPECT.format(bytes=512) + BULK + WAIT.format(parity=0) + OUT
    assert (copied(body, schedule=schedule) == SOURCE).all()
    assert copied.counts.loads["source"].bytes == 512  # type: ignore[attr-defined]
    assert copied.counts.loads["source"].sectors == 16  # type: ignore[attr-defined]
    assert (copied(body.replace("try_wait", "test_wait"), schedule=schedule) == SOURCE).all()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (LEADER + INIT + EXPECT.format(bytes=512) + BULK + OUT, "uninitialised"),
        (LEADER + INIT + EXPECT.format(bytes=512) + BULK + WAIT.format(parity=1) + OUT, "uninitialised"),
        (LEADER + INIT + EXPECT.format(bytes=528) + BULK + WAIT.format(parity=0) + OUT, "deadlock"),
        (LEADER + EXPECT.format(bytes=512) + BULK + WAIT.format(parity=0) + OUT, "mbarrier"),
        (LEADER + INIT + BULK.replace("512", "528") + OUT, "bounds"),
        (LEADER + INIT + BULK.replace("512", "500") + OUT, "alignment"),
    ],
)
def test_faults_of_bulk_copies(body: str, kind: str) -> None:
    with pytest.raises(Fault) as caught:
        copied(body)
    assert caught.value.kind == kind


def test_an_mbarrier_counts_the_arrivals_of_its_phase() -> None:
    out = np.zeros(64, np.uint32)
    body = """
    .shared .align 8 .b8 gate[8];
    .shared .align 4 .b8 word[4];
    ld.param.u64 %x0, [p0]; mov.u32 %r0, %tid.x; mul.wide.u32 %x1, %r0, 4; add.s64 %x1, %x0, %x1;
    mov.u32 %r10, gate; setp.eq.u32 %p1, %r0, 0;
    @%p1 mbarrier.init.shared.b64 [%r10], 64;
    @%p1 st.shared.u32 [word], 0;
    bar.sync 0;
    red.shared.add.u32 [word], %r0;
    mbarrier.arrive.shared.b64 %x3, [%r10];
    WAIT:
    mbarrier.try_wait.shared.b64 %p2, [%r10], %x3;
    @!%p2 bra WAIT;
    ld.shared.u32 %r5, [word];
    st.global.u32 [%x1], %r5;
    """
    for schedule in SCHEDULES:
        execute(body, out, block=(64,), schedule=schedule)
        assert out.tolist() == [sum(range(64))] * 64
    with pytest.raises(Fault, match="more arrivals"):
        execute(body.replace("[%r10], 64;", "[%r10], 63;"), out, block=(64,))
