"""Decode attention: launch rules against hand-worked cases and brute force, the price's invariants, its accuracy."""

import math
import random
import subprocess
import sys

import msgspec
import pytest

from kvperf.hardware import load_gpu
from kvperf.launches.decode_attention import FP8_XQA, MMHA, XQA, DecodeAttention, plan
from kvperf.launches.splits import even_splits, fa2_splits, fa3_most_splits, fa3_splits, xqa_fills, xqa_splits
from kvperf.predict.decode_attention import CONSTANTS, DECODE_ATTENTION, floor, held, price

START = {constant.name: constant.start for constant in CONSTANTS}
CASES = [
    (gpu, stack, kv)
    for gpu in ("h100", "a100-sxm", "l40s", "b200")
    for stack in ("sglang", "vllm", "trtllm")
    for kv in ("bf16", "fp8")
]


def launches(count, stack, kv, seed=0):
    pick = random.Random(seed)
    for _ in range(count):
        kv_heads = pick.choice((1, 2, 4, 8, 12))
        yield DecodeAttention(
            batch=pick.choice((1, 3, 16, 132, 600, 1500)),
            heads=kv_heads * pick.choice((1, 3, 8, 16, 40)),
            kv_heads=kv_heads,
            head_dim=pick.choice((64, 128, 192, 256)),
            context=pick.choice((1, 2, 129, 700, 4096, 100_000)),
            window=pick.choice((0, 128, 1024)),
            kv=kv,
            stack=stack,
            warm=pick.random() < 0.5,
        )


def test_fa3_searches_as_its_source_does():
    """Eight tiles on 132 SMs with 32 blocks: 14 splits fill 0.848, and 0.85 of the best (0.97) is 0.824."""
    assert fa3_most_splits(8, 132, 32) == 14
    assert fa3_most_splits(8, 132, 4) == 1, "four blocks are not split"
    assert fa3_most_splits(106, 132, 400) == 1, "80 % of the SMs"
    # 8 heads × 32 blocks × 1.1 over 132 SMs: 3 blocks each, 11 splits.
    assert fa3_splits(1, 8, 32, 14, 132) == 11
    assert fa3_splits(993, 8, 32, 14, 132) == 1, "more sequences than one CTA prepares"


def test_fa2_passes_over_splits_that_gain_nothing():
    for tiles, blocks in ((1, 3), (8, 16), (8, 17), (100, 64), (30, 128)):
        useful = [n for n in range(1, blocks + 1) if n == 1 or math.ceil(blocks / n) < math.ceil(blocks / (n - 1))]
        filled = {n: tiles * n / 216 / math.ceil(tiles * n / 216) for n in useful if n <= 128}
        assert fa2_splits(tiles, 216, blocks) == next(n for n in filled if filled[n] >= 0.85 * max(filled.values()))
    assert fa2_splits(173, 216, 64) == 1


def test_xqa_counts_blocks_as_its_source_does():
    assert xqa_splits(8, 127, 132) == 1
    assert xqa_splits(8, 2047, 132) == 11, "15 pieces, √120 = 10.95"
    assert xqa_splits(512, 511, 132) == 2, "3 pieces make 11.6 waves, more than 8"
    assert not xqa_fills(32, 255, 132)
    assert xqa_fills(33, 255, 132)
    assert even_splits(64, 100, 132) == 2
    assert even_splits(200, 100, 132) == 1


def test_trtllm_takes_xqa_once_it_fills_the_gpu():
    gpu = load_gpu("h100")
    kinds = [
        plan(DecodeAttention(batch, heads, 8, 128, context, kv=kv, stack="trtllm"), gpu).kind
        for batch, heads, context, kv in (
            (1, 32, 512, "bf16"),
            (1, 32, 1024, "bf16"),
            (64, 8, 64, "bf16"),
            (1, 32, 2, "fp8"),
        )
    ]
    assert kinds == [MMHA, XQA, MMHA, FP8_XQA]


def test_a_window_is_read_in_the_blocks_it_touches():
    """Of 1,024 tokens vLLM's window of 128 is the last block of 128; SGLang's is one token longer and touches two."""
    gpu = load_gpu("h100")
    found = [plan(DecodeAttention(600, 8, 8, 128, 1024, 128, stack=stack), gpu).blocks for stack in ("vllm", "sglang")]
    assert found == [1, 2]


