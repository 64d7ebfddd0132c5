"""The time of a collective inside one node: NCCL's, and the all-reduce kernels that stacks bring along.

A message of S bytes on N ranks, link rate B per direction. NCCL, ring (its small protocols and its large one):

    nccl_launch_s + hop_s*hops + D + 2*sqrt(D*chunk_s),   D = ring_bytes / (link_efficiency*B)

The square root is what is left of a pipeline of chunks when the chunk size is chosen best: each chunk costs
`chunk_s`, and each hop waits for its first chunk. NVLink SHARP (Hopper and Blackwell, more than 2 ranks) starts
later and moves (1 + 1/N)*S at `multicast_share` of that rate; NCCL takes the faster. A stack's own kernels read and
write the peers' buffers directly:

    one-shot   own_launch_s + peer_s*(N-1) + (N-1)*S / min(own_efficiency*B, bytes in flight / read_s)
    two-shot   own_launch_s + peer_s*(N-1) + barrier_s + 2*(N-1)/N*S / (own_efficiency*B)
    multicast  own_launch_s + peer_s*(N-1) + barrier_s + (1+1/N)*S / (multicast_share*own_efficiency*B)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvperf.arith import choose, least, most, power
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
    limits = launch.limits(gpu.architecture.name)
    by_nccl = nccl_price(launch, gpu, constants)
    if launch.stack == "nccl" or launch.operation != "all_reduce":
        return by_nccl
    rate = constants["own_efficiency"] * link_bytes_per_s(gpu)
    start_s = constants["own_launch_s"] + constants["peer_s"] * (launch.ranks - 1)
    one_shot = start_s + most(launch.one_shot_bytes / rate, launch.read_rounds * constants["read_s"])
    one_shot = one_shot + _spill_s(launch, gpu)
    two_shot = start_s + constants["barrier_s"] + launch.ring_bytes / rate
    multicast = start_s + constants["barrier_s"] + launch.multicast_bytes / (multicast_share(gpu) * rate)
    priced = choose(launch.bytes <= limits.multicast, multicast, by_nccl)
    priced = choose(launch.bytes <= limits.two_shot, two_shot, priced)
    priced = choose(launch.bytes <= limits.hole, by_nccl, priced)
    return choose(launch.bytes <= limits.one_shot, one_shot, priced)


def nccl_price(launch: Collective, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """NCCL's ring, or the switch's reduction where it is faster."""
    rate = constants["link_efficiency"] * link_bytes_per_s(gpu)
    wire_s = launch.ring_bytes / rate
    ring = constants["nccl_launch_s"] + constants["hop_s"] * launch.hops + wire_s
    ring = ring + 2 * power(wire_s * constants["chunk_s"], 0.5)
    if launch.operation != "all_reduce" or not has_multicast(gpu):
        return ring
    switch = constants["multicast_start_s"] + launch.multicast_bytes / (multicast_share(gpu) * rate)
    return choose(launch.ranks > 2, least(ring, switch), ring)


def floor(launch: Collective, gpu: Gpu) -> Any:
    """Bytes that must leave or enter each GPU at the link rate.

    An all-reduce moves 2*(N-1)/N*S between peers; a switch that reduces and multiplies halves that.
    """
    passes = 2 if launch.operation == "all_reduce" and not has_multicast(gpu) else 1
    return passes * (launch.ranks - 1) / launch.ranks * launch.bytes / link_bytes_per_s(gpu)


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


EXCHANGE_CONSTANTS = (
    Constant("exchange_launch_s", "start of the kernels, and every rank seen to have arrived", 1e-5, 1e-6, 1e-4),
    Constant("expert_s", "low latency: one more expert's counter to send and wait for", 1e-8, 1e-11, 1e-6, 0.0),
    Constant(
        "pair_token_s", "low latency: one token, handled by the warps of its (rank, expert) pair", 5e-7, 1e-9, 1e-5, 0.0
    ),
    Constant("sm_bytes_per_s", "normal: what one SM moves", 1e10, 1e9, 1e12, 1e15),
    Constant("exchange_efficiency", "share of the link rate that the exchange keeps", 0.5, 0.05, 1.0),
)


def exchange_price(launch: Exchange, gpu: Gpu, constants: Mapping[str, float]) -> Any:
    """Launch + bytes over the link; not faster than one (rank, expert) pair's warps, nor than the SMs given."""
    rate = constants["exchange_efficiency"] * link_bytes_per_s(gpu)
    start_s = constants["exchange_launch_s"]
    if launch.mode == "low_latency":
        moving_s = most(launch.bytes / rate, launch.pair_tokens * constants["pair_token_s"])
        return start_s + constants["expert_s"] * launch.experts + moving_s
    return start_s + launch.bytes / least(rate, launch.sms * constants["sm_bytes_per_s"])


def exchange_floor(launch: Exchange, gpu: Gpu) -> Any:
    """The copies that leave each rank at the link rate."""
    return (launch.ranks - 1) / launch.ranks * launch.bytes / link_bytes_per_s(gpu)


def with_nccl(nccl: Mapping[str, float]) -> Family:
    """A stack's own kernels alone: NCCL's constants are given, so that only its own are fitted."""

    def priced(launch: Collective, gpu: Gpu, constants: Mapping[str, float]) -> Any:
        return price(launch, gpu, {**nccl, **constants})

    return Family("all_reduce", OWN_CONSTANTS, priced, floor)


NCCL = Family("nccl", NCCL_CONSTANTS, nccl_price, floor)
COLLECTIVE = Family("collective", NCCL_CONSTANTS + OWN_CONSTANTS, price, floor)
EXCHANGE = Family("exchange", EXCHANGE_CONSTANTS, exchange_price, exchange_floor)
