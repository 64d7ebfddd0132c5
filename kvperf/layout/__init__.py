"""What one rank of a layout owns: heads, KV heads, experts, layers, vocabulary rows, tokens.

One GPU is the trivial layout. More GPUs divide the shapes here, before any formula is evaluated; finished work is never
divided by the number of GPUs.
"""

from kvperf.layout.parallelism import ALONE, DEGREES, Group, Parallelism, checked, on_nodes
from kvperf.layout.rank import Layout, Owned, one_rank, stages
from kvperf.layout.shard import Formats, Shard
from kvperf.layout.share import Share, micro_batch, micro_batches, shared

__all__ = [
    "ALONE",
    "DEGREES",
    "Formats",
    "Group",
    "Layout",
    "Owned",
    "Parallelism",
    "Shard",
    "Share",
    "checked",
    "micro_batch",
    "micro_batches",
    "on_nodes",
    "one_rank",
    "shared",
    "stages",
]
