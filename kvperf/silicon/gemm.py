"""Rows of `gemm/gemm_perf`: matrix products through a stack's linear layers.

How they were measured (the collectors of ai-dynamo/aiconfigurator): CUDA-graph replays over several weight matrices
(vLLM and SGLang 6; TensorRT-LLM as many as fill L2, at most 5), one input for all (SGLang: one for each).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.errors import KvperfError
from kvperf.hardware import Gpu, load_gpu
from kvperf.launches.gemm import Gemm
from kvperf.predict.gemm import floor
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read

COLUMNS = ["gemm_dtype", "m", "n", "k", "latency"]
FORMATS = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8-block", "nvfp4": "nvfp4"}
# vLLM runs fp8_block without a CUDA graph: its rows time the host (55 µs at least on H100, 282 µs on L40S).
EAGER = {("vllm", "fp8_block")}
FEWEST = 1000  # a part of a table left over from a run that was cut off


def rows(gpu: str, stack: str, version: str, dtype: str = "bfloat16") -> Rows:
    """One dtype of the table, without the rows that `lint` names."""
    return lint(unchecked(gpu, stack, version, dtype), load_gpu(gpu))[0]


def unchecked(gpu: str, stack: str, version: str, dtype: str = "bfloat16") -> Rows:
    """Every row of one dtype. Raises KvperfError for a table that was not measured in a CUDA graph."""
    if (stack, dtype) in EAGER:
        raise KvperfError(f"{stack}'s {dtype} products were measured without a CUDA graph", "take another stack")
    table = read(gpu, "gemm/gemm_perf", stack, version, COLUMNS)
    mask = np.array(table["gemm_dtype"].to_pylist(), dtype=object) == dtype
    if mask.sum() < FEWEST:
        raise KvperfError(f"{gpu} {stack} {version} holds {mask.sum()} {dtype} products", "take another table")
    m, n, k, ms = (table[name].to_numpy()[mask].astype(float) for name in ("m", "n", "k", "latency"))
    keys = [f"{int(nn)},{int(kk)},{dtype}" for nn, kk in zip(n, k, strict=True)]
    rotated = copies(stack, dtype, n * k, load_gpu(gpu).l2_capacity_bytes or 0)
    name = FORMATS[dtype]
    launch = Gemm(m, n, k, name, name, stack, warm=True, copies=rotated, own_input=stack == "sglang")
    return Rows(launch, ms * 1e-3, keys)


def copies(stack: str, name: str, weights: Any, l2_bytes: int) -> Any:
    """Weight matrices the collector rotates through, of `weights` elements."""
    if stack == "trtllm":
        size = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5}[name]
        return np.clip(np.ceil(l2_bytes / (size * weights)), 1.0, 5.0)
    return np.full(len(weights), 1.0 if (stack, name) == ("vllm", "nvfp4") else 6.0)


def lint(found: Rows, gpu: Gpu) -> tuple[Rows, dict[str, int]]:
    """The rows physics allows, and how many each rule took: nothing computes above the peak or reads faster than HBM.

    HBM must move whatever of all buffers of one replay round L2 cannot hold.
    """
    launch = found.launch
    beyond = launch.flops / found.measured_s > float(gpu.peak(launch.operand).flops_per_s)
    under = found.measured_s < floor(launch, gpu)
    finite = np.isfinite(found.measured_s) & (found.measured_s > 0)
    kept = found.where(finite & ~beyond & ~under)
    return kept, {"flops above the peak": int(beyond.sum()), "bytes above HBM": int((under & ~beyond).sum())}
