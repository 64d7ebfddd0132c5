"""Small kernels: launches and bytes."""

import subprocess
import sys

import numpy as np
import pytest

from kvperf.hardware import load_gpu
from kvperf.launches.small import Small, argmax, quantise, sampling
from kvperf.predict.small import SMALL, SOURCED, resident

KINDS = ("norm", "rope", "activation", "quantise", "sampling", "residual", "embedding", "copy")


@pytest.fixture(scope="module")
def h100():
    return load_gpu("h100-sxm")


def test_a_norm_of_one_token_is_its_launch(h100):
    time = SMALL.seconds(Small("norm", 4 * 2 * 4096), h100, SOURCED)
    assert 2.3e-6 < time < 2.4e-6


def test_kernels_add_up(h100):
    one = SMALL.seconds(Small("rope", 0), h100, SOURCED)
    assert SMALL.seconds(Small("rope", 0, 3), h100, SOURCED) == 3 * one


def test_moving_kernels_start_faster_than_computing_ones(h100):
    assert SMALL.seconds(Small("residual", 0), h100, SOURCED) < SMALL.seconds(Small("norm", 0), h100, SOURCED)


def test_bytes_by_hand():
    assert quantise(2, 100).bytes == 2 * 100 * 3
    assert quantise(2, 100, passes=2).bytes == 2 * 100 * 5
    assert quantise(2, 100, passes=2).again == 2 * 100 * 2
    assert argmax(3, 1000).bytes == 6000
    assert sampling(3, 1000).bytes == 21000


def test_the_sampler_that_was_read():
    """RTX PRO 6000, vLLM 0.19, 128256 logits: 24.7 µs for 1 sequence, 164 µs for 256 (LLMServingSim 5daddb21)."""
    gpu = load_gpu("rtx-pro-6000")
    assert SMALL.seconds(sampling(1, 128256), gpu, SOURCED) == pytest.approx(24.7e-6, rel=0.1)
    assert SMALL.seconds(sampling(256, 128256), gpu, SOURCED) == pytest.approx(164e-6, rel=0.1)
    assert SMALL.seconds(argmax(1, 128256), gpu, SOURCED) < 6e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warm", [False, True])
def test_points_equal_the_array_rise_with_bytes_and_respect_the_floor(kind, warm, h100):
    size = np.geomspace(1e3, 1e10, 40)
    launch = Small(kind, size, rows=size / 4096, warm=warm)
    many = SMALL.seconds(launch, h100, SOURCED)
    one = [SMALL.seconds(Small(kind, s, rows=s / 4096, warm=warm), h100, SOURCED) for s in size.tolist()]
    assert many.tolist() == one
    assert (np.diff(many) > 0).all()
    assert (many >= SMALL.floor(launch, h100)).all()


def test_replayed_operands_are_hot_until_l2_is_full(h100):
    capacity = h100.l2_capacity_bytes
    assert [resident(share * capacity, h100) for share in (0.1, 0.7, 0.86, 2)] == [1.0, 1.0, 0.0, 0.0]
    cold = SMALL.seconds(Small("copy", 2e7), h100, SOURCED)
    assert SMALL.seconds(Small("copy", 2e7, warm=True), h100, SOURCED) < cold


def test_plain_numbers_import_no_numpy():
    code = (
        "import sys\n"
        "from kvperf.hardware import load_gpu\n"
        "from kvperf.launches.small import Small\n"
        "from kvperf.predict.small import SMALL, SOURCED\n"
        "print(SMALL.seconds(Small('norm', 32768, warm=True), load_gpu('h100-sxm'), SOURCED))\n"
        "assert 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


@pytest.mark.parametrize(("stack", "version", "mean"), [("vllm", "0.24.0", 0.1), ("trtllm", "1.3.0rc20", 0.03)])
def test_quantise_tables(stack, version, mean, h100):
    for module in ("aiconfigurator_core", "pyarrow", "scipy"):
        pytest.importorskip(module)
    from kvperf.calibrate.fit import fit
    from kvperf.calibrate.score import score
    from kvperf.silicon.quantize import rows

    table = rows("h100-sxm", stack, version)
    part = table.parts()
    fitting = table.where(part == "fit")
    sample = np.zeros(len(fitting.keys), dtype=bool)
    sample[::4] = True
    constants = fit(SMALL, fitting.where(sample), h100)
    held = table.where(part == "score")
    assert score(SMALL.seconds(held.launch, h100, constants), held.measured_s).mean < mean
    assert not (table.measured_s < SMALL.floor(table.launch, h100)).any()
