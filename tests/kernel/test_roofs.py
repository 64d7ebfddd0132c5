"""Roofs of a kernel's design: Little's law, L2 traffic, issue rate, and reading a disassembly."""

from __future__ import annotations

import pytest

from kvperf.hardware import load_gpu
from kvperf.kernel.roofs import in_flight, issue_s, l2_s
from kvperf.kernel.sass import counted, functions, loops, main_loop

LISTING = """
\tcode for sm_90
\t\tFunction : first
        /*0000*/                   S2R R0, SR_TID.X ;      /* 0x0000000000287919 */
                                                           /* 0x000e2e0000002100 */
        /*0010*/                   IADD3 R1, R0, 0x1, RZ ; /* 0x0 */
        /*0020*/                   LDG.E.128 R4, [R2.64] ; /* 0x0 */
        /*0030*/                   FFMA R5, R4, R4, R5 ;   /* 0x0 */
        /*0040*/               @P0 BRA.DIV UR5, 0x10 ;     /* 0x0 */
        /*0050*/              @!P1 BRA 0x10 ;              /* 0x0 */
        /*0060*/                   FADD R5, R5, R5 ;       /* 0x0 */
        /*0070*/               @P1 BRA 0x60 ;              /* 0x0 */
        /*0080*/                   EXIT ;                  /* 0x0 */
        /*0090*/                   BRA 0x90 ;              /* 0x0 */
\t\tFunction : second
        /*0000*/                   EXIT ;                  /* 0x0 */
"""


def test_a_listing_is_read_kernel_by_kernel() -> None:
    found = functions(LISTING)
    assert set(found) == {"first", "second"}
    assert [i.name for i in found["first"]][:3] == ["S2R", "IADD3", "LDG.E.128"]
    assert counted(found["first"])["FFMA"] == 1


def test_the_main_loop_is_the_longest_that_moves_data() -> None:
    first = functions(LISTING)["first"]
    assert [(loop.first, loop.last) for loop in loops(first)] == [(0x10, 0x50), (0x60, 0x70)]
    loop = main_loop(first)
    assert loop is not None
    assert len(loop.instructions) == 5
    assert main_loop(functions(LISTING)["second"]) is None


def test_littles_law_on_a_b200() -> None:
    """An unloaded latency of 430 ns and 7.7 TB/s need 22 KB an SM (lookup1980/microbench-blackwell)."""
    b200 = load_gpu("b200")
    found = in_flight(b200, 16384, 148)
    assert found.needed_bytes_per_sm is not None and found.bytes_per_s is not None
    low, high = found.needed_bytes_per_sm
    assert low <= 7.7e12 * 450e-9 / 148 and high >= 7.7e12 * 430e-9 / 148
    assert found.bytes_per_s[1] < b200.hbm_bytes_per_s
    enough = in_flight(b200, 128 * 1024, 148)
    assert enough.bytes_per_s == (b200.hbm_bytes_per_s, b200.hbm_bytes_per_s)


def test_half_the_sms_reach_half_the_bandwidth() -> None:
    h100 = load_gpu("h100")
    all_of_them, half = in_flight(h100, 4096, 132), in_flight(h100, 4096, 66)
    assert all_of_them.bytes_per_s is not None and half.bytes_per_s is not None
    assert half.bytes_per_s[0] == pytest.approx(all_of_them.bytes_per_s[0] / 2)


def test_unknown_latency_and_l2_stay_unknown() -> None:
    assert in_flight(load_gpu("l4"), 4096, 58).bytes_per_s is None
    assert l2_s(load_gpu("b200"), 1e9) is None
    assert l2_s(load_gpu("h100"), 4.863e12) == pytest.approx(1)


def test_four_instructions_a_clock_and_sm() -> None:
    assert issue_s(load_gpu("h100"), 4 * 132 * 1.98e9, 132) == pytest.approx(1)
    assert issue_s(load_gpu("h100"), 1.0, 0) is None
