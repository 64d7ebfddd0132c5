"""Communication between GPUs: collectives of one node, with the path that each stack takes, and expert exchange."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kvperf.arith import ceil_div, ceil_log2, choose, least, power

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "alltoall", "send"]
Algorithm = Literal["stack", "nccl", "one-shot", "two-shot", "ring", "tree", "nvls"]
Phase = Literal["dispatch", "combine"]
Mode = Literal["low_latency", "normal"]

KIB = 1024
MIB = 1024 * 1024
ALWAYS = 1 << 60


class Limits(msgspec.Struct, frozen=True):
    """Up to how many bytes (inclusive) a stack's all-reduce takes each path; above the last one it calls NCCL.

    one_shot   every rank reads all others' buffers
    hole       NCCL, between one-shot and two-shot
    two_shot   reduce-scatter, then all-gather, through the peers' buffers
    multicast  loads that the switch reduces and stores that it multiplies (NVLink SHARP)
    """

    one_shot: Any = 0
    hole: Any = 0
    two_shot: Any = 0
    multicast: Any = 0


# SGLang, srt/distributed/device_communicators/custom_all_reduce_v2.py, THRESHOLD_2_SHOT_MAP: one-shot up to these
# sizes (tuned on H200, on B200 for sm_100), two-shot up to the 16 MiB of the pull buffer.
_SGLANG_HOPPER = {
    2: Limits(16 * MIB),
    3: Limits(512 * KIB, two_shot=16 * MIB),
    4: Limits(384 * KIB, two_shot=16 * MIB),
    5: Limits(256 * KIB, two_shot=16 * MIB),
    6: Limits(192 * KIB, two_shot=16 * MIB),
    7: Limits(192 * KIB, two_shot=16 * MIB),
    8: Limits(160 * KIB, two_shot=16 * MIB),
}
_SGLANG_BLACKWELL = {
    2: Limits(16 * MIB),
    3: Limits(4 * MIB, two_shot=16 * MIB),
    4: Limits(2 * MIB, two_shot=16 * MIB),
    5: Limits(2 * MIB, two_shot=16 * MIB),
    6: Limits(1 * MIB, two_shot=16 * MIB),
    7: Limits(896 * KIB, two_shot=16 * MIB),
    8: Limits(720 * KIB, two_shot=16 * MIB),
}
# vLLM's custom all-reduce, csrc/custom_all_reduce.cuh: one-shot for 2 ranks, below 512 KiB for 4, below 256 KiB for
# 6 and 8; at most 8 MiB. SGLang's first version is the same kernel.
_FIRST = {
    2: Limits(8 * MIB),
    4: Limits(512 * KIB - 1, two_shot=8 * MIB),
    6: Limits(256 * KIB - 1, two_shot=8 * MIB),
    8: Limits(256 * KIB - 1, two_shot=8 * MIB),
}
# vLLM, distributed/device_communicators/all_reduce_utils.py: CUSTOM_ALL_REDUCE_MAX_SIZES, then
# SYMM_MEM_ALL_REDUCE_MAX_SIZES (multicast for the rank counts of symm_mem.py, two-shot for the others).
_VLLM_HOPPER = {
    2: Limits(64 * MIB),
    4: Limits(512 * KIB - 1, two_shot=32 * MIB),
    6: Limits(256 * KIB - 1, two_shot=512 * KIB, multicast=64 * MIB),
    8: Limits(256 * KIB - 1, two_shot=256 * KIB, multicast=64 * MIB),
}
_VLLM_BLACKWELL = {
    2: Limits(2 * MIB, two_shot=8 * MIB),
    4: Limits(512 * KIB - 1, two_shot=32 * MIB),
    6: Limits(256 * KIB - 1, two_shot=1 * MIB - 1, multicast=128 * MIB),
    8: Limits(256 * KIB - 1, two_shot=1 * MIB - 1, multicast=128 * MIB),
}
# TensorRT-LLM, common/customAllReduceUtils.h: AllReduceBestStrategyTable without fusion at a hidden size of 4096.
_TRTLLM_HOPPER = {
    2: Limits(16 * MIB),
    4: Limits(1 * MIB, two_shot=8 * MIB),
    8: Limits(512 * KIB, hole=1 * MIB, two_shot=4 * MIB),
}
_TRTLLM_BLACKWELL = {
    2: Limits(16 * MIB),
    4: Limits(4 * MIB, two_shot=16 * MIB),
    8: Limits(2 * MIB, two_shot=32 * MIB),
}
# PCIe cards: both stacks use the first kernel for two GPUs that see each other, and NCCL for more.
_PCIE = {2: Limits(8 * MIB)}
_RULES = {
    ("sglang", "sm_89"): _PCIE,
    ("sglang", "sm_120"): _PCIE,
    ("vllm", "sm_89"): _PCIE,
    ("vllm", "sm_120"): _PCIE,
    ("sglang", "sm_80"): _FIRST,
    ("sglang", "sm_90"): _SGLANG_HOPPER,
    ("sglang", "sm_100"): _SGLANG_BLACKWELL,
    ("vllm", "sm_80"): _FIRST,
    ("vllm", "sm_90"): _VLLM_HOPPER,
    ("vllm", "sm_100"): _VLLM_BLACKWELL,
    ("trtllm", "sm_80"): _TRTLLM_HOPPER,
    ("trtllm", "sm_90"): _TRTLLM_HOPPER,
    ("trtllm", "sm_100"): _TRTLLM_BLACKWELL,
}


class Collective(msgspec.Struct, frozen=True):
    """One collective over the ranks of a group, inside a CUDA graph.

    bytes  of the message as all-reduce counts it: the whole vector, that is what all_gather returns, what
           reduce_scatter takes in and what alltoall holds on each rank
    ranks  GPUs that take part
           (send: what one rank sends another)
    stack  whose all-reduce it is (`sglang`, `vllm`, `trtllm`); `nccl` for NCCL alone. Other operations are NCCL's.
    algorithm  of an all-reduce: what the stack or NCCL would choose, or one of theirs
    nodes      that the ranks are on, joined by a network of this rate (of one GPU) and latency
    """

    bytes: Any
    ranks: Any
    operation: Operation = "all_reduce"
    stack: str = "nccl"
    algorithm: Algorithm = "stack"
    nodes: int = 1
    network_bytes_per_s: float | None = None
    network_latency_s: float = 0.0

    @property
    def hops(self) -> Any:
        """Steps of NCCL's ring one after the other. All-to-all has three (ready, data, done) with all peers at once."""
        if self.operation in ("alltoall", "send"):
            return 3 if self.operation == "alltoall" else 1
        return self.passes * (self.ranks - 1)

    @property
    def passes(self) -> int:
        """How often a byte goes around: as a partial sum, then as the sum."""
        return 2 if self.operation == "all_reduce" else 1

    @property
    def node_hops(self) -> Any:
        """Steps of the ring that cross from node to node (NCCL, src/graph/tuning.cc: nInterSteps)."""
        if self.nodes == 1:
            return 0
        if self.operation in ("alltoall", "send"):
            return 1
        return self.passes * (self.nodes - 1)

    @property
    def ring_bytes(self) -> Any:
        """Bytes that leave each GPU when every byte passes from rank to rank (or, all-to-all, to its owner)."""
        if self.operation == "send":
            return self.bytes
        return self.passes * (self.ranks - 1) / self.ranks * self.bytes

    @property
    def network_bytes(self) -> Any:
        """Bytes that each GPU sends to other nodes: of a collective its share, as every GPU of a node has a port."""
        if self.nodes == 1 or self.operation == "send":
            return 0 if self.nodes == 1 else self.bytes
        share = (self.nodes - 1) / self.nodes * self.bytes
        return share if self.operation == "alltoall" else self.passes * share * self.nodes / self.ranks

    @property
    def one_shot_bytes(self) -> Any:
        """Bytes that arrive at each GPU when it reads all others' buffers."""
        return (self.ranks - 1) * self.bytes

    @property
    def read_rounds(self) -> Any:
        """How often every thread of the one-shot kernel waits for its loads; 0 where enough blocks hide the wait.

        vLLM's kernel (csrc/custom_all_reduce.cuh) has at most 36 blocks of 512 threads, each with 16 bytes of every
        rank under way.
        """
        return self.bytes / (36 * 512 * 16) if self.stack == "vllm" else 0

    @property
    def multicast_bytes(self) -> Any:
        """Bytes that leave each GPU when the switch reduces and multiplies: all of its own, and its reduced share."""
        return (1 + 1 / self.ranks) * self.bytes

    def limits(self, architecture: str, linked: bool = True) -> Limits:
        """Where this launch's stack changes its path on GPUs of an architecture; all zero where NCCL does it all.

        linked  whether a GPU link joins all ranks; without, stacks do as on cards with PCIe alone
        """
        rules = _RULES.get((self.stack, "sm_100" if architecture == "sm_103" else architecture), {})
        if not linked:
            rules = _RULES.get((self.stack, "sm_89"), {})
        if self.operation != "all_reduce":
            rules = {}
        found = dict.fromkeys(Limits.__struct_fields__, 0)
        for ranks, limits in rules.items():
            for name, so_far in found.items():
                found[name] = choose(self.ranks == ranks, getattr(limits, name), so_far)
        return Limits(**found)


