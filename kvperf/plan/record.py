"""The record of a search, `kvperf.plan/1`: SI base units, unknown is null."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvperf.arith import Number
from kvperf.strategies.record import Strategy


class Load(msgspec.Struct, frozen=True):
    """What is to be served, and how fast.

    prompt_tokens, output_tokens  of each request
    ttft_s    from a request's arrival to its first token;  tpot_s: from one token to the next, on average
    requests_per_s  that arrive (None: as many as the GPUs serve)
    most_gpus  of all replicas and pools together
    prices     of one GPU for an hour, in any currency: one for all, or one for each GPU to choose from (none: unknown)
    """

    prompt_tokens: int
    output_tokens: int
    ttft_s: float | None = None
    tpot_s: float | None = None
    requests_per_s: float | None = None
    most_gpus: int = 8
    prices: tuple[float, ...] = ()


class Pool(msgspec.Struct, frozen=True):
    """Replicas of one layout that do the same work.

    degrees   of the layout, those above 1
    batch     sequences that one replica works on at a time
    gpus      of one replica
    """

    degrees: dict[str, int]
    gpus: int
    replicas: int
    batch: int


class Serving(msgspec.Struct, frozen=True):
    """One way to serve the load.

    mode      mixed: every replica prefills in chunks beside its decoding; apart: one pool prefills, another decodes
    pools     one for mixed; the prefilling, then the decoding one for apart
    tokens_per_s_per_gpu   output tokens over all GPUs;  tokens_per_s_per_user: 1 / tpot_s
    requests_per_s  that all replicas together serve
    gpus      of all pools
    cost_per_million_tokens  output tokens, at the price given
    bound_by  the resource whose peak is closest in the decode step
    stopped_by  what forbids the next larger batch that the search tries; empty: nothing does
    warnings  what the prediction rests on that was not measured
    """

    mode: Literal["mixed", "apart"]
    gpu: str
    weight_dtype: str
    kv_dtype: str
    pools: tuple[Pool, ...]
    chunk_tokens: int | None
    ttft_s: Number
    tpot_s: Number
    tokens_per_s_per_gpu: Number
    tokens_per_s_per_user: Number
    requests_per_s: Number
    gpus: int
    cost_per_million_tokens: Number | None
    spare_bytes: Number | None
    bound_by: str
    stopped_by: str
    warnings: tuple[str, ...] = ()


class Rejected(msgspec.Struct, frozen=True):
    """Ways that are none, by reason: how many, by how much the closest one misses (None: no way at all), and which."""

    reason: str
    count: int
    misses_by: str | None
    closest: str


class Plan(msgspec.Struct, frozen=True, rename={"schema_version": "schema"}):
    """What a search found.

    front     ways that no other one beats in both tokens/s/GPU and tokens/s/user, the fastest for a user first
    evaluated points: layouts × formats × batches × modes
    strategies  notes on each parallel strategy, where asked for
    closest   where the front is empty, by how much the closest way misses
    """

    schema_version: Literal["kvperf.plan/1"]
    version: str
    model: str
    stack: str
    load: Load
    evaluated: int
    met: int
    front: tuple[Serving, ...]
    rejected: tuple[Rejected, ...]
    closest: str | None = None
    strategies: tuple[Strategy, ...] = ()
