"""The time of a collective, NCCL's or the stack's own all-reduce, and of DeepEP's expert exchange.

A message of S bytes on N ranks, link rate B per direction. NCCL, ring (its small protocols and its large one):

    nccl_launch_s + hop_s*hops + D + 2*sqrt(D*chunk_s),   D = ring_bytes / (link_efficiency*B)

The square root is what is left of a pipeline of chunks when the chunk size is chosen best: each chunk costs
`chunk_s`, and each hop waits for its first chunk. NVLink SHARP (Hopper and Blackwell, more than 2 ranks) starts
later and moves (1 + 1/N)*S at `multicast_share` of that rate; NCCL takes the faster. A stack's own kernels read and
write the peers' buffers directly:

    one-shot   own_launch_s + peer_s*(N-1) + (N-1)*S / min(own_efficiency*B, bytes in flight / read_s)
    two-shot   own_launch_s + peer_s*(N-1) + barrier_s + 2*(N-1)/N*S / (own_efficiency*B)
    multicast  own_launch_s + peer_s*(N-1) + barrier_s + (1+1/N)*S / (multicast_share*own_efficiency*B)

Between nodes NCCL alone: some of the ring's hops wait for the network's latency, or those of a tree do, whose depth is
the logarithm of the nodes; D is the longer of the links' and the network's. The form is NCCL's own model
(src/graph/tuning.cc), the latency the network's; no table has it, so that its interval is the widest.

Expert exchange, bytes over links L and over the network W, network rate R and latency l, SMs given to it n:

    low latency  low_start_s + expert_s*experts + [nodes > 1]*(network_start_s + l)
                 + max(L / (low_efficiency*B), W / (network_efficiency*R), sm_token_s*tokens of an SM)
    normal       normal_start_s + reduction_s*steps + log2(nodes)*(network_round_s + l) + M + 2*sqrt(M*pipeline_s),
                 M = max(L / (normal_efficiency*B), W / (network_efficiency*R),
                         copies*passes*(copy_s + token_bytes/sm_bytes_per_s) / n)

The network's constants rest on 16 to 64 GPUs of one cluster (ConnectX-7, one for each GPU), and meet what DeepEP
publishes for H800 (tests/predict/test_exchange.py). No table has several nodes of Blackwell: theirs are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import ceil_log2, choose, least, most, power
from kvperf.errors import KvperfError
from kvperf.launches.collective import Collective, Exchange
from kvperf.predict.family import Constant, Family

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

NCCL_CONSTANTS = (
    Constant("nccl_launch_s", "start of NCCL's kernel and its last store", 6e-6, 1e-6, 4e-5),
    Constant("hop_s", "one step of NCCL's ring: a store to the neighbour, and its flag seen", 1e-6, 1e-7, 2e-5),
    Constant("link_efficiency", "share of the link rate that NCCL keeps", 0.7, 0.02, 1.0),
    Constant("chunk_s", "what each chunk of NCCL's pipeline costs over its bytes", 2e-6, 1e-9, 1e-4, 0.0),
    Constant("multicast_start_s", "start of NCCL's all-reduce in the switch", 7e-5, 1e-5, 1e-3, 1.0),
)
OWN_CONSTANTS = (
    Constant("own_launch_s", "start of the stack's kernel and its first flags", 3e-6, 5e-7, 2e-5),
    Constant("peer_s", "one more peer to signal and wait for", 2e-7, 1e-9, 5e-6, 0.0),
    Constant("barrier_s", "the barrier between the two shots: stores made visible to the peers", 3e-6, 1e-8, 5e-5, 0.0),
    Constant("own_efficiency", "share of the link rate that the stack's kernel keeps", 0.65, 0.02, 1.0),
    Constant(
        "read_s",
        "a load from a peer's memory, there and back (kernels of few blocks wait for it)",
        1e-6,
        1e-9,
        1e-5,
        0.0,
    ),
)

# NCCL's own model of the switch: share of the link rate that it keeps (src/graph/tuning.cc, nvlsEfficiency).
_MULTICAST_SHARE = {"sm_90": 0.85, "sm_100": 0.74, "sm_103": 0.74}


def price(launch: Collective, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """The path that the stack takes at this size and rank count."""
    limits = launch.limits(gpu.architecture.name, gpu.link_bytes_per_s is not None)
    by_nccl = nccl_price(launch, gpu, constants)
    own = launch.operation == "all_reduce" and launch.algorithm in ("stack", "one-shot", "two-shot", "nvls")
    if not own or (launch.stack == "nccl" and launch.algorithm == "stack"):
        return by_nccl
    rate = constants["own_efficiency"] * link_bytes_per_s(gpu)
    start_s = constants["own_launch_s"] + constants["peer_s"] * (launch.ranks - 1)
    one_shot = start_s + most(launch.one_shot_bytes / rate, launch.read_rounds * constants["read_s"])
    one_shot = one_shot + _spill_s(launch, gpu)
    two_shot = start_s + constants["barrier_s"] + launch.ring_bytes / rate
    multicast = start_s + constants["barrier_s"] + launch.multicast_bytes / (multicast_share(gpu) * rate)
    if launch.algorithm != "stack":
        return {"one-shot": one_shot, "two-shot": two_shot}.get(launch.algorithm, multicast)
    priced = choose(launch.bytes <= limits.multicast, multicast, by_nccl)
    priced = choose(launch.bytes <= limits.two_shot, two_shot, priced)
    priced = choose(launch.bytes <= limits.hole, by_nccl, priced)
    return choose(launch.bytes <= limits.one_shot, one_shot, priced)


def nccl_price(launch: Collective, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """NCCL's ring, or the switch's reduction where it is faster; between nodes its ring or its tree."""
    if launch.nodes > 1:  # a network is no faster than the links inside a node
        near = nccl_price(msgspec.structs.replace(launch, nodes=1), gpu, constants)
        return most(_between_nodes(launch, gpu, constants), near)
    rate = constants["link_efficiency"] * link_bytes_per_s(gpu)
    wire_s = launch.ring_bytes / rate
    ring = constants["nccl_launch_s"] + constants["hop_s"] * launch.hops + _piped(wire_s, constants)
    if launch.operation != "all_reduce" or launch.algorithm == "ring":
        return ring
    if launch.algorithm == "tree":
        # Inside a node NCCL's tree is a chain (src/graph/tuning.cc).
        return (
            constants["nccl_launch_s"] + constants["hop_s"] * launch.hops + _piped(2 * launch.bytes / rate, constants)
        )
    if not has_multicast(gpu):
        return ring
    switch = constants["multicast_start_s"] + launch.multicast_bytes / (multicast_share(gpu) * rate)
    return choose(launch.ranks > 2, least(ring, switch), ring)


def _piped(wire_s: Any, constants: Mapping[str, float]) -> Any:
    """Bytes through a pipeline of chunks: the chunks' own cost is least where their number is chosen best."""
    return wire_s + 2 * power(wire_s * constants["chunk_s"], 0.5)


