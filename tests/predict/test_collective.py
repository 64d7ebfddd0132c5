"""Collectives: which path a stack takes, what each costs, and how close that is to the tables."""

import subprocess
import sys

import numpy as np
import pytest

from kvperf.hardware import load_gpu
from kvperf.launches.collective import KIB, MIB, Collective
from kvperf.predict.collective import COLLECTIVE, NCCL, with_nccl

H100 = {  # about what the tables give
    "nccl_launch_s": 4.5e-6,
    "hop_s": 7.8e-7,
    "link_efficiency": 0.77,
    "chunk_s": 2.6e-6,
    "multicast_start_s": 5.8e-5,
    "own_launch_s": 2.3e-6,
    "peer_s": 1.5e-7,
    "barrier_s": 3.4e-6,
    "own_efficiency": 0.7,
    "read_s": 1.3e-6,
}
SIZES = np.array([256, 16 * KIB, 160 * KIB, 160 * KIB + 16, 512 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 1024 * MIB])
RANKS = (2, 4, 8)
STACKS = ("sglang", "vllm", "trtllm", "nccl")


@pytest.fixture(scope="module")
def h100():
    return load_gpu("h100-sxm")


def test_hand_worked_bytes_and_hops():
    launch = Collective(800, 8)
    assert (launch.ring_bytes, launch.one_shot_bytes, launch.multicast_bytes, launch.hops) == (1400, 5600, 900, 14)
    gather = Collective(800, 8, "all_gather")
    assert (gather.ring_bytes, gather.hops) == (700, 7)
    assert Collective(800, 2, "alltoall").ring_bytes == 400


def test_a_ring_simulated_step_by_step_moves_ring_bytes():
    for n in RANKS:
        chunks = [[1.0] * n for _ in range(n)]  # [rank][chunk]: how many ranks' data it holds
        sent = 0
        for step in range(n - 1):  # reduce-scatter
            moved = [(rank, (rank - step) % n, chunks[rank][(rank - step) % n]) for rank in range(n)]
            for rank, chunk, value in moved:
                chunks[(rank + 1) % n][chunk] += value
            sent += 1
        assert all(chunks[rank][(rank + 1) % n] == n for rank in range(n))
        sent += n - 1  # all-gather passes each finished chunk on
        launch = Collective(n * 1000, n)
        assert launch.ring_bytes == sent * 1000
        assert launch.hops == sent


@pytest.mark.parametrize(
    ("stack", "ranks", "size", "path"),
    [
        ("sglang", 2, 16 * MIB, "one_shot"),
        ("sglang", 2, 16 * MIB + 16, "nccl"),
        ("sglang", 4, 384 * KIB, "one_shot"),
        ("sglang", 8, 256 * KIB, "two_shot"),
        ("vllm", 4, 512 * KIB, "two_shot"),
        ("vllm", 8, 256 * KIB, "two_shot"),
        ("vllm", 8, 512 * KIB, "multicast"),
        ("vllm", 8, 128 * MIB, "nccl"),
        ("trtllm", 8, 512 * KIB, "one_shot"),
        ("trtllm", 8, MIB, "hole"),
        ("trtllm", 8, 4 * MIB, "two_shot"),
        ("sglang", 16, 16 * KIB, "nccl"),
        ("nccl", 8, 16 * KIB, "nccl"),
    ],
)
def test_paths_on_hopper(stack, ranks, size, path):
    limits = Collective(size, ranks, stack=stack).limits("sm_90")
    order = ("one_shot", "hole", "two_shot", "multicast")
    assert next((name for name in order if size <= getattr(limits, name)), "nccl") == path


def test_other_operations_are_nccls(h100):
    for operation in ("all_gather", "reduce_scatter", "alltoall"):
        launch = Collective(MIB, 8, operation, "sglang")
        assert COLLECTIVE.price(launch, h100, H100) == NCCL.price(launch, h100, H100)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("gpu", ["h100-sxm", "b200", "a100-sxm", "l40s"])
