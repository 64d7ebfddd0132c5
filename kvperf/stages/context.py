"""What context-parallel ranks send one another so that every query meets every key."""

from __future__ import annotations

from typing import Any

from kvperf.arith import least
from kvperf.layout import Shard
from kvperf.model.architecture import Compressed, GroupedQuery, Latent
from kvperf.stages.boundary import boundary_bytes
from kvperf.stages.collective import reach
from kvperf.stages.kv_update import cached_bytes, cached_elements, span_of
from kvperf.work import Work
from kvperf.workload import Workload


def pass_keys(shard: Shard, workload: Workload) -> Work:
    """Pass keys and values around the ring of ranks: each sends its own on, and those it receives but the last.

    activation_read_bytes  = c*sent*cached
    activation_write_bytes = c*sent*cached
    link_bytes             = inside*c*sent*cached
    network_bytes          = across*c*far*cached
    kernels                = launches*(ranks - 1)

    sent    entries that a rank passes on: its part of the sequences to all others; under a window or in chunks only
            what the next piece can see, of both its pieces
    far     entries that cross to its node from others, over the ports of its ranks
    cached  elements of one entry
    ranks   ranks of the ring
    inside  1 if several of the ranks are on one node, else 0
    across  1 if they are on several nodes, else 0

    Source: Liu et al. 2023 (Ring Attention, arXiv:2310.01889) section 3: blocks of keys and values rotate.
    """
    sent, far = passed_on(shard, workload), crossing(shard, workload)
    cached, c, ranks = cached_elements(shard.mixer), cached_bytes(shard.mixer, shard.kv), shard.context.ranks
    inside, across, _ = reach(shard.context)
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=c * sent * cached,
        activation_write_bytes=c * sent * cached,
        link_bytes=inside * c * sent * cached,
        network_bytes=across * c * far * cached,
        kernels=launches * (ranks - 1),
    )


def passed_on(shard: Shard, workload: Workload) -> Any:
    """Entries that a rank sends around the ring, all sequences: its two pieces of each to whom they concern."""
    span, others = span_of(shard.mixer), shard.context.ranks - 1
    reach = span.window if span.chunk is None else span.chunk
    if reach is None:
        return workload.over_requests(lambda context, new: context * others)
    return workload.over_requests(lambda context, new: least(context * others, 2 * (reach - 1)))


def crossing(shard: Shard, workload: Workload) -> Any:
    """Entries that must come over each port of a node: those of other nodes, once, over the ports of its ranks."""
    group = shard.context
    others = (group.ranks - group.node_ranks) / group.node_ranks
    far = workload.over_requests(lambda context, new: context * others)
    return least(far, passed_on(shard, workload))


def share_queries(shard: Shard, workload: Workload) -> Work:
    """Give every rank all queries, each of which meets a part of its keys on every rank.

    activation_read_bytes  = a*T*H*Dq
    activation_write_bytes = a*T*H*Dq*ranks
    link_bytes             = inside*m*T*H*Dq
    network_bytes          = across*m*T*H*Dq
    kernels                = launches

    m       bytes of an element between ranks
    Dq      elements of a query head, of a latent's with its rotated part
    ranks   ranks that share out the tokens of each sequence
    inside  1 if several of the ranks are on one node, else 0
    across  1 if they are on several nodes, else 0

    Source: Bhatia et al. 2025 (Helix Parallelism, arXiv:2507.07120) section 2: KV parallelism in decode.
    """
    T, (H, Dq, _), ranks = workload.tokens, heads(shard), shard.context.ranks
    a, m = boundary_bytes(shard, workload), shard.activation.element_bytes
    inside, across, _ = reach(shard.context)
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=a * T * H * Dq,
        activation_write_bytes=a * T * H * Dq * ranks,
        link_bytes=inside * m * T * H * Dq,
        network_bytes=across * m * T * H * Dq,
        kernels=launches,
    )


