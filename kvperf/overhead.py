"""Memory that no layer needs: buffers of the collectives, and captured CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvperf.layout import Layout
from kvperf.model.architecture import Experts
from kvperf.pipeline import StageWork
from kvperf.stages.exchange import experts_stored, width

# Buffers of NCCL, by ranks of the largest group: the same files, misc.nccl_mem.
COLLECTIVE_BUFFER_BYTES = {1: 0, 2: 358_612_992, 4: 411_041_792}
# Memory of one kernel in a captured graph: 0.21 GiB for 35 graphs of Llama-3.2-1B, 164 kernels each (the log in
# vllm-project/vllm#11349). vLLM captures as many batch sizes.
GRAPH_KERNEL_BYTES = 39_283
GRAPHS = 35
EXCHANGED_TOKENS = 128  # of a rank at a time: DeepEP's README, num_max_dispatch_tokens_per_rank


def collective_buffer_bytes(layout: Layout) -> int:
    """NCCL's buffers for the largest group that a rank is in, and DeepEP's where experts are exchanged."""
    largest = max(layout.parallelism.stage_gpus, min(layout.parallelism.pp, 2))
    return COLLECTIVE_BUFFER_BYTES[1 if largest == 1 else 2 if largest == 2 else 4] + _exchange_buffer_bytes(layout)


def _exchange_buffer_bytes(layout: Layout) -> int:
    """Twice a message of each phase for every expert and token (DeepEP, csrc/config.hpp, LowLatencyLayout)."""
    exchanging = [k.shard for k in layout.kinds if isinstance(k.shard.ffn, Experts) and k.shard.exchanges]
    if layout.parallelism.ep == 1 or not exchanging:
        return 0
    row = 2 * width(exchanging[0])
    return 2 * experts_stored(exchanging[0]) * EXCHANGED_TOKENS * (row + row + 16)


def graph_bytes(stages: Sequence[StageWork]) -> Any:
    """Captured graphs of a step's kernels, one for each batch size that a stack captures."""
    kernels: Any = 0
    for stage in stages:
        kernels = kernels + stage.work.kernels
    return GRAPHS * GRAPH_KERNEL_BYTES * kernels