def test_points_equal_the_array(stack, gpu):
    gpu = load_gpu(gpu)
    for ranks in RANKS:
        many = COLLECTIVE.seconds(Collective(SIZES.astype(float), ranks, stack=stack), gpu, H100)
        one = [COLLECTIVE.seconds(Collective(float(size), ranks, stack=stack), gpu, H100) for size in SIZES]
        assert many.tolist() == one
    both = COLLECTIVE.seconds(Collective(float(MIB), np.array(RANKS), stack=stack), gpu, H100)
    assert both.tolist() == [COLLECTIVE.seconds(Collective(float(MIB), n, stack=stack), gpu, H100) for n in RANKS]


@pytest.mark.parametrize("stack", STACKS)
def test_time_rises_with_bytes_on_one_path_and_stays_above_the_floor(stack, h100):
    sizes = np.unique(np.geomspace(256, 1 << 30, 400).astype(int) // 16 * 16).astype(float)
    for ranks in RANKS:
        launch = Collective(sizes, ranks, stack=stack)
        limits = launch.limits("sm_90")
        time = COLLECTIVE.seconds(launch, h100, H100)
        assert (time >= COLLECTIVE.floor(launch, h100)).all()
        path = sum((sizes <= getattr(limits, name)).astype(int) for name in limits.__struct_fields__)
        assert (np.diff(time)[np.diff(path) == 0] > 0).all()


def test_the_floor_holds_with_perfect_constants(h100):
    perfect = {**dict.fromkeys(H100, 0.0), "link_efficiency": 1.0, "own_efficiency": 1.0}
    for stack in STACKS:
        for ranks in RANKS:
            launch = Collective(SIZES.astype(float), ranks, stack=stack)
            priced = COLLECTIVE.price(launch, h100, perfect)
            assert (priced >= COLLECTIVE.floor(launch, h100) * (1 - 1e-12)).all()


def test_decode_all_reduce_of_8_h100(h100):
    launch = Collective(16 * KIB, 8, stack="sglang")
    assert 3e-6 < COLLECTIVE.seconds(launch, h100, H100) < 6e-6
    assert 15e-6 < COLLECTIVE.seconds(Collective(16 * KIB, 8), h100, H100) < 19e-6


def test_plain_numbers_import_no_numpy():
    code = (
        "import sys\n"
        "from kvperf.hardware import load_gpu\n"
        "from kvperf.launches.collective import Collective\n"
        "from kvperf.predict.collective import COLLECTIVE\n"
        f"print(COLLECTIVE.seconds(Collective(1 << 20, 8, stack='vllm'), load_gpu('h100-sxm'), {H100!r}))\n"
        "assert 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


@pytest.mark.parametrize(("stack", "version"), [("sglang", "0.5.14"), ("vllm", "0.24.0"), ("trtllm", "1.3.0rc20")])
def test_h100_tables(stack, version, h100):
    for module in ("aiconfigurator_core", "pyarrow", "scipy"):
        pytest.importorskip(module)
    from kvperf.calibrate.fit import fit
    from kvperf.calibrate.score import score
    from kvperf.silicon.collective import nccl_rows, rows

    of_nccl = nccl_rows("h100-sxm")
    part = of_nccl.parts()
    nccl = fit(NCCL, of_nccl.where(part == "fit"), h100)
    held = of_nccl.where(part == "score")
    assert score(NCCL.seconds(held.launch, h100, nccl), held.measured_s).mean < 0.07

    family, table = with_nccl(nccl), rows("h100-sxm", stack, version)
    part = table.parts()
    own = fit(family, table.where(part == "fit"), h100, without=() if stack == "vllm" else ("read_s",))
    held = table.where(part == "score")
    assert score(family.seconds(held.launch, h100, own), held.measured_s).mean < 0.06
    below = table.measured_s < COLLECTIVE.floor(table.launch, h100)
    assert below.sum() == 0
