"""What one rank has of a step's tokens: its sequences under attention data parallelism, its part of each under context
parallelism, and one micro-batch of them under pipeline parallelism.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import ceil_div, least, most
from kvperf.layout.parallelism import Parallelism
from kvperf.workload import Requests, Whole, Workload


class Share(msgspec.Struct, frozen=True):
    """The busiest rank's tokens, as the workloads of four kinds of stages; one object where nothing is shared out.

    tokens     everything that works token by token
    norms      norms and residuals, on 1/tp of these under sequence parallelism
    attention  what looks at the cache: its queries, and the keys and values that they meet
    cache      what stays in this rank's cache after the step
    """

    tokens: Workload
    norms: Workload
    attention: Workload
    cache: Workload


def shared(workload: Workload, parallelism: Parallelism) -> Share:
    """One rank's share of a step, of all its micro-batches together."""
    replace = msgspec.structs.replace
    mine = workload
    if parallelism.attention_dp > 1:
        mine = replace(workload, requests=_dealt(workload.requests, parallelism.attention_dp))
    c = parallelism.cp
    tokens = attention = cache = mine
    if c > 1:
        tokens = replace(mine, requests=_token_share(mine, c))
        if parallelism.context == "ring":
            cache = replace(mine, requests=tuple(_part_of_each(r, c) for r in mine.requests))
        if parallelism.context == "ulysses":  # all tokens of some heads, cached as they are attended to
            attention = mine
        else:
            growing, chunks = _growing(mine)
            met = (*(_met(r, c) for r in growing), *(_ring(r, c) for r in chunks))
            attention = replace(mine, requests=met)
    if parallelism.shares_tokens:
        tokens = replace(tokens, routed_tokens=workload.tokens)
    norms = tokens
    if parallelism.sequence_parallel and parallelism.tp > 1:
        norms = replace(tokens, requests=_scattered(tokens, parallelism.tp))
    return Share(tokens, norms, attention, cache)


def micro_batch(workload: Workload, count: Any, last: bool = False) -> Workload:
    """The largest of `count` parts of a step's sequences, or the smallest."""
    if isinstance(count, int) and count == 1:
        return workload
    requests = _left(workload.requests, count) if last else _dealt(workload.requests, count)
    return msgspec.structs.replace(workload, requests=requests)


def micro_batches(workload: Workload, parallelism: Parallelism) -> Any:
    """Parts in which the busiest attention group's sequences go through the stages."""
    if parallelism.pp == 1 and parallelism.micro_batches is None:
        return 1
    wanted = parallelism.pp if parallelism.micro_batches is None else parallelism.micro_batches
    sequences = ceil_div(workload.sequences, parallelism.attention_dp)
    return least(wanted, sequences)


def _dealt(requests: tuple[Requests, ...], groups: Any) -> tuple[Requests, ...]:
    """Every `groups`-th sequence, the longest first: the hand of the group that gets the first one."""
    dealt, before = [], 0
    order = sorted(range(len(requests)), key=lambda i: _longest_first(requests[i]))
    hands: dict[int, Any] = {}
    for index in order:
        after = before + requests[index].count
        hands[index] = ceil_div(after, groups) - ceil_div(before, groups)
        before = after
    for index, request in enumerate(requests):
        count = hands[index]
        if isinstance(count, int) and count == 0:
            continue
        dealt.append(Requests(count, request.context_tokens, request.new_tokens))
    return tuple(dealt)


def _left(requests: tuple[Requests, ...], groups: Any) -> tuple[Requests, ...]:
    """The hand of the group that is dealt to last."""
    dealt, before = [], 0
    for request in requests:
        after = before + request.count
        count = after // groups - before // groups
        before = after
        if not (isinstance(count, int) and count == 0):
            dealt.append(msgspec.structs.replace(request, count=count))
    return tuple(dealt)


def _longest_first(request: Requests) -> Any:
    """Pieces of prompts before sequences that decode, long contexts before short ones."""
    return tuple(-n if isinstance(n, int) else 0 for n in (request.new_tokens, request.context_tokens))


def _growing(workload: Workload) -> tuple[tuple[Requests, ...], tuple[Requests, ...]]:
    """Sequences that decode, and pieces of prompts."""
    requests = workload.requests
    if workload.reads_prompts:
        return (), requests
    return (requests[:-1], requests[-1:]) if workload.phase == "mixed" else (requests, ())


def _token_share(workload: Workload, ranks: int) -> tuple[Requests, ...]:
    """Prompts are cut into pieces; sequences with few new tokens are dealt out whole."""
    growing, chunks = _growing(workload)
    return (*_dealt(growing, ranks), *(_cut(r, ranks) for r in chunks))


def _cut(request: Requests, ranks: int) -> Requests:
    """Its new tokens shared out evenly; what a token sees stays."""
    return Requests(request.count, request.context_tokens, ceil_div(request.new_tokens, ranks))


def _part_of_each(request: Requests, ranks: int) -> Requests:
    """Every `ranks`-th entry of the cache, old and new."""
    return Requests(request.count, ceil_div(request.context_tokens, ranks), ceil_div(request.new_tokens, ranks))


def _met(request: Requests, ranks: int) -> Requests:
    """All new tokens are queries of every rank, on every `ranks`-th entry (Bhatia et al. 2025, Helix, 2507.07120)."""
    context = most(ceil_div(request.context_tokens, ranks), request.new_tokens)
    return Requests(request.count, context, request.new_tokens)


def _ring(request: Requests, ranks: int) -> Requests:
    """Pieces from both ends of a prompt (zig-zag), so that each rank has 1/ranks of the pairs under the causal mask.

    n = N/c new tokens at the average place of the prompt see S − (N − n)/2 entries, themselves included.
    Source: Liu et al. 2023 (Ring Attention, arXiv:2310.01889); Brandon et al. 2023 (Striped Attention, 2311.09431).
    """
    own = ceil_div(request.new_tokens, ranks)
    context = request.context_tokens - (request.new_tokens - own) // 2
    return Requests(request.count, context, own, Whole(request.context_tokens, request.new_tokens, ranks))


def _scattered(workload: Workload, ranks: int) -> tuple[Requests, ...]:
    """1/ranks of the tokens, as rows without a context."""
    return (Requests(1, ceil_div(workload.tokens, ranks), ceil_div(workload.tokens, ranks)),)
