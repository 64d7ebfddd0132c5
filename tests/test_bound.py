"""The bound against published speed-of-light figures, ridge points and hand arithmetic."""

from __future__ import annotations

import pytest

import kvperf
from kvperf.bound import ridge_flops_per_byte
from kvperf.hardware import load_gpu
from kvperf.workload import visible_pairs

# Llama-3.1-8B, H100 SXM, bf16, context 4096. Floor: weights except the input embedding and KV once over
# 3.35 TB/s. Independent: aiconfigurator 0.12.0, `cli estimate --database-mode SOL` (TPOT, ms).
SPEED_OF_LIGHT = [(1, 4.641, 4.644), (16, 7.045, 7.093), (64, 14.737, 14.930)]


@pytest.mark.parametrize(("batch", "floor_ms", "independent_ms"), SPEED_OF_LIGHT)
def test_llama_on_h100_agrees_with_an_independent_speed_of_light(
    batch: int, floor_ms: float, independent_ms: float
) -> None:
    step = kvperf.analyze(gpu="h100", model="llama-3.1-8b", batch=batch, seq=4096).step
    bytes_once = 15_009_849_344 + batch * 536_870_912
    assert step.bound_s >= bytes_once / 3.35e12
    assert round(step.bound_s * 1e3, 3) >= floor_ms
    assert step.bound_s * 1e3 == pytest.approx(independent_ms, rel=0.02)
    assert step.bound_by == "hbm"


# (FLOP/s, byte/s, published FLOP/byte, tolerance, source)
RIDGES = [
    (1e15, 3.35e12, 298, 0.003, "jax-ml/scaling-book roofline.md, problem 5"),
    (989.4e12, 3.35e12, 295, 0.002, "modal-labs/gpu-glossary perf/memory-bandwidth.md, H100 bf16"),
    (1979e12, 3.35e12, 592, 0.003, "modal-labs/gpu-glossary perf/memory-bandwidth.md, H100 fp8 (exact 590.7)"),
    (2250e12, 8e12, 281, 0.002, "modal-labs/gpu-glossary perf/memory-bandwidth.md, B200 bf16"),
    (312e12, 1.5e12, 208, 0.0, "Stanford CS336 lecture 10, A100 40 GB"),
    (
        865e12 / 2,
        3.35e12,
        128,
        0.01,
        "deepseek-ai/FlashMLA docs/20250422: heads × tokens where MLA turns compute-bound",
    ),
]


@pytest.mark.parametrize(("flops", "bandwidth", "published", "tolerance", "source"), RIDGES, ids=lambda v: str(v)[:40])
def test_published_ridge_points(
    flops: float, bandwidth: float, published: float, tolerance: float, source: str
) -> None:
    assert ridge_flops_per_byte(flops, bandwidth) == pytest.approx(published, rel=tolerance or 1e-12)


def test_the_ridge_of_a_profile_is_its_peak_over_its_bandwidth() -> None:
    gpu = kvperf.analyze(gpu="h100").gpu
    assert gpu.ridge_flops_per_byte == pytest.approx(989.4e12 / 3.35e12)
    assert kvperf.analyze(gpu="h100", weight_dtype="fp8", activation_dtype="fp8").gpu.ridge_flops_per_byte == (
        pytest.approx(1978.9e12 / 3.35e12)
    )


def test_causal_attention_flops_of_flash_attention() -> None:
    """Dao-AILab/flash-attention benchmarks/benchmark_flash_attention.py, flops(): 4·B·S²·H·D/2; it halves S²."""
    published, batch, seq, heads, dim = 274_877_906_944, 2, 4096, 32, 128
    pairs = batch * visible_pairs(seq, seq)
    assert 4 * heads * dim * pairs == pytest.approx(published, rel=1 / seq)


def test_attention_alone() -> None:
    record = kvperf.analyze(gpu="h100", heads=32, kv_heads=32, head_dim=128, batch=4, seq=4096)
    assert record.step.matrix_flops == 268_435_456
    assert record.step.hbm_bytes == 268_500_992
    assert f"{record.step.flops_per_byte:.2f}" == "1.00"
    found = record.attention
    assert found is not None
    assert found.qk_flops == found.av_flops == 134_217_728
    assert found.key_bytes == found.value_bytes == 134_217_728
    assert found.query_bytes == found.output_bytes == 32_768
    assert found.tensor_s == pytest.approx(268_435_456 / 989.4e12)
    assert found.hbm_s == pytest.approx(268_500_992 / 3.35e12)
    assert found.mma_utilisation_by_tile_rows["16"] == 1 / 16
    assert found.mma_utilisation_by_tile_rows["64"] == 1 / 64