@pytest.mark.parametrize(("name", "stack", "kv"), CASES)
def test_an_array_is_priced_as_its_points(name, stack, kv):
    numpy = pytest.importorskip("numpy")
    gpu = load_gpu(name)
    for warm in (False, True):
        points = [msgspec.structs.replace(launch, warm=warm) for launch in launches(80, stack, kv)]
        columns = ("batch", "heads", "kv_heads", "head_dim", "context", "window")
        arrays = {column: numpy.array([float(getattr(point, column)) for point in points]) for column in columns}
        together = DecodeAttention(**arrays, kv=kv, stack=stack, warm=warm)
        each = [DECODE_ATTENTION.seconds(point, gpu, START) for point in points]
        assert all(type(second) is float for second in each)
        numpy.testing.assert_allclose(DECODE_ATTENTION.seconds(together, gpu, START), each, rtol=1e-13)
        for field in ("splits", "ctas", "waves", "blocks", "kind", "rows"):
            planned = numpy.broadcast_to(getattr(plan(together, gpu), field), len(points))
            assert planned.tolist() == [getattr(plan(point, gpu), field) for point in points], field


@pytest.mark.parametrize(("name", "stack", "kv"), CASES)
def test_never_below_the_floor_and_cold_is_never_faster(name, stack, kv):
    gpu = load_gpu(name)
    for launch in launches(60, stack, kv, seed=1):
        cold, warm = (msgspec.structs.replace(launch, warm=warm) for warm in (False, True))
        assert floor(warm, gpu) <= floor(cold, gpu) or gpu.l2_bytes_per_s
        assert DECODE_ATTENTION.seconds(launch, gpu, START) >= floor(launch, gpu) > 0
        assert price(cold, gpu, START) >= price(warm, gpu, START)


def test_more_bytes_at_the_same_plan_cost_more():
    gpu = load_gpu("h100")
    found = plan(DecodeAttention(64, 32, 8, 128, 4097), gpu)
    longer = msgspec.structs.replace(found, launch=msgspec.structs.replace(found.launch, context=4200))
    assert price(longer, gpu, START) > price(found, gpu, START)


def test_a_stack_has_thirteen_constants_at_most():
    for name, stack, _ in CASES:
        assert len(CONSTANTS) - len(held(stack, load_gpu(name))) <= 13
    assert len(set(START)) == len(CONSTANTS)
    neutral = {constant.name: constant.neutral for constant in CONSTANTS}
    assert all(neutral[constant] is not None for name, stack, _ in CASES for constant in held(stack, load_gpu(name)))


def test_plain_numbers_need_no_numpy():
    code = (
        "import sys; from kvperf.hardware import load_gpu; from kvperf.predict.decode_attention import *\n"
        "gpu = load_gpu('h100'); start = {c.name: c.start for c in CONSTANTS}\n"
        "for stack in ('sglang', 'vllm', 'trtllm'):\n"
        "    launch = DecodeAttention(8, 32, 8, 128, 4000.5, stack=stack)\n"
        "    assert DECODE_ATTENTION.seconds(launch, gpu, start) > 0\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("stack", "version", "limit"), [("sglang", "0.5.14", 0.065), ("vllm", "0.24.0", 0.065)])
def test_held_out_rows_of_the_h100(stack, version, limit):
    """Mean error of bf16 serving shapes (heads of 128, no window, 256 tokens and more) that no fit has seen."""
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pyarrow")
    pytest.importorskip("scipy")
    import numpy as np

    from kvperf.calibrate.fit import fit
    from kvperf.calibrate.score import score
    from kvperf.silicon.decode_attention import linted

    gpu = load_gpu("h100")
    rows, lint = linted("h100-sxm", stack, version)
    assert lint.impossible + lint.spikes < 0.01 * lint.rows
    launch = rows.launch.launch
    serving = (launch.head_dim == 128) & (launch.window == 0) & (launch.context >= 256)
    parts, every_fourth = rows.parts(), np.arange(len(rows.keys)) % 4 == 0
    constants = fit(
        DECODE_ATTENTION, rows.where((parts == "fit") & serving & every_fourth), gpu, without=held(stack, gpu)
    )
    unseen = rows.where((parts == "score") & serving)
    assert score(DECODE_ATTENTION.seconds(unseen.launch, gpu, constants), unseen.measured_s).mean < limit
