"""Latent attention: how the kernels cut it, and what it takes."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from kvperf.hardware import load_gpu
from kvperf.launches.latent_attention import LatentAttention, kernel_of, plan, scratch_bytes
from kvperf.launches.latent_prefill import LatentPrefill, form_of
from kvperf.predict.latent_attention import CONSTANTS, LATENT_ATTENTION, unused
from kvperf.predict.latent_prefill import CONSTANTS as PREFILL_CONSTANTS
from kvperf.predict.latent_prefill import LATENT_PREFILL

FIRST = {constant.name: constant.start for constant in CONSTANTS}
PREFILL_FIRST = {constant.name: constant.start for constant in PREFILL_CONSTANTS}
SHAPES = [(h, b, s) for h in (1, 16, 32, 64, 128) for b in (1, 3, 64, 1024) for s in (1, 200, 257, 4096, 131072)]
KERNELS = [("h100-sxm", "flash_mla"), ("h100-sxm", "fa3"), ("b200", "trtllm_gen")]


@pytest.fixture(scope="module")
def gpus():
    return {name: load_gpu(name) for name in ("h100-sxm", "b200")}


def test_work_by_hand():
    launch = LatentAttention(128, 2, 1000)
    assert launch.kv_bytes == 2 * 1000 * 576 * 2
    assert launch.flops == 2 * 128 * (576 + 512) * 2 * 1000
    assert msgspec.structs.replace(launch, kv="fp8").kv_bytes == launch.kv_bytes / 2


def test_kernels_of_stacks():
    assert kernel_of("trtllm", "sm_90") == "flash_mla"
    assert kernel_of("sglang", "sm_90") == "fa3"
    assert {kernel_of(stack, "sm_100") for stack in ("sglang", "trtllm")} == {"trtllm_gen"}
    assert form_of("sglang", "sm_90") == "absorbed"
    assert form_of("trtllm", "sm_90") == form_of("sglang", "sm_100") == "expanded"


def test_flashmla_deals_blocks_evenly(gpus):
    """64 blocks on 132 SMs: one each. 128 heads are two tiles: 66 lanes, so 1024 blocks make 16 each and 64 parts."""
    one = plan(LatentAttention(16, 1, 4096), gpus["h100-sxm"])
    assert (one.splits, one.cta_keys, one.sequences, one.kv_reads) == (64, 64, 1, 1)
    two = plan(LatentAttention(128, 1, 65536), gpus["h100-sxm"])
    assert (two.splits, two.cta_keys, two.sequences, two.kv_reads) == (64, 1024, 1, 2)
    many = plan(LatentAttention(16, 1024, 64), gpus["h100-sxm"])
    assert (many.splits, many.cta_keys, many.sequences) == (1, 8 * 64, 8)


def test_fa3_leaves_short_sequences_whole(gpus):
    assert plan(LatentAttention(16, 1, 192, kernel="fa3"), gpus["h100-sxm"]).splits == 1
    assert plan(LatentAttention(16, 1, 256, kernel="fa3"), gpus["h100-sxm"]).splits == 4
    assert plan(LatentAttention(16, 1, 192), gpus["h100-sxm"]).splits == 3


def test_trtllm_gen_reads_keys_again_for_every_16_heads(gpus):
    """Up to 32 heads always; above, only while each CTA has at most 1024 keys."""

    def reads(heads, batch, context):
        return plan(LatentAttention(heads, batch, context, kernel="trtllm_gen"), gpus["b200"]).kv_reads

    assert reads(16, 64, 8192) == 1
    assert reads(32, 64, 8192) == 2
    assert reads(64, 64, 8192) == 1
    assert reads(128, 1, 4096) == 8
    assert reads(128, 1, 131072) == 1


def test_partials_only_of_split_sequences(gpus):
    whole, split = LatentAttention(16, 200, 64), LatentAttention(16, 1, 4096)
    assert scratch_bytes(whole, plan(whole, gpus["h100-sxm"])) == 2 * 16 * 200 * (3 * 576 + 512)
    partial = scratch_bytes(split, plan(split, gpus["h100-sxm"])) - 2 * 16 * (3 * 576 + 512)
    assert partial == 64 * 16 * 512 * 4 * 2


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
@pytest.mark.parametrize("warm", [False, True])
def test_one_point_is_the_array(gpus, name, kernel, warm):
    gpu = gpus[name]
    heads, batch, context = (np.array(axis, dtype=float) for axis in zip(*SHAPES, strict=True))
    times = LATENT_ATTENTION.seconds(LatentAttention(heads, batch, context, "bf16", kernel, warm), gpu, FIRST)
    for shape, time in zip(SHAPES, times, strict=True):
        launch = LatentAttention(*map(float, shape), "bf16", kernel, warm)
        assert LATENT_ATTENTION.seconds(launch, gpu, FIRST) == time
        assert time > LATENT_ATTENTION.floor(launch, gpu)


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_more_keys_take_longer_while_the_plan_stays(gpus, name, kernel):
    gpu = gpus[name]
    context = np.arange(1.0, 20000.0, 37.0)
    launch = LatentAttention(16.0, 4.0, context, kernel=kernel)
    cut, times = plan(launch, gpu), LATENT_ATTENTION.seconds(launch, gpu, FIRST)
    same = (np.diff(cut.splits) == 0) & (np.diff(cut.cta_keys) == 0)
    assert same.any()
    assert (np.diff(times)[same] > 0).all()


def test_a_warm_call_is_never_slower_than_a_cold_one(gpus):
    context = np.array([100.0, 1e4, 1e5, 1e6])
    cold = LatentAttention(16.0, 1.0, context)
    warm = msgspec.structs.replace(cold, warm=True)
    gpu = gpus["h100-sxm"]
    assert (LATENT_ATTENTION.seconds(warm, gpu, FIRST) <= LATENT_ATTENTION.seconds(cold, gpu, FIRST)).all()
    assert LATENT_ATTENTION.price(warm, gpu, FIRST)[-1] == LATENT_ATTENTION.price(cold, gpu, FIRST)[-1]


def test_prefill_tiles_by_hand():
    """300 tokens are 3 tiles of 128; the tiles go through 128, 256 and 384 keys. Absorbed: 64 rows of 8 tokens."""
    launch = LatentPrefill(8, 2, 300)
    assert (launch.tiles, launch.tile_keys) == (8 * 2 * 3, 256)
    assert msgspec.structs.replace(launch, form="absorbed").tiles == 2 * 38
    assert launch.flops == 2 * 320 * 8 * 2 * 300 * 301 / 2
    after = msgspec.structs.replace(launch, prefix=1000)
    assert (after.tile_keys, after.keys) == (1256, 1300)
    assert after.flops == launch.flops + 2 * 320 * 8 * 2 * 300 * 1000


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_one_prefill_is_the_array(gpus, form):
    gpu = gpus["h100-sxm"]
    heads, batch, tokens = (np.array(axis, dtype=float) for axis in zip(*SHAPES, strict=True))
    launch = LatentPrefill(heads, batch, tokens, 0, form)
    times = LATENT_PREFILL.seconds(launch, gpu, PREFILL_FIRST)
    assert (times > LATENT_PREFILL.floor(launch, gpu)).all()
    for shape, time in zip(SHAPES, times, strict=True):
        one = LatentPrefill(*map(float, shape), 0, form)
        assert LATENT_PREFILL.seconds(one, gpu, PREFILL_FIRST) == time


def test_plain_numbers_need_no_numpy():
    code = (
        "import sys; from kvperf.hardware import load_gpu;"
        "from kvperf.launches.latent_attention import LatentAttention;"
        "from kvperf.launches.latent_prefill import LatentPrefill;"
        "from kvperf.predict.latent_attention import LATENT_ATTENTION as d, CONSTANTS;"
        "from kvperf.predict.latent_prefill import LATENT_PREFILL as p, CONSTANTS as other; g = load_gpu('b200');"
        "d.seconds(LatentAttention(16, 8, 4096, kernel='trtllm_gen'), g, {c.name: c.start for c in CONSTANTS});"
        "d.seconds(LatentAttention(16, 8, 4096, kernel='fa3'), g, {c.name: c.start for c in CONSTANTS});"
        "p.seconds(LatentPrefill(16, 8, 4096), g, {c.name: c.start for c in other});"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("gpu", "stack", "version", "decode", "prefill"),
    [
        ("h100-sxm", "trtllm", "1.3.0rc20", 0.10, 0.06),
        ("h100-sxm", "sglang", "0.5.14", 0.10, 0.09),
        ("b200", "trtllm", "1.3.0rc20", 0.10, 0.07),
    ],
)
def test_held_out_head_counts(gpu, stack, version, decode, prefill):
    for needed in ("aiconfigurator_core", "pyarrow", "scipy"):
        pytest.importorskip(needed)
    from kvperf.calibrate.fit import fit
    from kvperf.calibrate.score import score
    from kvperf.silicon.latent_attention import prefill_rows, rows

    loaded = load_gpu(gpu)
    left_out = unused(stack, loaded.architecture.name)
    for family, table, without, limit in (
        (LATENT_ATTENTION, rows, left_out, decode),
        (LATENT_PREFILL, prefill_rows, (), prefill),
    ):
        measured = table(gpu, stack, version)
        assert (measured.measured_s >= family.floor(measured.launch, loaded)).all()
        parts = measured.parts()
        constants = fit(family, measured.where(parts == "fit"), loaded, without=without)
        held_out = measured.where(parts == "score")
        assert score(family.seconds(held_out.launch, loaded, constants), held_out.measured_s).mean < limit
