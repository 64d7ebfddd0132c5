"""The record of a strategy: base units, unknown is null. A verdict is chosen by the figures beside it alone."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvperf.arith import Number

Verdict = Literal["refused", "unfit", "latency", "throughput", "batch", "capacity", "none"]
KvLimit = Literal["kv_heads", "latents", "pages", "layers", "sequences", "no_kv"]
Tier = Literal["predicted", "bound"]


class Kv(msgspec.Struct, frozen=True):
    """The cache of the GPU that keeps most of it at the degree, and of one GPU alone.

    bytes_per_token  that a token adds on a GPU which keeps it;  cache_bytes: of all the step's tokens there
    """

    bytes_per_token: Number
    bytes_per_token_alone: Number
    cache_bytes: Number
    cache_bytes_alone: Number
    cache_share: Number | None


class Collective(msgspec.Struct, frozen=True):
    """An operation between GPUs, and how often a GPU takes part in it in a step."""

    name: str
    count: Number


class Communication(msgspec.Struct, frozen=True):
    """What the GPU that sends most says in a step; share: of the step's time."""

    collectives: tuple[Collective, ...]
    link_bytes: Number
    network_bytes: Number
    time_s: Number
    share: Number


class Speed(msgspec.Struct, frozen=True):
    """The step at the degree against one GPU's with the same batch, and against tensor parallelism's.

    speedup       one GPU's step over this one;  latency: its inverse
    tensor_ratio  this step over that of tensor parallelism on as many GPUs (None: that is refused)
    per_gpu_ratio tokens/s of a GPU over those of one GPU alone
    rival         what the verdict compares with: one GPU, or where that lacks the memory tensor parallelism
    even_batch    the smallest batch, doubling from the step's, with which a GPU gives what one GPU alone gives with
                  the step's (throughput strategies; None: none that fits does)
    overtaking_batch  the smallest, doubling too, with which the step is faster than tensor parallelism's with as many
                  sequences (throughput strategies; None: none that fits both is)
    """

    step_s: Number
    step_alone_s: Number
    speedup: Number
    latency: Number
    tensor_ratio: Number | None
    tokens_per_s_per_gpu: Number
    tokens_per_s_alone: Number
    per_gpu_ratio: Number
    batch: int
    rival: Literal["alone", "tensor"]
    even_batch: int | None = None
    overtaking_batch: int | None = None


class Room(msgspec.Struct, frozen=True):
    """Memory of the fullest GPU, and the batches that the layout, one GPU and tensor parallelism on as many GPUs hold.

    fits_degree  the least degree of the search that fits, where this one doesn't
    """

    fits: bool | None
    fits_alone: bool | None
    needed_bytes: Number
    usable_bytes: Number | None
    max_batch: Number | None
    max_batch_alone: Number | None
    max_batch_tensor: Number | None
    fits_degree: int | None = None


class Limit(msgspec.Struct, frozen=True):
    """Where more GPUs stop helping.

    kv_degree   GPUs from which the cache of a GPU stops falling, by kv_by (1: it never falls; None: there is none)
    degree      with the fastest step of those searched, which takes step_s
    stopped     why not the next degree: it is not faster, it is refused, or it was not searched
    """

    kv_degree: int | None
    kv_by: KvLimit
    degree: int
    step_s: Number
    stopped: Literal["slower", "refused", "searched"]
    next_degree: int | None = None
    next_s: Number | None = None
    next_refused: str | None = None


class Strategy(msgspec.Struct, frozen=True):
    """One strategy on `degree` GPUs. `tier`: whether times are predicted, or bounds where no stack is."""

    name: str
    title: str
    degree: int
    tier: Tier
    verdict: Verdict
    limit: Limit
    refused: str | None = None
    kv: Kv | None = None
    communication: Communication | None = None
    speed: Speed | None = None
    room: Room | None = None
