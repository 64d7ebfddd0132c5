"""The attention kernels of this repository on the report's decode step: their shape, plans and accounts."""

from __future__ import annotations

import functools
from typing import Any

from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.kernel import target
from kvperf.kernel.account import KernelAccount, account
from kvperf.kernel.catalogue import KERNELS
from kvperf.kernel.geometry import LATENT, ROPE, Shape
from kvperf.kernel.launch import plan
from kvperf.kernel.traffic import Traffic, traffic
from kvperf.model.architecture import GroupedQuery, Latent
from kvperf.report.subject import Subject
from kvperf.stages.kv_update import span_of
from kvperf.workload import read_tokens

# The original design, and what is changed in it one by one; kernels of the cache's own format come on top.
LADDER = ("cached_attention", "flash", "split_kv", "async_ring", "bulk_copy", "tensor_cores", "mla")


class Kernels:
    """What is known of the kernels here. `refused` says why there is none, or none of some of them."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.accounts: dict[str, KernelAccount] = {}
        self.refused: dict[str, KvperfError] = {}
        self.obstacle: KvperfError | None = None
        try:
            target.check(subject.gpu)
            self.shape = shape_of(subject)
        except KvperfError as problem:
            self.obstacle = problem
            return
        for name in self._names():
            try:
                self.accounts[name] = account(name, self.shape, subject.gpu)
            except KvperfError as problem:
                self.refused[name] = problem

    def _names(self) -> list[str]:
        latent = self.shape.head_dim == LATENT + ROPE
        cache = subject_cache(self.subject)
        return [
            name
            for name, kernel in KERNELS.items()
            if (name == "mla") == latent and (name in LADDER or (kernel.cache is not None and kernel.cache == cache))
        ]

    @property
    def design(self) -> KernelAccount | None:
        """The original design; where it does not take this shape, the first that does."""
        return next(iter(self.accounts.values()), None)

    @property
    def best(self) -> KernelAccount | None:
        """The kernel whose design can be fastest here, by the roofs that are known."""
        own = {name: found for name, found in self.accounts.items() if KERNELS[name].cache == self.cache}
        return min((own or self.accounts).values(), key=lambda found: found.design_s, default=None)

    @property
    def cache(self) -> str | None:
        """The format of a quantised cache, as the catalogue names it."""
        return subject_cache(self.subject)

    @functools.cached_property
    def requests(self) -> dict[str, Traffic]:
        """What three passes and a fused kernel ask for; empty where neither can be planned."""
        if self.obstacle is not None or self.subject.gpu.sms is None:
            return {}
        found = {}
        for name in ("three_pass", "flash"):
            try:
                planned = plan(name, self.shape, self.subject.gpu.architecture, self.subject.gpu.sms)
            except KvperfError:
                return {}
            found[name] = traffic(planned)
        return found


def subject_cache(subject: Subject) -> str | None:
    assert subject.attention is not None
    kept = subject.attention.shard.kv
    return kept.operand if kept.bits < DTYPES["bf16"].bits else None


def shape_of(subject: Subject) -> Shape:
    """One attention layer as the kernels take it. Raises KvperfError for attention of another kind."""
    part = subject.attention
    if part is None:
        raise KvperfError(f"no layer of {subject.model.name} attends to cached tokens", "its state does not grow")
    mixer: Any = part.shard.mixer
    batch, context = subject.sequences
    seen = read_tokens(context, 1, span_of(mixer))
    dtype = part.shard.activation.name if part.shard.activation.name in ("fp16", "bf16") else "bf16"
    if isinstance(mixer, GroupedQuery) and mixer.head_dim == mixer.value_dim:
        return Shape(
            batch=batch, heads=mixer.heads, kv_heads=mixer.kv_heads, head_dim=mixer.head_dim, seq=seen, dtype=dtype
        )
    if isinstance(mixer, Latent) and (mixer.kv_lora_rank, mixer.rope_head_dim) == (LATENT, ROPE):
        return Shape(batch=batch, heads=mixer.heads, kv_heads=1, head_dim=LATENT + ROPE, seq=seen, dtype=dtype)
    raise KvperfError(
        f"no kernel here is for the attention of {subject.model.name}",
        f"they take grouped-query attention, and latents of {LATENT} + {ROPE}",
    )
