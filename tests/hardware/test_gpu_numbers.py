"""Published numbers: what datasheets, papers and other people's tables say must come out."""

from __future__ import annotations

import pytest

from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu


@pytest.mark.parametrize(
    ("name", "operand", "ridge", "tolerance"),
    [
        ("h100", "bf16", 295, 0.002),
        ("h100", "fp8", 592, 0.003),
        ("h200", "bf16", 206, 0.002),
        ("a100", "bf16", 153, 0.002),
        ("a100-40gb", "bf16", 201, 0.002),
        ("l4", "bf16", 403, 0.002),
        ("4090", "bf16", 164, 0.002),
        ("mi300x", "bf16", 247, 0.002),
        ("gb200", "bf16", 312, 0.002),
        ("t4", "fp16", 203, 0.003),
    ],
)
def test_ridge_points(name: str, operand: str, ridge: float, tolerance: float) -> None:
    gpu = load_gpu(name)
    assert gpu.peak(operand).flops_per_s / gpu.hbm_bytes_per_s == pytest.approx(ridge, rel=tolerance)


def test_b200_at_the_rounded_bandwidth_of_its_datasheet() -> None:
    assert load_gpu("b200").peak("bf16").flops_per_s / 8e12 == pytest.approx(281, rel=0.002)


@pytest.mark.parametrize(
    ("name", "ridge"), [("a100", 9.6), ("b200", 9.7), ("h100", 20.0), ("l40s", 106), ("5090", 58.5)]
)
def test_cuda_core_ridge_points(name: str, ridge: float) -> None:
    gpu = load_gpu(name)
    assert gpu.cuda_core_flops_per_s is not None
    assert gpu.cuda_core_flops_per_s / gpu.hbm_bytes_per_s == pytest.approx(ridge, rel=0.005)


@pytest.mark.parametrize(
    ("name", "operand", "tflops", "dtype", "path"),
    [
        ("h100", "bf16", 989.4, "bf16", "wgmma"),
        ("h100", "fp8", 1978.9, "fp8", "wgmma"),
        ("h100", "fp4", 1978.9, "fp8", "wgmma"),
        ("h100", "fp32", 66.9, "fp32", "cuda_core"),
        ("v100", "bf16", 15.7, "fp32", "cuda_core"),
        ("v100", "fp16", 125, "fp16", "mma.sync"),
        ("v100", "int8", 125, "fp16", "mma.sync"),
        ("a100", "int4", 1248, "int4", "mma.sync"),
        ("b200", "fp4", 9000, "fp4", "tcgen05"),
        ("4090", "fp16", 165.2, "fp16", "mma.sync"),
        ("4090", "fp8", 330.3, "fp8", "mma.sync"),
        ("5090", "bf16", 209.5, "bf16", "mma.sync"),
        ("rtx-pro-6000", "bf16", 503.8, "bf16", "mma.sync"),
        ("mi250x", "fp32", 95.7, "fp32", "mfma"),
    ],
)
def test_fastest_exact_unit(name: str, operand: str, tflops: float, dtype: str, path: str) -> None:
    peak = load_gpu(name).peak(operand)
    assert (peak.flops_per_s, peak.dtype, peak.path) == (pytest.approx(tflops * 1e12), dtype, path)


@pytest.mark.parametrize(("name", "operand", "tflops"), [("a100", "fp8", 312), ("b300", "int8", 2250)])
def test_a_missing_or_crippled_unit_falls_back_to_16_bits(name: str, operand: str, tflops: float) -> None:
    peak = load_gpu(name).peak(operand)
    assert peak.flops_per_s == pytest.approx(tflops * 1e12)
    assert peak.dtype in ("fp16", "bf16")


def test_mma_sync_on_hopper_is_not_the_wgmma_peak() -> None:
    """685 TFLOP/s at 1980 MHz were measured with WMMA: 64 % of wgmma, clock for clock."""
    stated = {(p.dtype, p.path): p.value for p in load_gpu("h100").profile.peaks}
    assert stated["bf16", "mma.sync"] / stated["bf16", "wgmma"] == pytest.approx(0.64, abs=0.005)


