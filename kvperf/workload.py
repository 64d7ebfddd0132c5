"""What one generation step is asked to do: its requests, precisions and serving plan.

`context_tokens` counts every KV entry the last new token sees, itself included. A ragged batch is a
list of request groups; stages see only sums over them, so that a batch of any mix costs the same to
model, and the numeric fields may be float64 arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from kvperf.arith import ceil_div, choose, least, most, total

Phase = Literal["decode", "prefill", "chunk", "mixed", "verify"]
Fusion = Literal["eager", "serving", "megakernel"]
Sampling = Literal["argmax", "top-k", "top-p", "cpu"]


class Whole(msgspec.Struct, frozen=True):
    """A prompt that `ranks` share out."""

    context_tokens: Any
    new_tokens: Any
    ranks: int


class Requests(msgspec.Struct, frozen=True):
    """`count` sequences alike: `new_tokens` enter this step, the last of them sees `context_tokens`.

    whole  where ranks share out a prompt: its own context and new tokens, and how many they are
    """

    count: Any
    context_tokens: Any
    new_tokens: Any
    whole: Whole | None = None


class Span(msgspec.Struct, frozen=True):
    """How far a query looks back: a sliding `window`, a fixed `chunk`, or the `top_k` keys an indexer selects."""

    window: int | None = None
    chunk: int | None = None
    top_k: int | None = None


FULL = Span()


class Workload(msgspec.Struct, frozen=True):
    """One step of one model.

    weight_dtype      the layers' matrices (None: as the checkpoint is published)
    activation_dtype  the inputs of quantised matrices (None: as the checkpoint says)
    kv_dtype          the cache (None: the checkpoint's base dtype)
    page_tokens       tokens of one page of the KV cache
    fusion            which operations share a kernel;  qkv_gemms: 3 or 1
    logits            rows sent to the LM head: the last of each request, or all (verification)
    scope             the whole step, or its attention alone
    routed_tokens     tokens of all ranks that hold the experts together (None: this rank has them all)
    """

    phase: Phase
    requests: tuple[Requests, ...]
    weight_dtype: str | None = None
    activation_dtype: str | None = None
    kv_dtype: str | None = None
    page_tokens: int = 16
    fusion: Fusion = "serving"
    qkv_gemms: Literal[1, 3] = 1
    sampling: Sampling = "argmax"
    logits: Literal["last", "all"] = "last"
    scope: Literal["step", "attention"] = "step"
    routed_tokens: Any = None

    @property
    def reads_prompts(self) -> bool:
        """Whether its new tokens are pieces of prompts, many to a sequence."""
        return self.phase in ("prefill", "chunk")

    def over_requests(self, value: Callable[[Any, Any], Any]) -> Any:
        """Σ over sequences of `value(context_tokens, new_tokens)`."""
        return total(r.count * value(r.context_tokens, r.new_tokens) for r in self.requests)

    @property
    def sequences(self) -> Any:
        """B, sequences of the step."""
        return total(r.count for r in self.requests)

    @property
    def tokens(self) -> Any:
        """T, new tokens of the step."""
        return total(r.count * r.new_tokens for r in self.requests)

    @property
    def expert_tokens(self) -> Any:
        """New tokens that the experts are chosen for, of all ranks that hold them together."""
        return self.tokens if self.routed_tokens is None else self.routed_tokens

    @property
    def logit_rows(self) -> Any:
        """T_out, rows sent to the LM head."""
        return self.tokens if self.logits == "all" else self.sequences

    def visible_pairs(self, span: Span = FULL) -> Any:
        """P, query-key pairs that a causal mask leaves, over all sequences."""
        return total(r.count * _pairs(r, span) for r in self.requests)

    def padded_pairs(self, span: Span = FULL, group: int = 1, rows: int = 16) -> Any:
        """P with the `group`·new query rows that share a KV head padded to whole tiles of `rows`."""

        def padded(r: Requests) -> Any:
            shared = group * r.new_tokens
            return _pairs(r, span) * (ceil_div(shared, rows) * rows) / shared

        return total(r.count * padded(r) for r in self.requests)

    def read_tokens(self, span: Span = FULL) -> Any:
        """R, KV entries an attention kernel reads, each once a sequence."""
        return self.over_requests(lambda context, new: read_tokens(context, new, span))

    def cached_tokens(self, span: Span = FULL) -> Any:
        """C, entries it must read that were in the cache before the step."""
        return total(r.count * _cached(r, span) for r in self.requests)

    def kept_tokens(self, span: Span = FULL) -> Any:
        """N, new entries that a later step can still see, and so must be written."""
        return self.over_requests(lambda context, new: kept_tokens(context, new, span))

    def pages(self, span: Span = FULL) -> Any:
        """Page-table entries an attention kernel reads."""
        return self.over_requests(lambda context, new: ceil_div(read_tokens(context, new, span), self.page_tokens))

    def continuing(self) -> Any:
        """Sequences with a past, whose recurrent state must be read."""
        return self.over_requests(lambda context, new: choose(context > new, 1, 0))

    def launches(self, serving: int, eager: int | None = None) -> int:
        """Kernels of an operation under this step's fusion; a megakernel is one launch for the whole step."""
        if self.fusion == "megakernel":
            return 0
        return serving if self.fusion == "serving" or eager is None else eager


def _pairs(requests: Requests, span: Span) -> Any:
    """Pairs of the busiest rank: its share of a whole prompt's, and under a window those of the prompt's middle."""
    own = visible_pairs(requests.context_tokens, requests.new_tokens, span)
    whole = requests.whole
    if whole is None:
        return own
    return most(own, visible_pairs(whole.context_tokens, whole.new_tokens, span) / whole.ranks)


def _cached(requests: Requests, span: Span) -> Any:
    """A rank's share of what was cached of a whole prompt."""
    whole = requests.whole
    if whole is None:
        return cached_tokens(requests.context_tokens, requests.new_tokens, span)
    return cached_tokens(whole.context_tokens, whole.new_tokens, span) / whole.ranks


def _clipped_sum(n: Any, window: Any) -> Any:
    """Σ_{p=1..n} min(p, window)."""
    ramp = least(n, window)
    return ramp * (ramp + 1) // 2 + (n - ramp) * window


def _chunked_sum(n: Any, chunk: Any) -> Any:
    """Σ_{p=1..n} ((p − 1) mod chunk) + 1."""
    whole = n // chunk
    rest = n - whole * chunk
    return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2


def visible_pairs(context: Any, new: Any, span: Span = FULL) -> Any:
    """Query-key pairs of one sequence under a causal mask: Σ_{j=1..q} min(S − q + j, reach)."""
    if span.chunk is not None:
        return _chunked_sum(context, span.chunk) - _chunked_sum(context - new, span.chunk)
    reach = _reach(span)
    if reach is None:
        return new * (context - new) + new * (new + 1) // 2
    return _clipped_sum(context, reach) - _clipped_sum(context - new, reach)


def read_tokens(context: Any, new: Any, span: Span = FULL) -> Any:
    """Distinct KV entries that the new tokens of one sequence look at."""
    if span.chunk is not None:
        return context - (context - new) // span.chunk * span.chunk
    if span.top_k is not None:
        # Each query selects its own keys; together they can't exceed the context.
        return least(context, _clipped_sum(context, span.top_k) - _clipped_sum(context - new, span.top_k))
    if span.window is not None:
        return least(context, span.window + new - 1)
    return context


def cached_tokens(context: Any, new: Any, span: Span = FULL) -> Any:
    """Entries of one sequence that were cached before the step and must be read in it."""
    past = context - new
    if span.chunk is not None:
        return past - past // span.chunk * span.chunk
    if span.top_k is not None:
        # At least one query's selection; new tokens may be part of it.
        return most(least(context, span.top_k) - new, 0)
    if span.window is not None:
        return least(past, span.window - 1)
    return past


def kept_tokens(context: Any, new: Any, span: Span = FULL) -> Any:
    """New entries of one sequence that some later token can see."""
    if span.chunk is not None:
        return least(new, context - context // span.chunk * span.chunk)
    if span.window is not None:
        return least(new, span.window - 1)
    return new


def resident_tokens(context: Any, span: Span = FULL) -> Any:
    """Entries of one sequence that the cache holds after the step."""
    reach = span.chunk if span.chunk is not None else span.window
    return context if reach is None else least(context, reach)


def _reach(span: Span) -> int | None:
    return span.top_k if span.top_k is not None else span.window
