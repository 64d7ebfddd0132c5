"""Rows of `quantize/scale_matrix_perf` and `quantize/computescale_perf`: bf16 activations to FP8."""

from __future__ import annotations

import numpy as np

from kvperf.errors import KvperfError
from kvperf.launches.small import quantise
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read

COLUMNS = ["m", "k", "quant_dtype", "latency"]


def rows(gpu: str, stack: str, version: str, dynamic: bool = False) -> Rows:
    """FP8 quantising of [m × k] with a given scale, or (dynamic) with one found first.

    `compute_scale` is a difference of two timings; only its sum with the static kernel is the time of a kernel.
    SGLang's rows are a chain of PyTorch operations at a tenth of the HBM peak, not its quantise kernel.
    """
    if stack == "sglang":
        raise KvperfError("SGLang's quantise tables do not time its kernel", "use those of vllm or trtllm")
    table = read(gpu, "quantize/scale_matrix_perf", stack, version, COLUMNS)
    fp8 = np.array([name == "fp8" for name in table["quant_dtype"].to_pylist()])
    m, k, ms = (table[name].to_numpy()[fp8].astype(float) for name in ("m", "k", "latency"))
    if dynamic:
        more = read(gpu, "quantize/computescale_perf", stack, version, COLUMNS)
        columns = (more[name].to_pylist() for name in COLUMNS)
        scale = {(mm, kk): t for mm, kk, name, t in zip(*columns, strict=True) if name == "fp8"}
        ms = ms + np.array([scale[int(mm), int(kk)] for mm, kk in zip(m, k, strict=True)])
    passes = 2 if dynamic and stack == "trtllm" else 1  # a block of vLLM's keeps its token between the passes
    keys = [f"{int(mm)},{int(kk)},{'dynamic' if dynamic else 'static'}" for mm, kk in zip(m, k, strict=True)]
    return Rows(quantise(m, k, passes, warm=True), ms * 1e-3, keys)
