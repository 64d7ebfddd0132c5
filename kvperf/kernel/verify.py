"""Verification without a GPU: each kernel on the interpreter, against a float64 reference and the closed form.

A trial passes where the relative norm of the error stays within its limit and the threads asked for exactly the bytes,
atomics and matrix instructions that `kvperf.kernel.traffic` predicts. NaN passes nothing: no comparison with it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import msgspec

import kvperf
from kvperf.emulator import SCHEDULES, Fault
from kvperf.errors import KvperfError
from kvperf.hardware import Gpu
from kvperf.kernel import reference
from kvperf.kernel.catalogue import KERNELS, kernel
from kvperf.kernel.support import support
from kvperf.kernel.target import capability
from kvperf.kernel.traffic import Traffic, traffic
from kvperf.kernel.trial import Case, Result, execute, small

# Relative norm of the error: of half-precision results, and of fp32 ones where all sums were fp32.
LIMIT, LIMIT_FP32 = 2e-3, 1e-5
# Storing a result in bf16 costs 1.7e-3 by itself (half of 2^-7, evenly spread), weights in bf16 1.2e-3 on top of it:
# what matrix kernels store in bf16 may be this far off where only the stored result can be seen.
LIMIT_BF16_MATRIX = 2.5e-3


class Verdict(msgspec.Struct, frozen=True):
    """One trial. `error` is None where the kernel did not come to an end; `fault` then says why.

    requested_bytes  K and V (or the latent) as the threads asked for them
    predicted_bytes  the same in closed form
    """

    kernel: str
    dtype: str
    head_dim: int
    group: int
    seq: int
    splits: int | None
    schedule: str
    values: str
    error: float | None
    limit: float
    requested_bytes: int | None
    predicted_bytes: int
    traffic_agrees: bool
    verdict: Literal["right", "wrong"]
    fault: str | None = None


class Verification(msgspec.Struct, frozen=True, rename={"schema_version": "schema"}):
    """All trials of one call."""

    schema_version: Literal["kvperf.kernel-verification/1"]
    version: str
    gpu: str
    capability: str
    verdicts: tuple[Verdict, ...]
    left_out: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether there was a trial and all passed."""
        return bool(self.verdicts) and all(v.verdict == "right" for v in self.verdicts)


def rounds_weights_and_result(case: Case) -> bool:
    """Whether the limit holds for the result before its last rounding: weights and result are both bf16."""
    return case.dtype == "bf16" and not case.output_fp32 and "tensor cores" in KERNELS[case.kernel].strategies


def error_of(case: Case, result: Result) -> float:
    """The error; of matrix kernels in bf16 that of the fp32 result, of which the stored one must be the rounding.

    NaN where it is not.
    """
    if not rounds_weights_and_result(case):
        return result.error
    exact = execute(replace(case, output_fp32=True))
    rounded = reference.decode(reference.encode(exact.found, "bf16"), "bf16")
    return exact.error if (rounded == result.found).all() else math.nan


def agrees(result: Result) -> bool:
    """Whether the run asked for what the closed form says, byte for byte."""
    said = traffic(result.plan)
    found = (result.loads(), result.stores(), result.atomics(), result.mma())
    return found == tuple(dict(sorted(part.items())) for part in (said.loads, said.stores, said.atomics, said.mma))


def cases(name: str, arch: str, dtype: str, seq: int | None = None) -> Iterator[Case]:
    """Lengths around a tile's edges with every schedule, whole and split; one whose scores rise along S."""
    plain = small(name, dtype=dtype, arch=arch)
    tile = plain.plan.geometry.tokens
    lengths = (1, tile - 1, tile, tile + 1, 77) if seq is None else (seq,)
    for i, length in enumerate(lengths):
        schedule = SCHEDULES[i % len(SCHEDULES)]
        yield small(name, dtype=dtype, arch=arch, seq=length, schedule=schedule, splits=1 if i % 2 else 3)
    yield small(name, dtype=dtype, arch=arch, seq=seq or 200, values="rising", splits=2)


def judge(case: Case) -> Verdict:
    """Run one trial. A fault of the kernel is a verdict; PTX that the interpreter does not know is raised."""
    said = traffic(case.plan)
    try:
        result = execute(case)
    except Fault as fault:
        if fault.kind == "unknown":  # the interpreter's gap, which says nothing of the kernel
            raise
        return _verdict(case, said, None, fault)
    return _verdict(case, said, result, None)


def _verdict(case: Case, said: Traffic, result: Result | None, fault: Fault | None) -> Verdict:
    same = result is not None and agrees(result)
    error = error_of(case, result) if result is not None else math.nan
    right = error <= LIMIT and same
    loads = result.loads() if result is not None else {}
    return Verdict(
        kernel=case.kernel,
        dtype=case.dtype,
        head_dim=case.head_dim,
        group=case.group,
        seq=case.seq,
        splits=case.splits,
        schedule=case.schedule,
        values=case.values,
        error=None if math.isnan(error) else float(error),
        limit=LIMIT,
        requested_bytes=sum(loads.get(n, 0) for n in ("k", "v", "latent")) if result is not None else None,
        predicted_bytes=said.cache_bytes,
        traffic_agrees=same,
        verdict="right" if right else "wrong",
        fault=fault.message if fault is not None else None,
    )


def verify(names: list[str], gpu: Gpu, dtype: str = "fp16", seq: int | None = None) -> Verification:
    """Trials of the kernels, compiled for the GPU's architecture. What it does not run is left out, by name.

    Raises KvperfError where nothing remains to run, for an unknown kernel, and where NVRTC is missing.
    """
    arch = capability(gpu)
    verdicts: list[Verdict] = []
    problems: list[KvperfError] = []
    for name in names:
        kernel(name)
        plain = small(name, dtype=dtype, arch=arch)
        try:
            support(name, dtype, plain.head_dim, plain.group, arch)
            chosen = list(cases(name, arch, dtype, seq))
        except KvperfError as problem:
            problems.append(problem)
            continue
        verdicts += [judge(case) for case in chosen]
    if not verdicts:
        raise problems[0]
    return Verification(
        schema_version="kvperf.kernel-verification/1",
        version=kvperf.__version__,
        gpu=gpu.name,
        capability=arch,
        verdicts=tuple(verdicts),
        left_out=tuple(problem.message for problem in problems),
    )
