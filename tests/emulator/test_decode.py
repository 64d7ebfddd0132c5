"""Decode attention on the interpreter against float64: results, counters, and faults that were put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvperf.emulator import SCHEDULES, Counts, Fault, run
from tests.emulator.compiled import FOLDER, ptx
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
D, GROUP, KV_HEADS = 64, 3, 2
HEADS = GROUP * KV_HEADS
LENGTHS = (1, 15, 16, 17, 77)
Array = np.ndarray[Any, Any]


class Problem:
    """Random operands with rows of NaN behind S, that nobody may read, and the exact result."""

    def __init__(self, S: int) -> None:
        random = np.random.default_rng(S)
        self.S, self.scale = S, np.float32(D**-0.5)
        self.q = random.standard_normal((HEADS, D)).astype(np.float16)
        self.k = random.standard_normal((KV_HEADS, S, D)).astype(np.float16)
        self.v = random.standard_normal((KV_HEADS, S, D)).astype(np.float16)
        k, v = (np.repeat(x.astype(np.float64), GROUP, axis=0) for x in (self.k, self.v))
        scores = np.einsum("hd,hsd->hs", self.q.astype(np.float64), k) * D**-0.5
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        self.exact = np.einsum("hs,hsd->hd", weights / weights.sum(axis=1, keepdims=True), v)
        self.out = np.full((HEADS, D), np.nan, np.float32)

    @property
    def error(self) -> float:
        return float(np.linalg.norm(self.out - self.exact) / np.linalg.norm(self.exact))


def fused(p: Problem, schedule: str, text: str | None = None) -> Counts:
    arguments = [p.q, p.k, p.v, p.out, np.int32(HEADS), np.int32(GROUP), np.int32(p.S), p.scale]
    return run(text or ptx("decode.cu"), "fused", grid=(HEADS,), block=(128,), arguments=arguments,
               names=["q", "k", "v", "out"], initialised={"out": False}, schedule=schedule).counts  # fmt: skip


def matrix(p: Problem, schedule: str, text: str | None = None) -> Counts:
    arguments = [p.q, p.k, p.v, p.out, np.int32(GROUP), np.int32(p.S), p.scale]
    return run(text or ptx("decode.cu"), "matrix", grid=(KV_HEADS,), block=(32,), arguments=arguments,
               names=["q", "k", "v", "out"], initialised={"out": False}, schedule=schedule,
               shared_bytes=3 * 2 * 16 * D * 2).counts  # fmt: skip


def split(p: Problem, schedule: str, splits: int = 3) -> Counts:
    text, chunk = ptx("decode.cu"), -(-p.S // splits)
    partial, ml = np.full((HEADS, splits, D), np.nan, np.float32), np.full((HEADS, splits, 2), np.nan, np.float32)
    arguments = [p.q, p.k, p.v, partial, ml, np.int32(GROUP), np.int32(p.S), np.int32(chunk), p.scale]
    names = ["q", "k", "v", "partial", "ml"]
    counts = run(text, "split", grid=(HEADS, splits), block=(128,), arguments=arguments, names=names,
                 initialised={"partial": False, "ml": False}, schedule=schedule).counts  # fmt: skip
    run(text, "combine", grid=(HEADS,), block=(D,), arguments=[partial, ml, p.out, np.int32(splits)], schedule=schedule)
    return counts


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("S", LENGTHS)
def test_the_fused_kernel(S: int, schedule: str) -> None:
    problem = Problem(S)
    counts = fused(problem, schedule)
    assert problem.error < 1e-6
    assert counts.loads["k"].bytes == GROUP * problem.k.nbytes  # every query head reads it again
    assert counts.stores["out"].bytes == problem.out.nbytes
    assert counts.sfu["ex2"] == HEADS * 128 * -(-S // 32) * 2 - HEADS * 128 - (HEADS * 128 * (-S % 32) // 32)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("S", LENGTHS)
def test_the_split_kernel_and_its_combination(S: int, schedule: str) -> None:
    problem = Problem(S)
    counts = split(problem, schedule)
    assert problem.error < 1e-6
    assert counts.loads["v"].bytes == GROUP * problem.v.nbytes


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("S", LENGTHS)
def test_the_matrix_kernel(S: int, schedule: str) -> None:
    problem = Problem(S)
    counts = matrix(problem, schedule)
    assert problem.error < 1e-3
    assert counts.loads["k"].bytes == problem.k.nbytes == counts.copied_bytes["k"]
    assert counts.loads["k"].sectors == problem.k.nbytes // 32
    assert counts.mma == {"m16n8k16.f16": KV_HEADS * -(-S // 16) * 2 * 2 * D // 16}


# (what is replaced, by what, kernel): each must show, as a fault or in the result, under at least one schedule.
FAULTS = {
    "no barrier behind the loads": ("__syncthreads();  // TILE LOADED", "", fused),
    "no barrier behind the scores": ("__syncthreads();  // SCORES THERE", "", fused),
    "no barrier before the next tile": ("__syncthreads();  // TILE DONE", "", fused),
    "a divergent barrier": ("__syncthreads();  // TILE DONE", "if (warp) __syncthreads();", fused),
    "no rescaling": ("o *= old;  // RESCALE", "", fused),
    "too few rows masked": (">= S) s[n][i] = NONE;  // MASK", "> S) s[n][i] = NONE;", matrix),
    "a wait too short": ("cp.async.wait_group 1;", "cp.async.wait_group 2;", matrix),
    "keys where values belong": ("ldmatrix_trans(b,", "ldmatrix(b,", matrix),
    "another swizzle for the reader": (
        "ldmatrix(b, swizzled(keys, lane % 8",
        "ldmatrix(b, swizzled(keys, (lane + 1) % 8",
        matrix,
    ),
    "a row too many": ("start + row < S;", "start + row <= S;", fused),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_were_put_in_are_found(name: str, tmp_path: Path) -> None:
    before, after, kernel = FAULTS[name]
    source = (FOLDER / "decode.cu").read_text()
    assert before in source
    (tmp_path / "decode.cu").write_text(source.replace(before, after))
    text = ptx(tmp_path / "decode.cu")
    found = []
    for schedule in ("greedy", "reverse"):
        problem = Problem(77)
        try:
            kernel(problem, schedule, text)
            found.append(not problem.error < 1e-3)
        except Fault:
            found.append(True)
    assert any(found)


def test_a_fault_names_the_line_of_the_source() -> None:
    problem = Problem(40)
    short = problem.v[:, :-1].copy()
    arguments = [
        problem.q,
        problem.k,
        short,
        problem.out,
        np.int32(HEADS),
        np.int32(GROUP),
        np.int32(40),
        problem.scale,
    ]
    with pytest.raises(Fault, match=r"fused: PTX line \d+ \(decode.cu:\d+\) .*of v, by thread") as caught:
        run(ptx("decode.cu"), "fused", grid=(HEADS,), block=(128,), arguments=arguments, names=["q", "k", "v", "out"])
    assert caught.value.buffer == "v"


@pytest.mark.parametrize("arch", ["80", "89", "100", "120"])
def test_what_is_compiled_for_other_architectures_runs_too(arch: str) -> None:
    text = ptx("decode.cu", arch)
    for kernel in (fused, matrix):
        problem = Problem(33)
        kernel(problem, "greedy", text)
        assert problem.error < 1e-3
