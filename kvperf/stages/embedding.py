"""From token ids to hidden states."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.stages.boundary import boundary_bytes
from kvperf.work import Work
from kvperf.workload import Workload


def embedding(shard: Shard, workload: Workload) -> Work:
    """Gather one row of the embedding table for each new token.

    activation_read_bytes  = w*T*d + 4*T
    activation_write_bytes = a*T*d
    compulsory_bytes       = w*d + 4*T
    kernels                = launches

    Compulsory is one row: tokens may repeat.

    Source: a gather of T rows and their int32 ids; Vaswani et al. 2017 (arXiv:1706.03762) section 3.4.
    """
    T, d = workload.tokens, shard.hidden_size
    w, a = shard.formats.embedding.element_bytes, boundary_bytes(shard, workload)
    # A megakernel is one launch for the whole step, counted here.
    launches = 1
    return Work(
        activation_read_bytes=w * T * d + 4 * T,
        activation_write_bytes=a * T * d,
        widest_kernel_bytes=a * T * d + 4 * T,
        compulsory_bytes=w * d + 4 * T,
        kernels=launches,
    )


def position(shard: Shard, workload: Workload) -> Work:
    """Add a row of the learned position table to each hidden state.

    vector_flops           = T*d
    activation_read_bytes  = w*T*d + a*T*d
    activation_write_bytes = a*T*d
    compulsory_bytes       = w*d
    kernels                = launches

    Compulsory is one row: sequences may stand at the same position.

    Source: GPT-2 (Radford et al. 2019) section 2.3; Zhang et al. 2022 (OPT, arXiv:2205.01068).
    """
    T, d = workload.tokens, shard.hidden_size
    w, a = shard.formats.base.element_bytes, boundary_bytes(shard, workload)
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=T * d,
        activation_read_bytes=w * T * d + a * T * d,
        activation_write_bytes=a * T * d,
        compulsory_bytes=w * d,
        kernels=launches,
    )