def join_outputs(shard: Shard, workload: Workload) -> Work:
    """Send the partial outputs and their log-sum-exps to the rank of each token, which joins them.

    vector_flops           = 3*T*H*Do*ranks
    activation_read_bytes  = 4*T*H*(Do + 1)*ranks
    activation_write_bytes = a*T*H*Do
    link_bytes             = inside*4*T*H*(Do + 1)*ranks*(node_ranks - 1)/node_ranks
    network_bytes          = across*4*T*H*(Do + 1)*(nodes - 1)
    kernels                = launches

    Do      elements of an output head, of a latent's its rank
    ranks   ranks that share out the tokens of each sequence
    nodes   nodes they are on: partial outputs of a node are joined before they leave it
    node_ranks  ranks on one node
    inside  1 if several of the ranks are on one node, else 0
    across  1 if they are on several nodes, else 0

    Source: Dao et al. 2023 (Flash-Decoding): exact combination by log-sum-exp, in fp32, 4 bytes each; Bhatia et al.
    2025 (arXiv:2507.07120) section 2.
    """
    T, (H, _, Do), ranks, nodes = workload.tokens, heads(shard), shard.context.ranks, shard.context.nodes
    a = boundary_bytes(shard, workload)
    inside, across, node_ranks = reach(shard.context)
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=3 * T * H * Do * ranks,
        activation_read_bytes=4 * T * H * (Do + 1) * ranks,
        activation_write_bytes=a * T * H * Do,
        link_bytes=inside * 4 * T * H * (Do + 1) * ranks * (node_ranks - 1) / node_ranks,
        network_bytes=across * 4 * T * H * (Do + 1) * (nodes - 1),
        kernels=launches,
    )


def swap_heads(shard: Shard, workload: Workload) -> Work:
    """Swap tokens for heads: each rank gets all tokens of some heads, and gives its tokens' outputs back afterwards.

    activation_read_bytes  = a*T*(H*Dq + copies*cached + H*Do)
    activation_write_bytes = a*T*(H*Dq + copies*cached + H*Do)
    link_bytes             = inside*m*T*(H*Dq + copies*cached + H*Do)*(node_ranks - 1)/ranks
    network_bytes          = across*m*T*(H*Dq + copies*cached + H*Do)*(nodes - 1)/nodes
    kernels                = 2*launches

    m       bytes of an element between ranks
    Dq      elements of a query head
    Do      elements of an output head
    cached  elements of a token's keys and values
    copies  ranks that need each of them: those that share a KV head, and all for a latent
    ranks   ranks that share out the tokens of each sequence
    nodes   nodes they are on
    node_ranks  ranks on one node
    inside  1 if several of the ranks are on one node, else 0
    across  1 if they are on several nodes, else 0

    Source: Jacobs et al. 2023 (DeepSpeed Ulysses, arXiv:2309.14509) section 3.2: all-to-all of Q, K, V and of the
    output.
    """
    T, (H, Dq, Do), cached = workload.tokens, heads(shard), cached_elements(shard.mixer)
    copies = copies_needed(shard)
    ranks, nodes = shard.context.ranks, shard.context.nodes
    a, m = boundary_bytes(shard, workload), shard.activation.element_bytes
    inside, across, node_ranks = reach(shard.context)
    launches = workload.launches(serving=1)
    return Work(
        activation_read_bytes=a * T * (H * Dq + copies * cached + H * Do),
        activation_write_bytes=a * T * (H * Dq + copies * cached + H * Do),
        link_bytes=inside * m * T * (H * Dq + copies * cached + H * Do) * (node_ranks - 1) / ranks,
        network_bytes=across * m * T * (H * Dq + copies * cached + H * Do) * (nodes - 1) / nodes,
        kernels=2 * launches,
    )


def copies_needed(shard: Shard) -> float:
    """Ranks that need each key and value after tokens were swapped for heads."""
    kv_heads = shard.mixer.kv_heads if isinstance(shard.mixer, GroupedQuery) else 1
    return max(1.0, shard.context.ranks / kv_heads)


def meets_a_cache(shard: Shard) -> bool:
    """Whether a layer's queries look at other tokens' keys; a recurrent mixer has a state instead."""
    return isinstance(shard.mixer, GroupedQuery | Latent | Compressed)


def heads(shard: Shard) -> tuple[Any, int, int]:
    """Query heads of this rank, the elements of a query and those of an output before they are joined.

    Ranks that swap tokens for heads do so before queries are absorbed into latents and after outputs have left them.
    """
    mixer: Any = shard.mixer
    if isinstance(mixer, Latent) and shard.swaps_heads:
        return mixer.heads, mixer.nope_head_dim + mixer.rope_head_dim, mixer.v_head_dim
    if isinstance(mixer, Latent):
        return mixer.heads, mixer.kv_lora_rank + mixer.rope_head_dim, mixer.kv_lora_rank
    return mixer.heads, mixer.head_dim, mixer.value_dim if isinstance(mixer, GroupedQuery) else mixer.head_dim
