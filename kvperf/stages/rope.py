"""Rotary position embedding."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.model.architecture import Compressed, GroupedQuery, Latent
from kvperf.stages.boundary import boundary_bytes
from kvperf.work import Work
from kvperf.workload import Workload


def rope(shard: Shard, workload: Workload) -> Work:
    """Rotate queries and keys by their position.

    vector_flops           = 3*T*(H + K)*r
    activation_read_bytes  = a*T*(H + K)*D + 4*T*r
    activation_write_bytes = a*T*(H + K)*D
    kernels                = launches

    D  elements of a head that the kernel reads (of a latent key: the rotated part)

    Source: Su et al. 2021 (arXiv:2104.09864) eq. 34: two products and one sum an element; cos and sin
    come from an fp32 table of r elements a position.
    """
    H, K, D, r = rotated(shard)
    T, a = workload.tokens, boundary_bytes(shard, workload)
    launches = workload.launches(serving=1, eager=2)
    return Work(
        vector_flops=3 * T * (H + K) * r,
        activation_read_bytes=a * T * (H + K) * D + 4 * T * r,
        activation_write_bytes=a * T * (H + K) * D,
        kernels=launches,
    )


def rotated(shard: Shard) -> tuple[int, int, int, int]:
    """Query heads, key heads, elements of a head the kernel touches, and how many of them are rotated."""
    mixer = shard.mixer
    if isinstance(mixer, GroupedQuery):
        return mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.rotary_dim
    if isinstance(mixer, Latent | Compressed):
        return mixer.heads, 1, mixer.rope_head_dim, mixer.rope_head_dim
    return 0, 0, 0, 0