def test_measured_ceilings() -> None:
    h100 = load_gpu("h100")
    assert h100.measured_hbm_bytes_per_s == 3.17e12  # a decode kernel reads faster than the best copy, 3.05
    assert h100.measured_peak("bf16") == 956e12
    assert h100.measured_peak("fp16") == 956e12  # one unit, one rate
    assert h100.measured_peak("fp8") == 1633e12
    assert h100.measured_peak("int8") is None
    assert h100.measured_peak("fp32") is None
    assert load_gpu("b300").measured_peak("int8") == 2225e12
    assert load_gpu("a100").measured_hbm_bytes_per_s == 1.794e12  # not the 1894 GB/s of stores alone
    assert load_gpu("b100").measured_hbm_bytes_per_s is None


def test_a_reading_above_the_rated_clock_is_no_ceiling() -> None:
    """An RTX 5090 reached 247 TFLOP/s at 2.9 GHz; at its rated clock 209.5 is the peak."""
    assert load_gpu("5090").measured_peak("fp16") is None


def test_readings_of_a_sister_card_are_not_this_ones() -> None:
    l40s = load_gpu("l40s")
    assert any(m.on == "L40" and m.value > 760e9 for m in l40s.profile.measured)
    assert l40s.measured_hbm_bytes_per_s == 760e9  # its own decode attention, not the L40's 845 of a stream
    assert l40s.graph_launch_s is None
    assert all(level.latency_cycles is None for level in l40s.levels()[1:])


def test_other_ceilings_of_the_h100() -> None:
    """FlashAttention-3: 3.9 T/s at 1.83 GHz; FlashMLA: 2.68 T elements/s at 1.98 GHz."""
    h100 = load_gpu("h100")
    assert h100.exponentials_per_s == 16 * 132 * 1.98e9
    assert h100.conversions_per_s == pytest.approx(2.676e12, rel=0.001)
    assert h100.mma_rows == 64
    assert h100.link_bytes_per_s == 450e9
    assert h100.host_bytes_per_s == 64e9
    assert h100.l2_capacity_bytes == 52_428_800
    assert h100.l2_bytes_per_s == 4.863e12
    assert h100.graph_launch_s is None
    assert load_gpu("gh200").graph_launch_s == 1.27e-6
    assert load_gpu("b300").exponentials_per_s == 32 * 148 * 2.032e9
    assert load_gpu("a100").conversions_per_s is None


@pytest.mark.parametrize(("name", "rows"), [("v100", 8), ("a100", 16), ("h100", 64), ("b200", 64), ("5090", 16)])
def test_tile_rows(name: str, rows: int) -> None:
    assert load_gpu(name).mma_rows == rows


@pytest.mark.parametrize(
    ("name", "capacity"),
    [("h100", 84_942_979_072), ("h200", 143_771 << 20), ("b200", 191_514_411_008), ("t4", 16 << 30)],
)
def test_capacity_is_what_the_driver_shows_where_known(name: str, capacity: int) -> None:
    assert load_gpu(name).hbm_capacity_bytes == capacity


def test_latency_of_the_h100() -> None:
    by_name = {level.name: level for level in load_gpu("h100").levels()}
    assert by_name["registers"].latency_cycles == (4, 4)
    assert by_name["registers"].size_bytes == 256 * 1024
    assert by_name["shared memory"].bandwidth_bytes_per_s == pytest.approx(128 * 132 * 1.98e9)
    assert by_name["L2 cache"].latency_cycles == (219, 291)
    assert by_name["HBM3"].latency_cycles == (570.5, 834)
    assert by_name["HBM3"].latency_ns == pytest.approx((288.1, 421.2), rel=0.001)
    gh200 = {level.name: level for level in load_gpu("gh200").levels()}
    assert gh200["L2 cache"].far_latency_cycles == (490, 490)


def test_latency_in_nanoseconds_becomes_cycles_at_its_clock() -> None:
    hbm = load_gpu("b200").levels()[-1]
    assert hbm.latency_cycles == pytest.approx((845, 900), rel=0.001)
    assert hbm.latency_ns == pytest.approx((430, 458))


def test_an_operand_without_a_unit_is_an_error() -> None:
    with pytest.raises(KvperfError, match="b100 lists no unit that multiplies fp32"):
        load_gpu("b100").peak("fp32")