def _between_nodes(launch: Collective, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Hops inside the nodes and between them, and the bytes of the slower of links and network."""
    if launch.network_bytes_per_s is None:
        raise KvperfError("nobody says what network joins the nodes", "name one: --network infiniband-ndr, say")
    near_s = launch.ring_bytes / (constants["link_efficiency"] * link_bytes_per_s(gpu))
    if launch.operation == "send":
        near_s = 0.0
    far_s = launch.network_bytes / (_network("network_efficiency", constants) * launch.network_bytes_per_s)
    wire_s = _piped(most(near_s, far_s), constants)
    start_s = constants["nccl_launch_s"] + wire_s
    ring = start_s + constants["hop_s"] * (launch.hops - launch.node_hops)
    ring = ring + launch.network_latency_s * launch.node_hops
    if launch.operation != "all_reduce" or launch.algorithm == "ring":
        return ring
    inside = launch.ranks / launch.nodes - 1
    tree = start_s + 2 * (constants["hop_s"] * inside + launch.network_latency_s * ceil_log2(launch.nodes))
    return tree if launch.algorithm == "tree" else least(ring, tree)


def floor(launch: Collective, gpu: Gpu) -> Any:
    """Bytes that must leave or enter each GPU at the link rate.

    An all-reduce moves 2*(N-1)/N*S between peers; a switch that reduces and multiplies halves that.
    """
    passes = 2 if launch.operation == "all_reduce" and not has_multicast(gpu) else 1
    near_s = passes * (launch.ranks - 1) / launch.ranks * launch.bytes / link_bytes_per_s(gpu)
    if launch.nodes == 1:
        return near_s if launch.operation != "send" else launch.bytes / link_bytes_per_s(gpu)
    far_s = launch.network_bytes / launch.passes / (launch.network_bytes_per_s or float("inf"))
    return far_s if launch.operation == "send" else most(near_s, far_s)


def link_bytes_per_s(gpu: Gpu) -> float:
    """GPU to GPU per direction: NVLink, else PCIe."""
    rate = gpu.link_bytes_per_s or gpu.host_bytes_per_s
    if rate is None:
        raise KvperfError(f"{gpu.name} lists no link", f"`kvperf gpus show {gpu.name}` lists its links")
    return rate


def has_multicast(gpu: Gpu) -> bool:
    """Whether the NVLink switch reduces (NVLink SHARP, third-generation NVSwitch on)."""
    return gpu.link_bytes_per_s is not None and gpu.architecture.name in _MULTICAST_SHARE


def multicast_share(gpu: Gpu) -> float:
    return _MULTICAST_SHARE.get(gpu.architecture.name, 1.0)


def _spill_s(launch: Collective, gpu: Gpu) -> Any:
    """HBM time of TensorRT-LLM's one-shot buffers beyond L2.

    Its kernel pushes: a rank reads S, stores N*S, and of the N*S that arrive reads all and clears all, then stores S.
    """
    if launch.stack != "trtllm":
        return 0.0
    local = (3 * launch.ranks + 2) * launch.bytes
    return most(local - (gpu.l2_capacity_bytes or 0), 0) / gpu.hbm_bytes_per_s


LOW_LATENCY_CONSTANTS = (
    Constant("low_start_s", "low latency: start of the kernel, and every rank seen to have arrived", 1e-5, 1e-6, 1e-4),
    Constant("expert_s", "low latency: one more expert's counter to send and wait for", 1e-8, 1e-11, 1e-6, 0.0),
    Constant("sm_token_s", "low latency: one token cast and sent by its SM", 2e-6, 1e-8, 1e-5, 0.0),
    Constant("low_efficiency", "low latency: share of the link rate that the kernel keeps", 0.6, 0.05, 1.0),
)
NORMAL_CONSTANTS = (
    Constant("normal_start_s", "normal: start of the kernels, and the counts exchanged", 2.5e-5, 1e-6, 1e-4),
    Constant(
        "reduction_s", "normal: one step of a token's reduction, loads from the buffer awaited", 8e-7, 1e-9, 1e-5, 0.0
    ),
    Constant("pipeline_s", "normal: what each chunk of the pipeline costs over its bytes", 1.3e-6, 1e-9, 1e-4, 0.0),
    Constant("copy_s", "normal: one copy of a token, over its bytes, by its SM", 1e-7, 1e-9, 1e-5, 0.0),
    Constant("sm_bytes_per_s", "normal: what one SM moves", 1.8e10, 1e9, 1e12, 1e15),
    Constant("normal_efficiency", "normal: share of the link rate that the kernels keep", 0.75, 0.05, 1.0),
)
# Where a GPU's tables end at one node, the starts stand: about what H100's give.
NETWORK_CONSTANTS = (
    Constant("network_efficiency", "share of the network's rate that the exchange keeps", 0.93, 0.05, 1.0),
    Constant("network_start_s", "low latency: a message to another node, over its latency", 1e-5, 1e-7, 1e-4),
    Constant("network_round_s", "normal: one round of the barriers between nodes", 2.8e-5, 1e-6, 2e-4),
)


def exchange_price(launch: Exchange, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Start + the slowest of the links, the network and what hands the tokens to them."""
    if launch.mode == "low_latency":
        return _low_latency_price(launch, gpu, constants)
    start_s = constants["normal_start_s"] + constants["reduction_s"] * launch.reduction_steps
    round_s = _network("network_round_s", constants) + launch.network_latency_s
    moving_s = launch.near_bytes / (constants["normal_efficiency"] * link_bytes_per_s(gpu))
    each_s = constants["copy_s"] + launch.token_bytes / constants["sm_bytes_per_s"]
    moving_s = most(moving_s, launch.passes * launch.tokens * launch.copies * each_s / launch.sms)
    moving_s = most(moving_s, _network_s(launch) / _network("network_efficiency", constants))
    fill_s = 2 * power(moving_s * constants["pipeline_s"], 0.5)
    return start_s + round_s * launch.node_rounds + moving_s + fill_s


def _low_latency_price(launch: Exchange, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    start_s = constants["low_start_s"] + constants["expert_s"] * launch.experts
    beyond_s = _network("network_start_s", constants) + launch.network_latency_s
    moving_s = launch.near_bytes / (constants["low_efficiency"] * link_bytes_per_s(gpu))
    moving_s = most(moving_s, launch.sm_tokens(gpu.sms or 1) * constants["sm_token_s"])
    moving_s = most(moving_s, _network_s(launch) / _network("network_efficiency", constants))
    return start_s + choose(launch.nodes > 1, beyond_s, 0.0) + moving_s


def exchange_floor(launch: Exchange, gpu: Gpu) -> Any:
    """The copies that leave each rank at the link rate, and those that leave its node at the network's."""
    links_s = (launch.near_ranks - 1) / launch.near_ranks * launch.near_bytes / link_bytes_per_s(gpu)
    return most(links_s, _network_s(launch))


def _network(name: str, constants: Mapping[str, float]) -> float:
    """A constant of the network; where the GPU's tables end at one node, that of the tables that do not."""
    return constants.get(name, next(c.start for c in NETWORK_CONSTANTS if c.name == name))


def _network_s(launch: Exchange) -> Any:
    """Bytes that leave the node at the network's rate. Raises KvperfError where nobody says what that is."""
    if launch.network_bytes_per_s is not None:
        return launch.network_bytes / launch.network_bytes_per_s
    beyond = launch.nodes > 1
    if getattr(beyond, "any", lambda: beyond)():
        raise KvperfError(
            f"nobody says what network joins the nodes of {launch.ranks} ranks", "name one, or keep to one node"
        )
    return 0.0 * launch.tokens


def with_nccl(nccl: Mapping[str, float]) -> Family:
    """A stack's own kernels alone: NCCL's constants are given, so that only its own are fitted."""

    def priced(launch: Collective, gpu: Gpu, constants: Mapping[str, float]) -> Any:
        return price(launch, gpu, {**nccl, **constants})

    return Family("all_reduce", OWN_CONSTANTS, priced, floor)


NCCL = Family("nccl", NCCL_CONSTANTS, nccl_price, floor)
COLLECTIVE = Family("collective", NCCL_CONSTANTS + OWN_CONSTANTS, price, floor)
EXCHANGE = Family(
    "exchange", LOW_LATENCY_CONSTANTS + NORMAL_CONSTANTS + NETWORK_CONSTANTS, exchange_price, exchange_floor
)
