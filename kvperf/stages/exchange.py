"""Tokens that travel to their experts and back, where the ranks of a layout have different tokens."""

from __future__ import annotations

from typing import Any

from kvperf.layout import Shard
from kvperf.model.architecture import Experts
from kvperf.stages.boundary import boundary_bytes, input_bytes
from kvperf.stages.collective import reach
from kvperf.work import Work
from kvperf.workload import Workload


def expert_dispatch(shard: Shard, workload: Workload) -> Work:
    """Send each token to the ranks that hold its experts, in the format that the experts read.

    activation_read_bytes  = x*T*z
    activation_write_bytes = x*T*copies*z
    link_bytes             = inside*x*T*z*copies*beside
    network_bytes          = across*x*T*z*nodes_hit
    kernels                = launches

    z          elements of an expert's input: the hidden size, or the latent
    T          new tokens that this rank sends: its group's, over the tensor-parallel ranks
    copies     distinct ranks that hold an expert of a token, expected
    beside     share of these that are on a rank without the token, of the node where it is, or is brought to
    nodes_hit  other nodes among them: one copy crosses to each, and is passed on there
    inside     1 if several of the ranks are on one node, else 0
    across     1 if they are on several nodes, else 0

    Source: DeepSeek-V3 (arXiv:2412.19437) section 3.2.2: dispatch over InfiniBand to the GPU of the same index, then
    over NVLink; expected ranks and nodes: distinct experts drawn evenly (hypergeometric).
    """
    T, z, x = sent_tokens(shard, workload), width(shard), dispatched_bytes(shard, workload)
    copies, beside, nodes_hit = ranks_hit(shard), share_beside(shard, shard.ranks), other_nodes_hit(shard)
    inside, across, _ = reach(shard.exchange)
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=x * T * z,
        activation_write_bytes=x * T * copies * z,
        link_bytes=inside * x * T * z * copies * beside,
        network_bytes=across * x * T * z * nodes_hit,
        kernels=launches,
    )


def expert_combine(shard: Shard, workload: Workload) -> Work:
    """Bring the experts' results back to the rank of each token, added up on the way.

    vector_flops           = T*copies*z
    activation_read_bytes  = a*T*copies*z
    activation_write_bytes = a*T*z
    link_bytes             = inside*m*T*z*copies*beside
    network_bytes          = across*m*T*z*nodes_hit
    kernels                = launches

    m          bytes of an element between ranks
    z          elements of an expert's output: the hidden size, or the latent
    T          new tokens that this rank gets back: its group's, over the tensor-parallel ranks
    copies     distinct ranks that hold an expert of a token, expected
    beside     share of these that are on another rank of the node where the token is, or is brought to
    nodes_hit  other nodes among them: their sums are made there, and cross once
    inside     1 if several of the ranks are on one node, else 0
    across     1 if they are on several nodes, else 0

    Source: DeepSeek-V3 (arXiv:2412.19437) section 3.2.2: the combine goes the way of the dispatch, in 16 bits.
    """
    T, z, m = sent_tokens(shard, workload), width(shard), shard.activation.element_bytes
    a = boundary_bytes(shard, workload)
    copies, beside, nodes_hit = ranks_hit(shard), share_beside(shard), other_nodes_hit(shard)
    inside, across, _ = reach(shard.exchange)
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=T * copies * z,
        activation_read_bytes=a * T * copies * z,
        activation_write_bytes=a * T * z,
        link_bytes=inside * m * T * z * copies * beside,
        network_bytes=across * m * T * z * nodes_hit,
        kernels=launches,
    )


def sent_tokens(shard: Shard, workload: Workload) -> Any:
    """Tokens that one rank sends: those of its group are on each of its tensor-parallel ranks.

    Those that the rank of the busiest experts receives are more, and its links take as long.
    """
    tokens = workload.tokens / shard.ranks if shard.ranks > 1 else workload.tokens
    return tokens if shard.expert_imbalance == 1 else tokens * shard.expert_imbalance


def dispatched_bytes(shard: Shard, workload: Workload) -> float:
    """Bytes of an element on its way to an expert."""
    given = input_bytes(shard, workload, "experts")
    return given if given else shard.input_format("experts").element_bytes


def ranks_hit(shard: Shard) -> float:
    """Distinct ranks among those that hold a token's top_k experts; where ranks slice an expert, all of its slices."""
    share = reached_share(shard)
    groups = max(1.0, shard.expert_ranks * share)
    return groups_hit(experts_stored(shard) * share, _experts(shard).top_k, groups) * slices(shard)


def other_nodes_hit(shard: Shard) -> float:
    """Distinct nodes among them beside the token's own, under the limit of the routing."""
    nodes, share = shard.exchange.nodes, reached_share(shard)
    if nodes == 1:
        return 0.0
    together = max(1.0, slices(shard) / shard.exchange.node_ranks)  # nodes that slice one expert
    sets = max(1.0, nodes * share / together)
    return groups_hit(experts_stored(shard) * share, _experts(shard).top_k, sets) * together * (nodes - 1) / nodes


def reached_share(shard: Shard) -> float:
    """Share of the nodes, and of the experts, that the routing chooses from for one token."""
    return min(1.0, (shard.routed_nodes or shard.exchange.nodes) / shard.exchange.nodes)


def share_beside(shard: Shard, known: int = 1) -> float:
    """Share of the copies that leave a rank for another one of its node; `known` ranks there have the token already."""
    inside = shard.exchange.node_ranks
    return max(0, inside - known) / inside


def groups_hit(experts: float, chosen: int, groups: float) -> float:
    """Expected groups that hold one of `chosen` of `experts`, shared out evenly: n·(1 − C(E − E/n, k) / C(E, k))."""
    missed, each = 1.0, experts / groups
    for drawn in range(chosen):
        missed = missed * max(0.0, experts - each - drawn) / (experts - drawn)
    return groups * (1 - missed)


def experts_stored(shard: Shard) -> int:
    """The model's experts and their copies."""
    return _experts(shard).experts + shard.redundant_experts


def slices(shard: Shard) -> int:
    """Ranks that slice one expert."""
    return max(1, shard.exchange.ranks // shard.expert_ranks)


def width(shard: Shard) -> int:
    """Elements of a token on its way to the experts."""
    return _experts(shard).latent or shard.hidden_size


def _experts(shard: Shard) -> Experts:
    assert isinstance(shard.ffn, Experts)
    return shard.ffn
