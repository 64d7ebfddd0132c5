"""The prefill-attention family: launch rules by hand, the price's shape, and its error on tables."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from kvperf.hardware import load_gpu
from kvperf.launches.prefill_attention import KEY_TILE, Kernel, PrefillAttention
from kvperf.predict.prefill_attention import CONSTANTS, PREFILL_ATTENTION, family

H100 = load_gpu("h100-sxm")
START = {constant.name: constant.start for constant in CONSTANTS}


def seen(new, prefix, window):
    """Keys each query sees, its own among them."""
    return [min(prefix + i + 1, window or prefix + i + 1) for i in range(new)]


@pytest.mark.parametrize(
    ("new", "prefix", "window"), [(512, 0, 0), (512, 300, 0), (512, 0, 128), (512, 100, 200), (64, 900, 128)]
)
def test_columns_are_the_mean_of_what_queries_see(new, prefix, window):
    launch = PrefillAttention(1, new, 8, 2, 128, prefix, window)
    mean = sum(seen(new, prefix, window)) / new
    assert mean - 0.5 <= launch.columns <= mean


def test_flops_and_bytes():
    launch = PrefillAttention(2, 256, 8, 2, 128)
    assert launch.flops == 4 * 2 * 256 * 8 * 128 * 128
    assert launch.query_bytes == 2 * 2 * 2 * 256 * 8 * 128
    assert launch.kv_bytes == 2 * 2 * 2 * 256 * 2 * 128 * 2
    assert PrefillAttention(2, 256, 8, 2, 128, prefix=100).kv_bytes - launch.kv_bytes == 2 * 2 * 2 * 100 * 128 * 2


def test_tiles():
    packed, single = Kernel(128, packed=True, idle=0.3), Kernel(128, packed=False, idle=1.0)
    launch = PrefillAttention(3, 100, 32, 8, 128)
    assert launch.tiles(packed) == 3 * 8 * 4  # 400 rows of a group in tiles of 128
    assert launch.tiles(single) == 3 * 32
    assert launch.span(packed) == 32
    assert launch.span(single) == 100


def test_one_token_swaps_heads_and_rows():
    launch = PrefillAttention(5, 1, 32, 8, 128)
    kernel = launch.kernel("sm_80")
    assert launch.tiles(kernel) == 5 * 8
    assert PrefillAttention(5, 2, 32, 8, 128).tiles(kernel) == 5 * 32


def test_tile_columns_against_counting():
    """Key tiles that each query tile touches, counted; the closed form holds on average."""
    kernel = Kernel(128, packed=False, idle=1.0)
    for new, window in ((4096, 0), (4096, 1024), (8192, 512)):
        touched = []
        for start in range(0, new, kernel.rows):
            last = start + kernel.rows
            first = max(0, start - window) if window else 0
            touched.append((-(-last // KEY_TILE) - first // KEY_TILE) * KEY_TILE)
        mean, longest = PrefillAttention(1, new, 1, 1, 128, 0, window).tile_columns(kernel)
        assert mean == pytest.approx(sum(touched) / len(touched), rel=0.15)
        assert max(touched) <= longest <= max(touched) + KEY_TILE  # an edge between key tiles touches one more


def test_kernels():
    launch = PrefillAttention(1, 128, 8, 1, 128)
    assert launch.kernel("sm_90").packed
    assert launch.kernel("sm_100").rows == 256
    assert msgspec.structs.replace(launch, stack="trtllm").kernel("sm_90").columns == 128
    assert launch.kernel("sm_89").swaps
    assert msgspec.structs.replace(launch, kv_dtype="fp8").kernel("sm_89").packed


@pytest.mark.parametrize(
    ("new", "head_dim", "window", "kv_dtype", "tile"),
    [
        (8, 128, 0, "bf16", (64, 128)),  # 64 rows of a group of 8: one warpgroup
        (9, 128, 0, "bf16", (128, 128)),
        (8, 64, 0, "bf16", (64, 128)),
        (9, 64, 0, "bf16", (192, 128)),
        (9, 192, 0, "bf16", (128, 96)),
        (9, 256, 0, "bf16", (128, 80)),
        (9, 256, 128, "bf16", (128, 64)),
        (9, 128, 0, "fp8", (128, 160)),
    ],
)
def test_flash_attention_3_tiles(new, head_dim, window, kv_dtype, tile):
    kernel = PrefillAttention(1, new, 8, 1, head_dim, 0, window, kv_dtype).kernel("sm_90")
    assert (kernel.rows, kernel.columns) == tile


def test_few_tiles_are_split_along_their_keys():
    """64 tiles of 64 steps on 132 SMs: ⌈1.1 × 4096 / 132⌉ = 35 steps each; twice as many tiles stay whole."""
    few, many = (PrefillAttention(batch, 8192, 1, 1, 128) for batch in (1, 2))
    kernel = few.kernel("sm_90")
    assert few.longest_piece(kernel, 132) == 35 * 128
    assert many.longest_piece(kernel, 132) == 8192


def test_rows_come_in_warpgroups():
    kernel = Kernel(128, packed=False, idle=1.0, unit=64)
    assert [PrefillAttention(1, new, 8, 1, 128).tile_rows(kernel) for new in (1, 64, 65, 4096)] == [64, 64, 128, 128]


def test_helpers():
    trtllm = PrefillAttention(1, 64, 8, 1, 128, stack="trtllm")
    assert trtllm.helpers("sm_90") == 0
    assert msgspec.structs.replace(trtllm, head_dim=64).helpers("sm_90") == 1
    assert msgspec.structs.replace(trtllm, kv_dtype="fp8").helpers("sm_90") == 1
    assert PrefillAttention(1, 1, 8, 1, 192, stack="sglang").helpers("sm_90") == 1
    assert PrefillAttention(1, 1, 8, 1, 192).helpers("sm_90") == 0


def test_token_blocks():
    assert PrefillAttention(2, 64, 32, 8, 128).token_blocks() == 128
    assert PrefillAttention(2, 64, 32, 8, 128, kv_dtype="fp8").token_blocks() == 128 * 3  # and 2 of 2048 elements


def test_an_active_window_unspecialises_tensorrt_fp8():
    launch = PrefillAttention(1, 128, 8, 1, 128, 0, 128, "fp8", "trtllm")
    assert not launch.unspecialised("sm_90")
    assert msgspec.structs.replace(launch, new=129).unspecialised("sm_90")
    assert not msgspec.structs.replace(launch, new=129).unspecialised("sm_100")


def test_only_gddr_gains_from_a_warm_l2():
    for name, gains in (("h100-sxm", False), ("l40s", True)):
        cold, warm = (PrefillAttention(8, 512, 32, 8, 128, warm=state) for state in (False, True))
        device = load_gpu(name)
        prices = [PREFILL_ATTENTION.price(launch, device, START) for launch in (cold, warm)]
        assert (prices[1] < prices[0]) == gains


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("gpu", ["h100-sxm", "b200", "l40s"])
def test_a_number_and_an_array_agree_exactly(stack, kv_dtype, gpu):
    device = load_gpu(gpu)
    batch = np.array([1.0, 4, 32, 256, 2, 1])
    new = np.array([1.0, 17, 300, 128, 16384, 4096])
    heads = np.array([32.0, 64, 8, 40, 1, 96])
    kv_heads = np.array([8.0, 64, 1, 8, 1, 8])
    head_dim = np.array([128.0, 64, 192, 256, 128, 128])
    prefix = np.array([0.0, 100, 4096, 0, 1, 77])
    window = np.array([0.0, 128, 1024, 0, 8192, 0])
    arrays = {"batch": batch, "new": new, "heads": heads, "kv_heads": kv_heads}
    arrays |= {"head_dim": head_dim, "prefix": prefix, "window": window}
    launch = PrefillAttention(**arrays, kv_dtype=kv_dtype, stack=stack)
    many = PREFILL_ATTENTION.seconds(launch, device, START)
    for i in range(len(batch)):
        one = msgspec.structs.replace(launch, **{name: float(values[i]) for name, values in arrays.items()})
        assert PREFILL_ATTENTION.seconds(one, device, START) == many[i]


def test_prices_rise_and_stay_above_the_floor():
    new = 2.0 ** np.arange(0, 15)
    launch = PrefillAttention(2.0, new, 32.0, 8.0, 128.0)
    seconds = PREFILL_ATTENTION.seconds(launch, H100, START)
    assert (np.diff(seconds) > 0).all()
    assert (seconds >= PREFILL_ATTENTION.floor(launch, H100)).all()
    batched = PrefillAttention(np.arange(1.0, 65.0), 1024.0, 32.0, 8.0, 128.0)
    assert (np.diff(PREFILL_ATTENTION.seconds(batched, H100, START)) > 0).all()
    prefixed = PrefillAttention(1.0, 1024.0, 32.0, 8.0, 128.0, prefix=np.arange(0.0, 32768.0, 1024.0))
    assert (np.diff(PREFILL_ATTENTION.seconds(prefixed, H100, START)) > 0).all()


def test_eight_constants():
    assert len(CONSTANTS) == 8
    known = dict.fromkeys((c.name for c in family("bf16").constants), 1.0)
    assert {c.name for c in family("fp8", known).constants} == {"fp8_tensor_efficiency", "helper_s"}


def test_a_number_needs_no_numpy():
    code = (
        "import sys; from kvperf.hardware import load_gpu;"
        "from kvperf.launches.prefill_attention import PrefillAttention;"
        "from kvperf.predict.prefill_attention import CONSTANTS, PREFILL_ATTENTION as F;"
        "F.seconds(PrefillAttention(1, 100, 32, 8, 128), load_gpu('h100'), {c.name: c.start for c in CONSTANTS});"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_error_on_tables():
    """bf16 through SGLang on H100, on shapes no constant was fitted to."""
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pyarrow")
    pytest.importorskip("scipy")
    from kvperf.calibrate.score import score
    from kvperf.predict.calibration import folder, load
    from kvperf.silicon.prefill_attention import rows

    constants = load(folder() / "h100-sxm.sglang.yaml").families["prefill_attention"].numbers()
    table = rows("h100-sxm", "sglang", "0.5.14")
    held = table.where(table.parts() == "score")
    predicted = PREFILL_ATTENTION.seconds(held.launch, H100, constants)
    assert score(predicted, held.measured_s).mean < 0.11
