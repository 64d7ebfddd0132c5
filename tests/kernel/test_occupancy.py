"""Occupancy against NVIDIA's own calculator, and what limits it by name."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.kernel.occupancy import occupancy

# Compute capability, a GPU that has it.
GPUS = {"7.0": "v100", "8.0": "a100", "8.6": "a40", "8.9": "l40s", "9.0": "h100", "10.0": "b200", "12.0": "rtx-5090"}


def test_what_limits_is_named() -> None:
    h100 = load_gpu("h100").architecture
    assert occupancy(h100, 128, 32, 0).limited_by == ("warps", "registers")
    assert occupancy(h100, 128, 255, 0).limited_by == ("registers",)
    assert occupancy(h100, 128, 255, 0).blocks_per_sm == 2
    assert occupancy(h100, 128, 32, 100 * 1024).limited_by == ("shared memory",)
    assert occupancy(h100, 32, 32, 0).limited_by == ("blocks",)


def test_a_block_of_1024_threads_leaves_a_third_of_an_ada_sm_empty() -> None:
    found = occupancy(load_gpu("l40s").architecture, 1024, 32, 0)
    assert found.blocks_per_sm == 1
    assert found.warps_share == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "message"),
    [
        (2048, 32, 0, "2048 threads cannot run on sm_90: the limit is 1024"),
        (128, 256, 0, "256 registers a thread"),
        (1024, 96, 0, "98304 registers a block"),
        (128, 32, 228 * 1024, "233472 bytes of shared memory a block"),
    ],
)
def test_a_block_that_cannot_run_is_refused(threads: int, registers: int, shared: int, message: str) -> None:
    with pytest.raises(KvperfError, match=message):
        occupancy(load_gpu("h100").architecture, threads, registers, shared)


def test_amd_is_refused_plainly() -> None:
    with pytest.raises(KvperfError, match="does not say"):
        occupancy(load_gpu("mi300x").architecture, 128, 32, 0)


THREADS, REGISTERS = (32, 96, 128, 256, 384, 1024), (16, 32, 40, 64, 96, 128, 168, 255)
CASES = list(itertools.product(THREADS, REGISTERS, (0, 1, 8192, 49152, 101376)))
PROGRAM = r"""
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include "cuda_occupancy.h"
int main(int, char** a) {
  cudaOccDeviceProp p; memset(&p, 0, sizeof p);
  p.computeMajor = atoi(a[1]); p.computeMinor = atoi(a[2]); p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiprocessor = atoi(a[3]); p.regsPerBlock = 65536; p.regsPerMultiprocessor = 65536; p.warpSize = 32;
  p.sharedMemPerBlock = 49152; p.sharedMemPerMultiprocessor = atoi(a[4]); p.numSms = 1;
  p.sharedMemPerBlockOptin = atoi(a[5]); p.reservedSharedMemPerBlock = atoi(a[6]);
  int threads, registers, shared;
  while (scanf("%d %d %d", &threads, &registers, &shared) == 3) {
    cudaOccFuncAttributes f; memset(&f, 0, sizeof f); f.maxThreadsPerBlock = 1024; f.numRegs = registers;
    f.maxDynamicSharedSizeBytes = atoi(a[5]); f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    cudaOccDeviceState s; memset(&s, 0, sizeof s); s.carveoutConfig = 100;
    cudaOccResult r; int e = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &s, threads, shared);
    printf("%d\n", e ? 0 : r.activeBlocksPerMultiprocessor);
  }
}
"""


def _header_folder() -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        for header in Path(place).glob("*/include/cuda_occupancy.h"):
            return header.parent
    return None


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NVIDIA's calculator, compiled."""
    compiler, headers = shutil.which("g++"), _header_folder()
    if compiler is None or headers is None:
        pytest.skip("needs g++ and cuda_occupancy.h (nvidia-cuda-runtime)")
    folder = tmp_path_factory.mktemp("occupancy")
    (folder / "main.cpp").write_text(PROGRAM)
    subprocess.run([compiler, "-w", "-I", str(headers), "main.cpp", "-o", "calculator"], cwd=folder, check=True)
    return folder / "calculator"


@pytest.mark.parametrize("capability", GPUS)
def test_blocks_per_sm_are_those_of_nvidias_calculator(calculator: Path, capability: str) -> None:
    architecture = load_gpu(GPUS[capability]).architecture
    limits = architecture.limits
    assert limits.threads_per_sm and limits.shared_per_sm and limits.shared_per_block
    reserved = int(limits.shared_reserved_per_block.value) if limits.shared_reserved_per_block else 0
    sizes = (limits.threads_per_sm.value, limits.shared_per_sm.value, limits.shared_per_block.value, reserved)
    done = subprocess.run(
        [str(calculator), *capability.split("."), *(str(int(size)) for size in sizes)],
        input="".join(f"{t} {r} {s}\n" for t, r, s in CASES),
        capture_output=True,
        text=True,
        check=True,
    )
    for (threads, registers, shared), expected in zip(CASES, map(int, done.stdout.split()), strict=True):
        try:
            found = occupancy(architecture, threads, registers, shared).blocks_per_sm
        except KvperfError:
            found = 0
        assert found == expected, (capability, threads, registers, shared)