class Exchange(msgspec.Struct, frozen=True):
    """Tokens sent to the ranks that hold their experts (dispatch), or their results brought back (combine), by DeepEP.

    tokens  on each rank;  hidden  elements of a token;  topk, experts  of the router, drawn evenly
    ranks   that hold the experts;  node_ranks  those that links join: the others are reached over the network
    sms     that the normal kernels run on
    mode    `low_latency` (decode: one copy of a token for each of its experts) or `normal` (one for each rank that
            holds any of them; to another node one alone, which a rank there passes on over its links)
    routed_nodes         the most nodes that the router sends a token to (DeepSeek-V3: 4); None: any number
    network_bytes_per_s  of one GPU, per direction;  network_latency_s  of one message; both only beyond one node
    """

    tokens: Any
    hidden: Any
    topk: Any
    experts: Any
    ranks: Any = 8
    sms: Any = 24
    phase: Phase = "dispatch"
    mode: Mode = "low_latency"
    node_ranks: Any = 8
    routed_nodes: Any = None
    network_bytes_per_s: Any = None
    network_latency_s: Any = 0.0

    @property
    def token_bytes(self) -> Any:
        """E4M3 with one fp32 scale per 128 elements on the way out, bf16 on the way back."""
        return self.hidden * (1 + 4 / 128) if self.phase == "dispatch" else 2 * self.hidden

    @property
    def near_ranks(self) -> Any:
        """Ranks of one node that take part."""
        return least(self.ranks, self.node_ranks)

    @property
    def nodes(self) -> Any:
        return ceil_div(self.ranks, self.node_ranks)

    @property
    def node_rounds(self) -> Any:
        """Rounds of a barrier between the nodes, each with twice as many: the logarithm of nodes, rounded up."""
        return ceil_log2(self.nodes)

    @property
    def copies(self) -> Any:
        """Copies of each token, its own rank's included; the expected number of distinct ranks in normal mode."""
        if self.mode == "low_latency":
            return self.topk
        return distinct(least(self.ranks, self._reached_nodes * self.node_ranks), self.topk)

    @property
    def network_copies(self) -> Any:
        """Copies of each token that leave its node; in normal mode the expected number of distinct other nodes."""
        if self.mode == "low_latency":
            return self.topk * (self.ranks - self.near_ranks) / self.ranks
        return distinct(self._reached_nodes, self.topk) * (self.nodes - 1) / self.nodes

    @property
    def bytes(self) -> Any:
        """What each rank sends (combine: receives), its own share included: the same kernel copies it."""
        return self.tokens * self.copies * self.token_bytes

    @property
    def network_bytes(self) -> Any:
        """What each rank sends (combine: receives) over the network."""
        return self.tokens * self.network_copies * self.token_bytes

    @property
    def near_bytes(self) -> Any:
        """What the links of each rank carry, and its own share: in normal mode also what comes from other nodes."""
        return self.bytes * self.near_ranks / self.ranks if self.mode == "low_latency" else self.bytes

    @property
    def passes(self) -> Any:
        """How often the SMs of the normal kernels move each copy: beyond one node once more on its way."""
        return choose(self.nodes > 1, 2, 1)

    @property
    def reduction_steps(self) -> Any:
        """Combine in normal mode: a warp reduces a token by 32 lanes of 16 bytes, one step after the other."""
        return self.hidden / 256 if self.phase == "combine" and self.mode == "normal" else 0

    def sm_tokens(self, sms: int) -> Any:
        """Low-latency dispatch: tokens that each SM sends one after the other; 0 for combine.

        DeepEP, csrc/kernels/internode_ll.cu: as many groups of warps to an SM as the experts need, and so many SMs.
        """
        groups = ceil_div(self.experts, sms)
        return self.tokens / ceil_div(self.experts, groups) if self.phase == "dispatch" else 0

    @property
    def _reached_nodes(self) -> Any:
        """Nodes that hold experts which a token may have."""
        return self.nodes if self.routed_nodes is None else least(self.nodes, self.routed_nodes)


def distinct(places: Any, draws: Any) -> Any:
    """The expected number of different places among even draws."""
    return places * (1 - power(1 - 1 / places, draws))
