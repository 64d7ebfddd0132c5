"""Every kernel family by name, and which of its intervals a launch falls under."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kvperf.predict.collective import COLLECTIVE, EXCHANGE
from kvperf.predict.decode_attention import DECODE_ATTENTION
from kvperf.predict.experts import EXPERTS
from kvperf.predict.family import Family
from kvperf.predict.gemm import GEMM
from kvperf.predict.latent_attention import LATENT_ATTENTION
from kvperf.predict.latent_prefill import LATENT_PREFILL
from kvperf.predict.prefill_attention import PREFILL_ATTENTION
from kvperf.predict.small import SMALL


def _cache(launch: Any) -> str:
    """The format of the cache: its name in the tables."""
    return _named(launch.kv)


def _named(name: str) -> str:
    return {"bf16": "bfloat16", "fp16": "bfloat16"}.get(name, name)


def _collective(launch: Any) -> str:
    """Whose kernel it is. Between nodes no table has any."""
    if launch.nodes > 1:
        return "NCCL between nodes"
    own = launch.operation == "all_reduce" and launch.algorithm in ("stack", "one-shot", "two-shot", "nvls")
    return launch.stack if own else "nccl"


def _exchange(launch: Any) -> str:
    """Mode and phase, and whether the ranks of this one launch (no array) are on several nodes."""
    return f"{launch.mode}_{launch.phase}" + ("_nodes" if launch.nodes > 1 else "")


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        replace(DECODE_ATTENTION, label=_cache),
        replace(PREFILL_ATTENTION, label=lambda launch: _named(launch.kv_dtype)),
        replace(LATENT_ATTENTION, label=_cache),
        replace(LATENT_PREFILL, label=lambda _launch: "bfloat16"),
        replace(GEMM, label=lambda launch: _named(launch.kind), fills_absent=False),
        replace(EXPERTS, label=lambda launch: _named(launch.dtype)),
        replace(COLLECTIVE, label=_collective),
        replace(EXCHANGE, label=_exchange),
        SMALL,
    )
}