def test_packing_query_heads_fills_the_tile() -> None:
    packed = kvperf.analyze(gpu="h100", heads=32, kv_heads=4, batch=4).attention
    assert packed is not None
    assert packed.mma_utilisation_by_tile_rows["16"] == 8 / 16


@pytest.mark.parametrize(
    ("gpu", "weights", "activations", "operand", "path"),
    [
        ("h100", "fp8", "fp8", "fp8", "wgmma"),
        ("h100", "fp8", "bf16", "bf16", "wgmma"),
        ("h100", "int4", "bf16", "bf16", "wgmma"),
        ("a100", "fp8", "fp8", "fp8", "mma.sync"),
        ("v100", "bf16", "bf16", "bf16", "cuda_core"),
        ("b300", "int8", "int8", "int8", "tcgen05"),
        ("h100", "fp32", "fp32", "fp32", "cuda_core"),
        ("h100", "bf16", "fp16", "tf32", "wgmma"),
        ("h100", "int4", "mxfp4", "fp8", "wgmma"),
        ("h100", "int8", "fp8", "fp16", "wgmma"),
    ],
)
def test_the_fastest_unit_that_multiplies_the_operands(
    gpu: str, weights: str, activations: str, operand: str, path: str
) -> None:
    record = kvperf.analyze(gpu=gpu, weight_dtype=weights, activation_dtype=activations)
    peaks = {p.operand: p for p in record.gpu.peaks}
    assert operand in peaks
    assert peaks[operand].path == path


def test_fp8_on_an_a100_runs_no_faster_than_fp16() -> None:
    a100 = load_gpu("a100")
    assert a100.peak("fp8").flops_per_s == a100.peak("fp16").flops_per_s == 312e12
    assert load_gpu("b300").peak("int8").flops_per_s == load_gpu("b300").peak("bf16").flops_per_s


def test_a_measured_roof_is_slower_than_the_datasheet() -> None:
    for name in ("h100", "h200", "b200", "a100"):
        step = kvperf.analyze(gpu=name).step
        assert step.achievable_s is not None
        assert step.achievable_s > step.bound_s
    assert kvperf.analyze(gpu="l4").step.achievable_s is None  # nothing was measured there


def test_logits_for_a_sampler_on_the_cpu_leave_over_pcie() -> None:
    stages = {s.name: s for s in kvperf.analyze(gpu="h100", sampling="cpu", batch=8).stages}
    assert stages["sampling"].link_bytes == 2 * 8 * 128256  # in the dtype of the activations
    assert stages["sampling"].bound_by == "link"
    assert stages["sampling"].bound_s == pytest.approx(2 * 8 * 128256 / 64e9)


def test_a_chosen_activation_dtype_counts_whatever_the_weights_are() -> None:
    chosen = kvperf.analyze(phase="prefill", activation_dtype="fp8")
    both = kvperf.analyze(phase="prefill", activation_dtype="fp8", weight_dtype="bf16")
    assert chosen.step == both.step
    assert chosen.step.activation_bytes < kvperf.analyze(phase="prefill").step.activation_bytes


def test_ceilings_of_operands_that_borrow_a_unit_are_unknown() -> None:
    a100 = kvperf.analyze(gpu="a100", weight_dtype="fp8", activation_dtype="fp8").step
    assert a100.ceilings.conversion_s is None  # fp8 runs on the fp16 unit: something converts, at no known rate
    v100 = {s.name: s for s in kvperf.analyze(gpu="v100").stages}
    assert v100["mlp"].mma_utilisation is None  # bf16 runs on CUDA cores there
    h100 = kvperf.analyze(gpu="h100", kv_dtype="fp8").step
    assert h100.ceilings.conversion_s == pytest.approx(536_870_912 / 2 / 2.676e12, rel=1e-3)
