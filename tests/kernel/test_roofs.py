"""Roofs of a kernel's design: Little's law, arithmetic, L2 traffic, issue rate, and reading a disassembly."""

from __future__ import annotations

import pytest

from kvperf.hardware import load_gpu
from kvperf.kernel.account import KernelAccount, account
from kvperf.kernel.flight import Holding, in_flight, wait_s
from kvperf.kernel.geometry import Shape
from kvperf.kernel.issue import issue_s
from kvperf.kernel.roofs import l2_s
from kvperf.kernel.sass import counted, functions
from tests.nvrtc import needs_nvrtc

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
    assert (found["first"][5].guard, found["first"][5].target) == ("@!P1", 0x10)


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


def described(name: str, gpu: str = "h100", splits: int | None = None, **changes: object) -> KernelAccount:
    sizes = {"batch": 4, "heads": 32, "kv_heads": 8, "head_dim": 128, "seq": 4096, "dtype": "bf16", **changes}
    return account(name, Shape(**sizes), load_gpu(gpu), splits)  # type: ignore[arg-type]


def test_waiting_adds_up_over_launches_and_asks_the_l2_for_what_is_read_again() -> None:
    h100 = load_gpu("h100")
    hbm, l2 = 570.5 / 1.98e9, 219 / 1.98e9
    once = Holding(1024, 131072, 1000_000, 1000_000)
    again = Holding(1024, 131072, 4000_000, 1000_000)
    assert wait_s(h100, [once]) == pytest.approx(1e6 * hbm / 131072)
    assert wait_s(h100, [once, again]) == pytest.approx((2e6 * hbm + 3e6 * l2) / 131072)
    assert wait_s(load_gpu("b200"), [again]) is None  # nobody knows the latency of its L2
    assert wait_s(load_gpu("b200"), [once]) is not None
    assert wait_s(h100, []) is None


@needs_nvrtc
def test_a_block_holds_no_more_than_its_split_has() -> None:
    assert described("split_kv", batch=1, seq=1).in_flight.held_bytes_per_sm == 512  # one key and one value
    assert described("tensor_cores", batch=1, seq=8).in_flight.held_bytes_per_sm == 8 * 512
    assert described("mla", batch=1, kv_heads=1, head_dim=576, seq=1).in_flight.held_bytes_per_sm == 1152


@needs_nvrtc
def test_enough_in_flight_is_no_limit_and_too_little_is_one_above_the_bound() -> None:
    enough, little = described("vector_loads"), described("flash", batch=1)
    assert enough.in_flight.limits is False
    assert enough.roofs.flight_s is None
    assert little.in_flight.limits is True
    # 32 blocks hold 16 KiB each; K and V are read once at the latency of the HBM and three times at that of the L2.
    once = 2 * 8 * 4096 * 128 * 2
    expected = (once * 570.5 + 3 * once * 219) / 1.98e9 / (32 * 16384)
    assert little.roofs.flight_s == pytest.approx(expected)


@needs_nvrtc
def test_three_passes_wait_in_both_launches_that_read_the_cache() -> None:
    found = described("three_pass")
    once, hbm, l2 = 4 * 8 * 4096 * 128 * 2, 570.5 / 1.98e9, 219 / 1.98e9
    scores = (once * hbm + 3 * once * l2) / (16 * 132 * 32 * 256)
    values = (once * hbm + 3 * once * l2) / (128 * 4 * 256)
    assert found.roofs.flight_s == pytest.approx(scores + values)
    assert found.roofs.issue_s is None


@needs_nvrtc
def test_matrix_kernels_multiply_at_the_rate_of_mma_sync() -> None:
    """The peak of wgmma is no rate of theirs, and an accumulator in fp16 is not what they use."""
    tiles = 4 * 8 * 4096 // 16
    ampere = described("int8_mma", "a100")
    assert ampere.roofs.tensor_s == pytest.approx(tiles * 8 * 8192 / 624e12 + tiles * 16 * 4096 / 312e12)
    assert ampere.arithmetic_rates == {"m16n8k32.s8": 624e12, "m16n8k16.f16": 312e12}
    assert described("int8_mma").roofs.tensor_s is None  # nobody says what mma.sync does with bytes on an H100
    assert described("tensor_cores").roofs.tensor_s == pytest.approx(tiles * 32 * 4096 / 633.1e12)
    assert described("tensor_cores", "rtx-3090", dtype="fp16").arithmetic_rates == {"m16n8k16.f16": 71.2e12}
    assert described("tensor_cores", "b200").roofs.tensor_s is None


@needs_nvrtc
def test_the_estimate_is_never_the_slowest_roof() -> None:
    found = described("vector_loads", batch=1, seq=64)
    known = found.roofs
    assert known.issue_s is not None
    times = [known.hbm_s, known.tensor_s, known.l2_s, known.flight_s]
    assert found.design_s == max(float(t) for t in times if t is not None)
    assert found.slowest_roof in ("hbm", "tensor", "l2", "flight")
