"""Routed experts: who gets rows, what is launched, and what it takes."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from kvperf.hardware import load_gpu
from kvperf.launches.experts import Experts, kernel_of, row_bytes, waves
from kvperf.launches.routing import routing
from kvperf.predict.experts import CONSTANTS, EXPERTS, SHARED, SORTED_PAIRS, stages, unused

FIRST = {constant.name: constant.start for constant in CONSTANTS}
DISTRIBUTIONS = ("uniform", "balanced", "grouped", "power_law_1.01", "power_law_1.2")


@pytest.fixture(scope="module")
def h100():
    return load_gpu("h100-sxm")


def balanced_by_brute_force(tokens, experts, topk):
    """Each pair of aiconfigurator's `balanced_logits`, one by one."""
    stride = -(-experts // topk)
    loads = [0] * experts
    for token in range(tokens):
        for slot in range(topk):
            start = token if tokens >= stride else token * stride / tokens
            loads[int(start + slot * stride) % experts] += 1
    return loads


@pytest.mark.parametrize("tokens", [1, 3, 16, 31, 32, 48, 100, 256, 1000])
@pytest.mark.parametrize(("experts", "topk", "ep"), [(256, 8, 1), (256, 8, 32), (128, 6, 2), (8, 2, 4)])
def test_balanced_rows(tokens, experts, topk, ep):
    loads = balanced_by_brute_force(tokens, experts, topk)[: experts // ep]
    found = routing(tokens, experts, topk, ep, "balanced")
    assert found.active == sum(load > 0 for load in loads)
    assert found.rows == sum(loads)
    assert found.tiles == sum(-(-load // found.tile_rows) for load in loads)


def test_one_token_through_the_grouped_router():
    """It keeps experts 0, 32, 64, 96 and fills up with 1, 2, 3, 4; 32 tokens reach all of four groups."""
    assert routing(1, 256, 8, 1, "grouped").active == 8
    assert routing(1, 256, 8, 32, "grouped").active == 5
    assert routing(1, 256, 8, 64, "grouped").active == 4
    assert routing(32, 256, 8, 1, "grouped").active == 128
    assert routing(64, 256, 8, 1, "grouped").rows == 64 * 8


def test_uniform_routing_is_the_expectation():
    found = routing(16, 256, 8, 1, "uniform")
    assert found.active == pytest.approx(101.96, abs=0.01)
    assert routing(16, 256, 8, 8, "uniform").active == pytest.approx(found.active / 8)


@pytest.mark.parametrize("tokens", [1, 4, 64, 1000])
@pytest.mark.parametrize("distribution", ["power_law_1.01", "power_law_1.2"])
def test_power_law_loads_add_up(tokens, distribution):
    assert routing(tokens, 256, 8, 1, distribution).rows == tokens * 8
    busiest = routing(tokens, 256, 8, 8, distribution)
    assert tokens * 8 / 8 <= busiest.rows <= tokens * 8
    assert busiest.active <= 32


def test_skew_leaves_experts_idle():
    assert routing(32, 256, 8, 1, "power_law_1.2").active < routing(32, 256, 8, 1, "balanced").active


def test_work_by_hand():
    launch = Experts(1, 1024, 512, 2, 8, moe_tp=2, dtype="bf16", distribution="balanced")
    assert launch.products == ((512, 1024), (1024, 256))
    routed = launch.routing
    assert launch.weight_bytes(routed) == 2 * 3 * 1024 * 256 * 2
    assert launch.flops(routed) == 2 * 2 * 3 * 1024 * 256
    plain = msgspec.structs.replace(launch, gated=False)
    assert plain.weight_bytes(routed) == 2 * 2 * 1024 * 256 * 2
    assert row_bytes(launch, routed) == 2 * (4 * 512 + 6 * 256 + 4 * 1024) + 6 * 1024


def test_waves_by_hand(h100):
    """8 experts with one tile each, 4096 columns: 256 tiles on 132 SMs, so one follows another."""
    routed = routing(1, 256, 8, 1, "balanced")
    assert waves(4096, routed, h100) == 1
    assert waves(1024, routed, h100) == 0


ALL_FORMATS = ("fp8_block", "bfloat16", "fp8", "nvfp4", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8", "int4_wo")


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("architecture", ["sm_90", "sm_100", "sm_103", "sm_120"])
def test_few_constants_and_each_once(stack, architecture):
    left_out = unused(stack, architecture)
    assert all(c.neutral is not None for c in CONSTANTS if c.name in left_out)
    ((formats, alone),) = stages(stack, architecture, ("fp8_block",))
    assert formats == ("fp8_block",)
    assert len(alone) == len(SHARED) - len(left_out) <= 8
    first, further = stages(stack, architecture, ALL_FORMATS)
    assert first == (("fp8_block",), alone)
    assert further[0] == ALL_FORMATS[1:]
    names = first[1] + further[1]
    assert len(set(names)) == len(names) <= 13
    assert set(names) <= {c.name for c in CONSTANTS}
    assert not set(names) & set(left_out)


def test_without_fp8_blocks_nothing_is_plain():
    """The shared constants are then those of the first format; a constant of its own would shadow them."""
    (_, first), (_, further) = stages("sglang", "sm_120", ("bfloat16", "nvfp4"))
    assert "launch_s" in first
    assert further == ("nvfp4_launch_s", "nvfp4_wave_s")
    assert len(stages("sglang", "sm_89", ("bfloat16", "int4_wo"))) == 1


def test_a_format_takes_its_own_constant(h100):
    launch = Experts(np.full(3, 8.0), 4096, 2048, 8, 64, dtype=np.array(["fp8_block", "bfloat16", "nvfp4"]))
    before = EXPERTS.seconds(launch, h100, FIRST)
    slower = [EXPERTS.seconds(launch, h100, FIRST | {name: FIRST[name] + 1e-4}) - before for name in OWN_LAUNCHES]
    assert np.allclose(slower, np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]) * 1e-4)
    shared = {name: value for name, value in FIRST.items() if name not in OWN_LAUNCHES[1:]}
    later = EXPERTS.seconds(launch, h100, shared | {"launch_s": FIRST["launch_s"] + 1e-4})
    assert np.allclose(later, EXPERTS.seconds(launch, h100, shared) + 1e-4)


OWN_LAUNCHES = ("launch_s", "plain_launch_s", "nvfp4_launch_s")


def test_sort_grows_until_192_pairs(h100):
    tokens = np.array([1.0, 12.0, 24.0, 96.0])
    launch = Experts(tokens, 4096, 2048, 8, 256, kernel="trtllm_gen")
    more = FIRST | {"sort_s": FIRST["sort_s"] + 1e-4}
    added = EXPERTS.seconds(launch, h100, more) - EXPERTS.seconds(launch, h100, FIRST)
    assert np.allclose(added, 1e-4 * np.minimum(1.0, 8 * tokens / SORTED_PAIRS))


def test_trtllm_gen_pads_widths():
    launch = Experts(1, 2880, 2880, 4, 32, moe_tp=8, dtype="mxfp4", kernel="trtllm_gen")
    assert launch.products == ((720, 2880), (2880, 360))
    assert launch.padded_products == ((1024, 3072), (3072, 512))
    assert msgspec.structs.replace(launch, kernel="triton").padded_products == launch.products
    bf16 = msgspec.structs.replace(launch, dtype="bf16")
    assert bf16.padded_products == ((768, 2944), (2944, 384))


def test_trtllm_gen_activates_inside():
    launch = Experts(1, 1024, 512, 2, 8, dtype="nvfp4", kernel="trtllm_gen", distribution="balanced")
    assert row_bytes(launch, launch.routing) == 2 * (2 * 0.5625 * 512 + 4 * 1024) + 6 * 1024
    blocks = msgspec.structs.replace(launch, dtype="fp8_block")
    assert row_bytes(blocks, launch.routing) == 2 * (4 * 1024 + 6 * 512 + 4 * 1024) + 6 * 1024


def test_formats_by_either_name(h100):
    for table, own in (("fp8_block", "fp8-block"), ("bfloat16", "bf16"), ("w4a16_mxfp4", "mxfp4")):
        times = [EXPERTS.seconds(Experts(8, 4096, 2048, 8, 64, dtype=name), h100, FIRST) for name in (table, own)]
        assert times[0] == times[1]
    assert kernel_of("sglang", "sm_90", "fp8-block") == kernel_of("sglang", "sm_90", "fp8_block")


def test_kernels_of_stacks():
    assert kernel_of("sglang", "sm_90", "fp8_block") == "triton"
    assert kernel_of("vllm", "sm_90", "fp8_block", 1) == "triton"
    assert kernel_of("vllm", "sm_90", "fp8_block", 8) == "grouped"
    assert kernel_of("trtllm", "sm_100", "fp8_block") == "grouped"
    assert kernel_of("vllm", "sm_100", "nvfp4") == "trtllm_gen"


@pytest.mark.parametrize("kernel", ["triton", "grouped", "cutlass", "trtllm_gen"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_one_point_is_the_array(h100, kernel, distribution):
    points = [(t, ep, tp) for t in (1, 7, 64, 500) for ep in (1, 8) for tp in (1, 4)]
    tokens, ep, tp = (np.array(axis, dtype=float) for axis in zip(*points, strict=True))
    fields = {"dtype": "fp8_block", "kernel": kernel, "distribution": distribution}
    times = EXPERTS.seconds(Experts(tokens, 7168.0, 2048.0, 8.0, 256.0, tp, ep, **fields), h100, FIRST)
    names = Experts(
        tokens, 7168.0, 2048.0, 8.0, 256.0, tp, ep, *(np.full(len(points), fields[f]) for f in ("dtype",)),
        kernel=np.full(len(points), kernel), distribution=np.full(len(points), distribution),
    )  # fmt: skip
    assert (EXPERTS.seconds(names, h100, FIRST) == times).all()
    for (t, e, p), time in zip(points, times, strict=True):
        one = Experts(t, 7168, 2048, 8, 256, p, e, **fields)
        assert EXPERTS.seconds(one, h100, FIRST) == time
        assert time > EXPERTS.floor(one, h100)


def test_more_bytes_take_longer(h100):
    launch = Experts(64, np.arange(1024.0, 9000.0, 128.0), 2048, 8, 256)
    assert (np.diff(EXPERTS.seconds(launch, h100, FIRST)) > 0).all()
    bf16 = msgspec.structs.replace(launch, dtype="bf16")
    assert (EXPERTS.seconds(bf16, h100, FIRST) > EXPERTS.seconds(launch, h100, FIRST)).all()


def test_more_tokens_touch_more_experts():
    for distribution in ("uniform", "balanced", "grouped"):
        active = routing(np.arange(1.0, 200.0), 256, 8, 1, distribution).active
        assert (np.diff(active) >= 0).all()


def test_plain_numbers_need_no_numpy():
    code = (
        "import sys; from kvperf.hardware import load_gpu; from kvperf.launches.experts import Experts;"
        "from kvperf.predict.experts import EXPERTS, CONSTANTS;"
        "c = {k.name: k.start for k in CONSTANTS}; g = load_gpu('h100-sxm');"
        "[EXPERTS.seconds(Experts(64, 7168, 2048, 8, 256, moe_ep=8, distribution=d), g, c)"
        " for d in ('uniform', 'balanced', 'power_law_1.2')];"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("gpu", "stack", "version", "limit"),
    [("h100-sxm", "vllm", "0.24.0", 0.10), ("h200-sxm", "trtllm", "1.3.0rc20", 0.075)],
)
def test_held_out_shapes(gpu, stack, version, limit):
    for needed in ("aiconfigurator_core", "pyarrow", "scipy"):
        pytest.importorskip(needed)
    from kvperf.calibrate.fit import fit
    from kvperf.calibrate.score import score
    from kvperf.silicon.experts import rows

    loaded = load_gpu(gpu)
    measured = rows(gpu, stack, version)
    possible = measured.measured_s >= EXPERTS.floor(measured.launch, loaded)
    assert possible.mean() > 0.99
    parts = measured.parts()
    fitted = measured.where(((parts == "fit") & possible) & (np.arange(len(parts)) % 3 == 0))
    held_out = measured.where((parts == "score") & possible)
    left_out = unused(stack, loaded.architecture.name)
    shared = msgspec.structs.replace(EXPERTS, constants=SHARED)
    constants = fit(shared, fitted, loaded, without=left_out, polish=False)
    assert score(EXPERTS.seconds(held_out.launch, loaded, constants), held_out.measured_s).mean < limit


def test_stand_ins_are_counted():
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pyarrow")
    from kvperf.silicon.experts import excluded, rows

    assert excluded("h100-sxm", "vllm", "0.24.0")["fp8"] == (14418, 14418)
    assert excluded("h100-sxm", "vllm", "0.24.0")["fp8_block"][0] == 0
    assert rows("h100-sxm", "vllm", "0.24.0", ("fp8",)).keys == []
    unpacked = rows("h100-sxm", "sglang", "0.5.14", ("w4a16_mxfp4",))
    assert set(unpacked.launch.dtype) == {"bfloat16"}


def test_less_work_that_takes_longer_is_a_bad_tactic():
    from kvperf.silicon.experts import slower_with_less
    from kvperf.silicon.rows import Rows

    ep = np.array([1.0, 2.0, 4.0])
    launch = Experts(
        np.full(3, 8.0), 64, 64, 2, 8, np.ones(3), ep, np.full(3, "bfloat16"), kernel=np.full(3, "cutlass"),
        distribution=np.full(3, "balanced"),
    )  # fmt: skip
    found = slower_with_less(Rows(launch, np.array([1.0, 1.4, 1.2]), ["a"] * 3))
    assert found.tolist() == [False, True, False]
