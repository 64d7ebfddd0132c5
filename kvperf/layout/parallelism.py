"""How a model is spread over GPUs: the degree of each strategy, and the groups of ranks that talk to one another.

Ranks are numbered so that tensor-parallel neighbours are closest, then context ranks, then attention groups, then
pipeline stages: the groups that talk most stay inside a node (NVIDIA Megatron-LM's order tp-cp-ep-dp-pp).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kvperf.arith import ceil_div
from kvperf.errors import KvperfError

ContextScheme = Literal["ring", "ulysses"]


class Group(msgspec.Struct, frozen=True):
    """Ranks that take part in a collective, evenly spread over `nodes`."""

    ranks: int = 1
    nodes: int = 1

    @property
    def node_ranks(self) -> int:
        """Ranks of the group on one node."""
        return int(ceil_div(self.ranks, self.nodes))


class Parallelism(msgspec.Struct, frozen=True):
    """Degrees of the strategies. A pipeline stage has tp × cp × attention_dp GPUs; the experts are spread over all.

    tp            ranks that slice each layer's matrices by heads and columns
    pp            stages of layers, one after the other
    cp            ranks that share out the tokens of each sequence
    ep            groups of ranks that share out the experts; those of a group slice each expert
    attention_dp  groups that share out the sequences, each with all of attention's weights
    micro_batches       parts of the batch that follow each other through the stages (None: one for each stage)
    context             what travels between context ranks: keys and values (or queries) in a ring, or heads (Ulysses)
    sequence_parallel   norms on 1/tp of the tokens, reduce-scatter and all-gather instead of all-reduce
    redundant_experts   copies of experts beside the model's, so that hot ones are there twice
    expert_imbalance    tokens of the busiest rank's experts over the average rank's
    routed_nodes        the most nodes that the experts of one token are on (None: no limit)
    node_gpus           GPUs of one node, joined by the fast link (None: all)
    """

    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    attention_dp: int = 1
    micro_batches: int | None = None
    context: ContextScheme = "ring"
    sequence_parallel: bool = False
    redundant_experts: int = 0
    expert_imbalance: float = 1.0
    routed_nodes: int | None = None
    node_gpus: int | None = None

    @property
    def stage_gpus(self) -> int:
        """GPUs of one pipeline stage."""
        return self.tp * self.cp * self.attention_dp

    @property
    def gpus(self) -> int:
        """GPUs of the whole layout."""
        return self.stage_gpus * self.pp

    @property
    def nodes(self) -> int:
        """Nodes that the layout reaches over."""
        return self._nodes(self.gpus)

    @property
    def tensor_group(self) -> Group:
        return Group(self.tp, self._nodes(self.tp))

    @property
    def context_group(self) -> Group:
        return Group(self.cp, min(self.cp, self._nodes(self.tp * self.cp)))

    @property
    def expert_group(self) -> Group:
        """All ranks of a pipeline stage: they hold the experts together."""
        return Group(self.stage_gpus, self._nodes(self.stage_gpus))

    def hand_over_group(self, stage: int) -> Group:
        """A rank of a pipeline stage and the one of the next stage that it sends to."""
        if self.pp == 1:
            return Group()
        node = self.node_gpus or self.gpus
        crosses = stage * self.stage_gpus // node != (stage + 1) * self.stage_gpus // node or self.stage_gpus >= node
        return Group(2, 2 if crosses and self.nodes > 1 else 1)

    @property
    def expert_slices(self) -> int:
        """Ranks that slice one expert."""
        return self.stage_gpus // self.ep

    @property
    def shares_tokens(self) -> bool:
        """Whether the ranks of a stage have different tokens, which must travel to their experts."""
        return self.cp * self.attention_dp > 1

    def _nodes(self, gpus: int) -> int:
        return 1 if self.node_gpus is None else int(ceil_div(gpus, self.node_gpus))


ALONE = Parallelism()
DEGREES = ("tp", "pp", "cp", "ep", "attention_dp")


def checked(parallelism: Parallelism) -> Parallelism:
    """The same; raises KvperfError where no cluster could be laid out so, whatever the model."""
    for name in DEGREES:
        degree = getattr(parallelism, name)
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
            raise KvperfError(f"{flag(name)} {degree} is not a number of GPUs", "give 1 or more")
    if parallelism.micro_batches is not None and parallelism.micro_batches < 1:
        raise KvperfError(f"--micro-batches {parallelism.micro_batches} is none", "give 1 or more")
    if parallelism.redundant_experts < 0:
        raise KvperfError(f"--redundant-experts {parallelism.redundant_experts} is none", "give 0 or more")
    if not 1 <= parallelism.expert_imbalance <= 1e6:
        raise KvperfError(
            f"--expert-imbalance {parallelism.expert_imbalance} is no load over the average", "give 1 or more, like 1.2"
        )
    if parallelism.routed_nodes is not None and parallelism.routed_nodes < 1:
        raise KvperfError(f"--routed-nodes {parallelism.routed_nodes} is no number of nodes", "give 1 or more")
    if parallelism.context not in ("ring", "ulysses"):
        raise KvperfError(f"--context-scheme {parallelism.context} is unknown", "ring or ulysses")
    return parallelism


def on_nodes(parallelism: Parallelism, size: int) -> Parallelism:
    """The layout on nodes of `size` GPUs, of which it uses as many as whole groups need; the rest of a node is idle.

    Raises KvperfError where tensor-parallel groups do not fill nodes: their collectives would have no common step.
    """
    tp, stage = parallelism.tp, parallelism.stage_gpus
    used = size
    if parallelism.gpus <= size:
        pass
    elif tp > size:
        if tp % size:
            raise KvperfError(
                f"--tp {tp} does not fill nodes of {size} GPUs evenly", f"use a divisor or a multiple of {size}"
            )
    elif stage <= size:
        used = size // stage * stage
    else:
        used = max(part for part in range(tp, size + 1, tp) if stage % part == 0)
    return msgspec.structs.replace(parallelism, node_gpus=used)


def flag(name: str) -> str:
    """The option of a degree."""
    return "--" + name.replace("_", "-")
