"""The matrix-product family: launch rules by hand, the price's shape, and its error on tables."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from kvperf.hardware import load_gpu
from kvperf.launches.gemm import Gemm
from kvperf.predict.gemm import CONSTANTS, GEMM, family

H100 = load_gpu("h100-sxm")
B200 = load_gpu("b200")
START = {constant.name: constant.start for constant in CONSTANTS}
FORMATS = ["bf16", "fp8", "fp8-block", "nvfp4"]
STACKS = ["vllm", "sglang", "trtllm"]


def test_bytes_and_flops():
    launch = Gemm(16, 4096, 1024)
    assert launch.flops == 2 * 16 * 4096 * 1024
    assert launch.bytes == 2 * (4096 * 1024 + 16 * 1024 + 16 * 4096)
    assert Gemm(1, 128, 128, "fp8", "fp8").weight_bytes == 128 * 128


def test_kinds():
    assert [Gemm(1, 1, 1, name, name).kind for name in FORMATS] == ["bf16", "fp8", "fp8_block", "nvfp4"]
    assert Gemm(1, 1, 1, "int4", "bf16").kind == "bf16"
    assert Gemm(1, 1, 1, "fp8", "bf16").kind == "bf16"


def test_tiles_cover_the_output():
    """Counted one by one."""
    for m, n in ((1, 1), (64, 64), (65, 129), (128, 4096)):
        for tile in ((64, 64), (64, 128), (128, 256)):
            counted = sum(1 for _ in range(0, m, tile[0]) for _ in range(0, n, tile[1]))
            assert Gemm(m, n, 64).tiles(tile) == counted


def test_splits():
    """32 tiles on 132 SMs leave room for 4 parts of K; each keeps 512 of it; full SMs are not split."""
    launch = Gemm(64, 2048, 8192)
    assert launch.tiles((64, 64)) == 32
    assert launch.splits(32, 132) == 4
    assert Gemm(64, 2048, 1024).splits(32, 132) == 2
    assert launch.splits(200, 132) == 1


def test_hot_shares():
    """10 MB of weights in 5 copies pass through 50 MB: kept whole in an L2 of 200, not at all in one of 50."""
    launch = Gemm(1, 5_000_000, 1, warm=True, copies=5.0)
    assert launch.hot(200e6)[0] == 1.0
    assert launch.hot(50e6)[0] == 0.0
    assert 0.0 < launch.hot(70e6)[0] < 1.0
    assert msgspec.structs.replace(launch, warm=False).hot(1e12) == (0.0, 0.0)


def test_quantise_rows():
    assert Gemm(10, 1, 2048).quantise_rows(2048) == 10
    assert Gemm(10, 1, 4097).quantise_rows(2048) == pytest.approx(10 * 7 / 3)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("warm", [True, False])
def test_a_number_and_an_array_agree_exactly(stack, name, warm):
    m = np.array([1.0, 8, 63, 64, 65, 200, 257, 1000, 4097, 30000])
    n = np.array([32.0, 256, 4096, 5120, 7168, 1024, 28672, 65536, 512, 8192])
    k = np.array([65536.0, 4096, 4096, 14336, 128, 7168, 512, 8192, 2048, 8192])
    launch = Gemm(m, n, k, name, name, stack, warm, 6.0, stack == "sglang")
    many = GEMM.seconds(launch, B200, START)
    for i in range(len(m)):
        one = msgspec.structs.replace(launch, m=float(m[i]), n=float(n[i]), k=float(k[i]))
        assert GEMM.seconds(one, B200, START) == many[i]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("name", FORMATS)
def test_prices_rise_and_stay_above_the_floor(stack, name):
    m = np.array([64.0 * i for i in range(1, 65)])
    for n, k in ((4096.0, 4096.0), (256.0, 16384.0), (57344.0, 8192.0)):
        launch = Gemm(m, n, k, name, name, stack)
        seconds = GEMM.seconds(launch, B200, START)
        assert (seconds >= GEMM.floor(launch, B200)).all()
        # Tiles come and go between the shapes, so over long stretches only.
        assert seconds[63] > seconds[31] > seconds[7]


def test_longer_k_costs_more_at_the_same_plan():
    k = np.arange(64.0, 2048.0, 64.0)
    assert (np.diff(GEMM.seconds(Gemm(8.0, 65536.0, k), H100, START)) > 0).all()


def test_cold_is_not_cheaper_than_warm():
    launch = Gemm(np.array([1.0, 64, 512]), 2048.0, 2048.0, warm=True)
    cold = msgspec.structs.replace(launch, warm=False)
    assert (GEMM.seconds(cold, H100, START) >= GEMM.seconds(launch, H100, START)).all()


def test_families_share_the_constants_out():
    bf16 = {c.name for c in family("bf16", "vllm").constants}
    known = dict.fromkeys(bf16, 1.0)
    assert {c.name for c in family("nvfp4", "vllm", known).constants} == {"nvfp4_tensor_efficiency", "nvfp4_quantise_s"}
    everything = len(bf16) + sum(len(family(k, "trtllm", known).constants) for k in ("fp8", "fp8_block", "nvfp4"))
    assert everything == 13


def test_a_number_needs_no_numpy():
    code = (
        "import sys; from kvperf.hardware import load_gpu; from kvperf.launches.gemm import Gemm;"
        "from kvperf.predict.gemm import CONSTANTS, GEMM;"
        "GEMM.seconds(Gemm(3, 4096, 4096, 'fp8', 'fp8'), load_gpu('h100'), {c.name: c.start for c in CONSTANTS});"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_error_on_tables():
    """bf16 through vLLM on H100: decode shapes within 6 %, all within 8 %, on shapes no constant was fitted to."""
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pyarrow")
    pytest.importorskip("scipy")
    from kvperf.calibrate.score import score
    from kvperf.predict.calibration import folder, load
    from kvperf.silicon.gemm import rows

    constants = load(folder() / "h100-sxm.vllm.yaml").families["gemm"].numbers()
    table = rows("h100-sxm", "vllm", "0.24.0")
    held = table.where(table.parts() == "score")
    predicted = GEMM.seconds(held.launch, H100, constants)
    decode = (held.launch.m <= 128) & (held.launch.n >= 1024) & (held.launch.k >= 1024)
    assert score(predicted, held.measured_s).mean < 0.08
    assert score(predicted[decode], held.measured_s[decode]).mean < 0.06
