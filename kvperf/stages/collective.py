"""What the ranks of a tensor-parallel layout tell each other."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.stages.boundary import boundary_bytes
from kvperf.work import Work
from kvperf.workload import Workload


def all_reduce(shard: Shard, workload: Workload) -> Work:
    """Add up the ranks' partial hidden states, so that every rank has the sum.

    vector_flops           = T*d
    activation_read_bytes  = a*T*d
    activation_write_bytes = a*T*d
    link_bytes             = m*T*d
    kernels                = launches

    m  bytes of an element between ranks

    Source: Shoeybi et al. 2019 (Megatron-LM, arXiv:1909.08053) section 3. Of every element either a rank's part must
    leave it, or (where it adds up this element) the sum: once the message, which reduction in the switch (NVLS) reaches
    at any number of ranks; a ring sends 2*(t - 1)/t of it, the same for two.
    """
    T, d, a, m = workload.tokens, shard.hidden_size, boundary_bytes(shard, workload), shard.activation.element_bytes
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=T * d,
        activation_read_bytes=a * T * d,
        activation_write_bytes=a * T * d,
        link_bytes=m * T * d,
        kernels=launches,
    )


def all_gather(shard: Shard, workload: Workload) -> Work:
    """Bring the ranks' logits together, from which the next tokens are chosen.

    activation_read_bytes  = a*T_out*V
    activation_write_bytes = a*T_out*V*ranks
    link_bytes             = 8*T_out
    kernels                = launches

    ranks  ranks that hold a part of the vocabulary

    Source: vLLM's LogitsProcessor gathers all logits. What must leave a rank is less, the largest logit of a row with
    its token: 4 bytes each.
    """
    T_out, V, a, ranks = workload.logit_rows, shard.vocab_size, boundary_bytes(shard, workload), shard.ranks
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=a * T_out * V,
        activation_write_bytes=a * T_out * V * ranks,
        link_bytes=8 * T_out,
        kernels=launches,
    )
