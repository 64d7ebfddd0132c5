"""Rows of the comm tables: collectives between the GPUs of one node, and DeepEP's expert exchange."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from kvperf.launches.collective import Collective, Exchange, Mode, Operation, Phase
from kvperf.silicon.lint import lone_spikes, message_bytes
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read, versions

COLUMNS = ["kernel_source", "allreduce_dtype", "op_name", "nccl_dtype", "num_gpus", "message_size", "latency"]
NCCL_VERSIONS = {"a100-sxm": "2.27.3", "l40s": "2.27.3"}
NODE_GPUS = {"gb200": 4, "gb300": 4}  # more ranks span trays
EXCHANGE_TABLES = {"low_latency": "comm/wideep_deepep_ll_perf", "normal": "comm/wideep_deepep_normal_perf"}
SEVERAL_NODES = "0.5.6.post2"  # the version whose tables go beyond one node
# One ConnectX-7 for each GPU, as the package's own system files say; the latency is infiniband-ndr's.
NETWORK_BYTES_PER_S, NETWORK_LATENCY_S = 50e9, 3.7e-6
ROUTED_NODES = 4
CONGESTED = (
    "congested_network",
    "normal kernels on 8 nodes reach 17 GB/s of network where DeepEP publishes 45 and low latency reaches 44",
)
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
    table, nodes = _exchange_table(gpu, mode, phase, version)
    return _exchange_rows(gpu, mode, phase, table, nodes == 1)


def network_exchange_rows(gpu: str, mode: Mode, phase: Phase, version: str = SEVERAL_NODES) -> tuple[Rows, int]:
    """DeepEP on 2, 4 and 8 nodes of 8 GPUs, and how many rows of 8 nodes are left out (CONGESTED).

    The tables of H100 and H200 hold the same rows: one set of machines was measured, with one 400 Gb/s adapter for each
    GPU. Its normal kernels route each token to at most 4 nodes (DeepEP's tests/test_internode.py).
    """
    if version not in versions(gpu, EXCHANGE_TABLES[mode], "sglang"):
        return Rows(None, np.zeros(0), []), 0
    table, nodes = _exchange_table(gpu, mode, phase, version)
    congested = (nodes == 8) & (mode == "normal")
    return _exchange_rows(gpu, mode, phase, table, (nodes > 1) & ~congested), int(congested.sum())


def _exchange_table(gpu: str, mode: Mode, phase: Phase, version: str):
    columns = [*DEEPEP_COLUMNS, *_exchange_times(mode, phase), "node_num"]
    table = read(gpu, EXCHANGE_TABLES[mode], "sglang", version, columns)
    return table, table["node_num"].to_numpy()


def _exchange_times(mode: Mode, phase: Phase) -> tuple[str, ...]:
    """Columns that add up to the time; on one node the first one of the normal kernels holds both."""
    low = mode == "low_latency"
    return (f"{phase}_avg_t_us",) if low else (f"{phase}_transmit_us", f"{phase}_notify_us")


def _exchange_rows(gpu: str, mode: Mode, phase: Phase, table, chosen) -> Rows:
    value = {
        c: table[c].to_numpy()[chosen].astype(float) for c in (*DEEPEP_COLUMNS, "node_num") if c in table.schema.names
    }
    nodes, node_ranks = value["node_num"], NODE_GPUS.get(gpu, 8)
    hidden, tokens, topk, experts = (value[c] for c in ("hidden_size", "num_token", "num_topk", "num_experts"))
    sms = value.get("dispatch_sms", np.zeros(len(tokens)))
    one = bool((nodes == 1).all())
    columns = (hidden, tokens, topk, experts, sms) if one else (hidden, tokens, topk, experts, sms, nodes)
    whole = [column.astype(int).tolist() for column in columns]
    keys = [",".join(map(str, (mode, phase, *row))) for row in zip(*whole, strict=True)]
    launch = Exchange(tokens, hidden, topk, experts, node_ranks, sms, phase, mode, node_ranks)
    if not one:
        network = {"network_bytes_per_s": NETWORK_BYTES_PER_S, "network_latency_s": NETWORK_LATENCY_S}
        launch = replace(launch, ranks=nodes * node_ranks, routed_nodes=ROUTED_NODES, **network)
    took_us = sum(table[name].to_numpy()[chosen].astype(float) for name in _exchange_times(mode, phase))
    return Rows(launch, took_us * 1e-6, keys)


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
