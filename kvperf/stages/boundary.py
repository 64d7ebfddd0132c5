"""What an activation element costs where it crosses from one kernel to the next."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.workload import Workload


def boundary_bytes(shard: Shard, workload: Workload) -> float:
    """Bytes of an activation element between two kernels; a megakernel keeps them on chip."""
    return 0 if workload.fusion == "megakernel" else shard.activation.element_bytes


def input_bytes(shard: Shard, workload: Workload, module: str) -> float:
    """Bytes of an element that a matrix of `module` reads, quantised where its inputs are."""
    return 0 if workload.fusion == "megakernel" else shard.input_format(module).element_bytes


def written_bytes(shard: Shard, workload: Workload, module: str) -> float:
    """Bytes of an element the kernel before a matrix writes: fused kernels quantise as they write."""
    if workload.fusion == "eager":
        return boundary_bytes(shard, workload)
    return input_bytes(shard, workload, module)
