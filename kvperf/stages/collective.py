"""What the ranks of a layout tell each other: tensor parallelism's sums and gatherings, and a pipeline's hand-over.

Bytes are those that must leave a rank, over the links inside its node and over the network between nodes. A message
that all ranks of a node have crosses the network in slices, one from each of them (two-level collectives).
"""

from __future__ import annotations

from kvperf.layout import Group, Shard
from kvperf.stages.boundary import boundary_bytes
from kvperf.work import Work
from kvperf.workload import Workload


def all_reduce(shard: Shard, workload: Workload) -> Work:
    """Add up the ranks' partial hidden states, so that every rank has the sum.

    vector_flops           = T*d
    activation_read_bytes  = a*T*d
    activation_write_bytes = a*T*d
    link_bytes             = inside*m*T*d
    network_bytes          = across*m*T*d/node_ranks
    kernels                = launches

    m  bytes of an element between ranks
    inside      1 if several of the ranks are on one node, else 0
    across      1 if they are on several nodes, else 0
    node_ranks  ranks on one node

    Source: Shoeybi et al. 2019 (Megatron-LM, arXiv:1909.08053) section 3. Of every element either a rank's part must
    leave it, or (where it adds up this element) the sum: once the message, which reduction in the switch (NVLS) reaches
    at any number of ranks; a ring sends 2*(t - 1)/t of it, the same for two.
    """
    T, d, a, m = workload.tokens, shard.hidden_size, boundary_bytes(shard, workload), shard.activation.element_bytes
    inside, across, node_ranks = reach(shard.tensor)
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=T * d,
        activation_read_bytes=a * T * d,
        activation_write_bytes=a * T * d,
        link_bytes=inside * m * T * d,
        network_bytes=across * m * T * d / node_ranks if across else 0,
        kernels=launches,
    )


def all_gather(shard: Shard, workload: Workload) -> Work:
    """Bring the ranks' logits together, from which the next tokens are chosen.

    activation_read_bytes  = a*T_out*V
    activation_write_bytes = a*T_out*V*ranks
    link_bytes             = inside*8*T_out
    network_bytes          = across*8*T_out/node_ranks
    kernels                = launches

    ranks  ranks that hold a part of the vocabulary
    inside      1 if several of the ranks are on one node, else 0
    across      1 if they are on several nodes, else 0
    node_ranks  ranks on one node

    Source: vLLM's LogitsProcessor gathers all logits. What must leave a rank is less, the largest logit of a row with
    its token: 4 bytes each.
    """
    T_out, V, a, ranks = workload.logit_rows, shard.vocab_size, boundary_bytes(shard, workload), shard.ranks
    inside, across, node_ranks = reach(shard.tensor)
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=a * T_out * V,
        activation_write_bytes=a * T_out * V * ranks,
        link_bytes=inside * 8 * T_out,
        network_bytes=across * 8 * T_out / node_ranks if across else 0,
        kernels=launches,
    )


def scatter_sums(shard: Shard, workload: Workload) -> Work:
    """Add up the ranks' partial hidden states; each rank keeps the sums of its own tokens (sequence parallelism).

    vector_flops           = T*d
    activation_read_bytes  = a*T*d
    activation_write_bytes = a*T*d/ranks
    link_bytes             = inside*m*T*d*(node_ranks - 1)/node_ranks
    network_bytes          = across*m*T*d/node_ranks*(nodes - 1)/nodes
    kernels                = launches

    m  bytes of an element between ranks
    ranks       ranks that share out the tokens
    nodes       nodes they are on
    inside      1 if several of the ranks are on one node, else 0
    across      1 if they are on several nodes, else 0
    node_ranks  ranks on one node

    Source: Korthikanti et al. 2022 (arXiv:2205.05198) section 4.2.2: the reduce-scatter of sequence parallelism.
    """
    T, d, a, m = workload.tokens, shard.hidden_size, boundary_bytes(shard, workload), shard.activation.element_bytes
    ranks, nodes = shard.tensor.ranks, shard.tensor.nodes
    inside, across, node_ranks = reach(shard.tensor)
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=T * d,
        activation_read_bytes=a * T * d,
        activation_write_bytes=a * T * d / ranks,
        link_bytes=inside * m * T * d * (node_ranks - 1) / node_ranks,
        network_bytes=across * m * T * d / node_ranks * (nodes - 1) / nodes,
        kernels=launches,
    )


def gather_tokens(shard: Shard, workload: Workload) -> Work:
    """Bring the ranks' tokens together before a product that needs them all (sequence parallelism).

    activation_read_bytes  = a*T*d/ranks
    activation_write_bytes = a*T*d
    link_bytes             = inside*m*T*d/node_ranks
    network_bytes          = across*m*T*d/ranks
    kernels                = launches

    m  bytes of an element between ranks
    ranks   ranks that share out the tokens
    node_ranks  ranks on one node
    inside  1 if several of the ranks are on one node, else 0
    across  1 if they are on several nodes, else 0

    Source: Korthikanti et al. 2022 (arXiv:2205.05198) section 4.2.2. A rank's tokens must leave it once, and inside the
    node those that come for it from other nodes; a switch can multiply them, a ring passes on everybody's.
    """
    T, d, a, m = workload.tokens, shard.hidden_size, boundary_bytes(shard, workload), shard.activation.element_bytes
    ranks = shard.tensor.ranks
    inside, across, node_ranks = reach(shard.tensor)
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=a * T * d / ranks,
        activation_write_bytes=a * T * d,
        link_bytes=inside * m * T * d / node_ranks,
        network_bytes=across * m * T * d / ranks,
        kernels=launches,
    )


def hand_over(shard: Shard, workload: Workload) -> Work:
    """Send the hidden states to the next pipeline stage: each rank a slice, which the receivers gather.

    activation_read_bytes  = a*T*d/ranks
    activation_write_bytes = a*T*d
    link_bytes             = m*T*d/ranks*(1 - across + gathers)
    network_bytes          = across*m*T*d/ranks
    kernels                = launches

    m  bytes of an element between ranks
    ranks    tensor-parallel ranks of a stage
    across   1 if the next stage is on another node, else 0
    gathers  1 if the slices must be gathered, else 0

    Source: Narayanan et al. 2021 (arXiv:2104.04473) section 4.1: the scatter/gather optimisation.
    """
    T, d, a, m = workload.tokens, shard.hidden_size, boundary_bytes(shard, workload), shard.activation.element_bytes
    ranks, across, gathers = shard.ranks, int(shard.pipeline.nodes > 1), int(shard.ranks > 1)
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=a * T * d / ranks,
        activation_write_bytes=a * T * d,
        link_bytes=m * T * d / ranks * (1 - across + gathers),
        network_bytes=across * m * T * d / ranks,
        kernels=launches,
    )


def reach(group: Group) -> tuple[int, int, int]:
    """Whether a group has links inside a node, whether it has them across, and its ranks on one node."""
    return int(group.node_ranks > 1), int(group.nodes > 1), group.node_ranks
