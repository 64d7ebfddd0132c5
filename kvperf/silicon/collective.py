"""Rows of `comm/custom_allreduce_perf` and `comm/nccl_perf`: collectives between the GPUs of one node."""

from __future__ import annotations

import numpy as np

from kvperf.launches.collective import Collective, Exchange, Mode, Operation, Phase
from kvperf.silicon.lint import lone_spikes, message_bytes
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read

COLUMNS = ["kernel_source", "allreduce_dtype", "op_name", "nccl_dtype", "num_gpus", "message_size", "latency"]
NCCL_VERSIONS = {"a100-sxm": "2.27.3", "l40s": "2.27.3"}
NODE_GPUS = {"gb200": 4, "gb300": 4}  # more ranks span trays
DEEPEP_COLUMNS = ["hidden_size", "num_token", "num_topk", "num_experts", "dispatch_sms"]


def rows(gpu: str, stack: str, version: str) -> Rows:
    """All-reduces of a stack inside one node, replayed in a CUDA graph.

    Rows launched eagerly time the CPU and are dropped, and so are lone spikes: one row of H100 SGLang's 138 (1 KiB on
    8 ranks, 38 µs between 3.3 and 3.5).
    """
    table = read(gpu, "comm/custom_allreduce_perf", stack, version, COLUMNS)
    source = table["kernel_source"].to_pylist()
    graph = np.array([not name.endswith("_eager") for name in source])
    chosen = graph & (table["num_gpus"].to_numpy() <= NODE_GPUS.get(gpu, 8))
    dtype = [name for name, keep in zip(table["allreduce_dtype"].to_pylist(), chosen, strict=True) if keep]
    ranks, elements, ms = (table[name].to_numpy()[chosen] for name in ("num_gpus", "message_size", "latency"))
    found = _rows("all_reduce", stack, ranks, elements, dtype, ms)
    return found.where(~lone_spikes(found.launch.bytes, found.measured_s, found.launch.ranks))


def exchange_rows(gpu: str, mode: Mode, phase: Phase, version: str = "0.5.12") -> Rows:
    """DeepEP on one node through SGLang: `mode` low_latency or normal, `phase` dispatch or combine."""
    low = mode == "low_latency"
    took = f"{phase}_avg_t_us" if low else f"{phase}_transmit_us"
    name = "wideep_deepep_ll_perf" if low else "wideep_deepep_normal_perf"
    table = read(gpu, f"comm/{name}", "sglang", version, [*DEEPEP_COLUMNS, took, "node_num"])
    one = table["node_num"].to_numpy() == 1
    columns = [c for c in DEEPEP_COLUMNS if c in table.column_names]
    value = {c: table[c].to_numpy()[one].astype(float) for c in columns}
    sms = value.get("dispatch_sms", np.zeros(int(one.sum())))
    names = ("hidden_size", "num_token", "num_topk", "num_experts")
    whole = [value[c].astype(int).tolist() for c in names] + [sms.astype(int).tolist()]
    keys = [",".join(map(str, (mode, phase, *row))) for row in zip(*whole, strict=True)]
    hidden, tokens, topk, experts = (value[c] for c in names)
    launch = Exchange(tokens, hidden, topk, experts, NODE_GPUS.get(gpu, 8), sms, phase, mode)
    return Rows(launch, table[took].to_numpy()[one].astype(float) * 1e-6, keys)


def nccl_rows(gpu: str, operation: Operation = "all_reduce", version: str | None = None, dtype: str = "half") -> Rows:
    """One operation of nccl-tests. `dtype` is `half` or `int8`."""
    table = read(gpu, "comm/nccl_perf", "nccl", version or NCCL_VERSIONS.get(gpu, "2.29.2"), COLUMNS)
    names, dtypes = table["op_name"].to_pylist(), table["nccl_dtype"].to_pylist()
    mask = np.array([n == operation and d == dtype for n, d in zip(names, dtypes, strict=True)])
    ranks, elements, ms = (table[name].to_numpy()[mask] for name in ("num_gpus", "message_size", "latency"))
    return _rows(operation, "nccl", ranks, elements, [dtype] * int(mask.sum()), ms)


def _rows(operation: Operation, stack: str, ranks, elements, dtype: list[str], ms) -> Rows:
    size = np.array([message_bytes(e, d) for e, d in zip(elements.tolist(), dtype, strict=True)], dtype=float)
    keys = [f"{operation},{r},{e},{d}" for r, e, d in zip(ranks.tolist(), elements.tolist(), dtype, strict=True)]
    launch = Collective(size, ranks.astype(float), operation, stack)
    return Rows(launch, ms.astype(float) * 1e-3, keys)
