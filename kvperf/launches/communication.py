"""What a stack launches where ranks talk to one another: its own all-reduce, NCCL for the rest, DeepEP for experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvperf.arith import most
from kvperf.launches.collective import Collective, Exchange, Operation
from kvperf.launches.planned import Plan, Planned
from kvperf.layout import Group
from kvperf.model.architecture import Experts
from kvperf.stages.context import copies_needed, heads, passed_on
from kvperf.stages.exchange import dispatched_bytes, experts_stored, sent_tokens, width
from kvperf.stages.kv_update import cached_bytes, cached_elements

if TYPE_CHECKING:
    from kvperf.launches.plan import Asked

# The SMs that DeepEP's normal kernels use unless told otherwise (deep_ep/buffer.py, Buffer.num_sms).
EXCHANGE_SMS = 20


def plan(asked: Asked) -> Plan:
    """The launches of a stage of communication."""
    return PLANNERS[asked.formula](asked)


def collective(asked: Asked, group: Group, operation: Operation, message_bytes: Any, stack: str = "nccl") -> Planned:
    """One collective of `group`; beyond a node it is NCCL's, whoever asks."""
    launch = Collective(
        bytes=message_bytes,
        ranks=group.ranks,
        operation=operation,
        stack=stack if group.nodes == 1 else "nccl",
        algorithm=asked.all_reduce if operation == "all_reduce" else "stack",
        nodes=group.nodes,
        network_bytes_per_s=asked.network_bytes_per_s,
        network_latency_s=asked.network_latency_s or 0.0,
    )
    return Planned("collective", launch)


def _hidden_bytes(asked: Asked) -> Any:
    """The hidden states of the rank's tokens, as they travel."""
    return asked.shard.activation.element_bytes * asked.workload.tokens * asked.shard.hidden_size


def _all_reduce(asked: Asked) -> Plan:
    return (collective(asked, asked.shard.tensor, "all_reduce", _hidden_bytes(asked), asked.stack),)


def _gather_logits(asked: Asked) -> Plan:
    """In the activations' dtype."""
    whole = asked.workload.logit_rows * asked.shard.vocab_size * asked.shard.ranks
    return (collective(asked, asked.shard.tensor, "all_gather", asked.shard.activation.element_bytes * whole),)


def _scatter_sums(asked: Asked) -> Plan:
    return (collective(asked, asked.shard.tensor, "reduce_scatter", _hidden_bytes(asked)),)


def _gather_tokens(asked: Asked) -> Plan:
    return (collective(asked, asked.shard.tensor, "all_gather", _hidden_bytes(asked)),)


def _hand_over(asked: Asked) -> Plan:
    """A slice to the next stage; where several ranks have one each, they gather them."""
    size, shard = _hidden_bytes(asked), asked.shard
    sent = (collective(asked, shard.pipeline, "send", size / shard.ranks),)
    return sent if shard.ranks == 1 else (*sent, collective(asked, shard.tensor, "all_gather", size))


def _pass_keys(asked: Asked) -> Plan:
    shard = asked.shard
    times = shard.context.ranks - 1
    size = cached_bytes(shard.mixer, shard.kv) * cached_elements(shard.mixer) * passed_on(shard, asked.workload)
    sent = collective(asked, shard.context, "send", size / times)
    return (Planned(sent.family, sent.launch, times),)


def _share_queries(asked: Asked) -> Plan:
    shard, (number, query, _) = asked.shard, heads(asked.shard)
    size = shard.activation.element_bytes * asked.workload.tokens * number * query * shard.context.ranks
    return (collective(asked, shard.context, "all_gather", size),)


def _join_outputs(asked: Asked) -> Plan:
    """fp32, with a log-sum-exp for each head."""
    shard, (number, _, output) = asked.shard, heads(asked.shard)
    size = 4 * asked.workload.tokens * number * (output + 1) * shard.context.ranks
    return (collective(asked, shard.context, "reduce_scatter", size),)


def _swap_heads(asked: Asked) -> Plan:
    """Queries, keys and values there; outputs back."""
    shard, (number, query, output) = asked.shard, heads(asked.shard)
    rows = shard.activation.element_bytes * asked.workload.tokens
    there = collective(
        asked, shard.context, "alltoall", rows * (number * query + copies_needed(shard) * cached_elements(shard.mixer))
    )
    return there, collective(asked, shard.context, "alltoall", rows * number * output)


def _dispatch(asked: Asked) -> Plan:
    if asked.shard.expert_ranks == 1:
        size = dispatched_bytes(asked.shard, asked.workload) * asked.workload.expert_tokens * width(asked.shard)
        return (collective(asked, asked.shard.exchange, "all_gather", size),)
    return (Planned("exchange", _exchange(asked, "dispatch")),)


def _combine(asked: Asked) -> Plan:
    if asked.shard.expert_ranks == 1:
        size = asked.shard.activation.element_bytes * asked.workload.expert_tokens * width(asked.shard)
        return (collective(asked, asked.shard.exchange, "reduce_scatter", size),)
    return (Planned("exchange", _exchange(asked, "combine")),)


def _exchange(asked: Asked, phase: Any) -> Exchange:
    """DeepEP: its low-latency kernels for decode, the normal ones for prompts."""
    shard = asked.shard
    ffn = shard.ffn
    assert isinstance(ffn, Experts)
    return Exchange(
        tokens=most(sent_tokens(shard, asked.workload), 1) * 1.0,
        hidden=width(shard),
        topk=ffn.top_k,
        experts=experts_stored(shard),
        ranks=shard.exchange.ranks,
        sms=EXCHANGE_SMS,
        phase=phase,
        mode="normal" if asked.workload.reads_prompts or asked.workload.phase == "mixed" else "low_latency",
        node_ranks=shard.exchange.node_ranks,
        routed_nodes=shard.routed_nodes,
        network_bytes_per_s=asked.network_bytes_per_s,
        network_latency_s=asked.network_latency_s or 0.0,
    )


PLANNERS: dict[str, Callable[[Asked], Plan]] = {
    "all_reduce": _all_reduce,
    "all_gather": _gather_logits,
    "scatter_sums": _scatter_sums,
    "gather_tokens": _gather_tokens,
    "hand_over": _hand_over,
    "pass_keys": _pass_keys,
    "share_queries": _share_queries,
    "join_outputs": _join_outputs,
    "swap_heads": _swap_heads,
    "expert_dispatch": _dispatch,
    "expert_combine": _combine,
}
