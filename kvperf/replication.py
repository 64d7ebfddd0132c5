"""What a layout keeps more than once, by name, and the memory of its fullest GPU."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import total
from kvperf.capacity import Memory, kv_cache_bytes, memory, resident_by_stage
from kvperf.evaluation import RankStep, Step
from kvperf.layout import ALONE, Layout, one_rank
from kvperf.model.architecture import GroupedQuery, Latent, Model
from kvperf.pipeline import pipeline
from kvperf.record import Replicated
from kvperf.workload import Workload

ROUNDING = 1e-9  # of the whole: the last bits of sums


def replicated(model: Model, whole: Step, workload: Workload) -> tuple[Replicated, ...]:
    """Weights and KV over all GPUs, less those of one GPU that held everything; names of the stages that use them."""
    if whole.ranks[0].layout.parallelism.gpus == 1 or workload.scope == "attention":
        return ()
    alone = one_rank(model, workload, ALONE)
    once = resident_by_stage(model, alone, pipeline(alone, workload))
    everywhere: dict[str, Any] = {}
    for rank in whole.ranks:
        copies = rank.layout.parallelism.stage_gpus
        for name, held in resident_by_stage(model, rank.layout, rank.stages).items():
            everywhere[name] = everywhere.get(name, 0) + copies * held
    weights = total(once.values())
    found = [Replicated(n, "weights", _whole(b - once.get(n, 0))) for n, b in everywhere.items()]
    cached = [Replicated(n, "kv", _whole(b)) for n, b in _cache(alone, whole, workload).items()]
    return (
        *(r for r in found if abs(r.bytes) > ROUNDING * weights),
        *(r for r in cached if abs(r.bytes) > ROUNDING * abs(kv_cache_bytes(alone, workload) or 1)),
    )


def _cache(alone: Layout, whole: Step, workload: Workload) -> dict[str, Any]:
    """Bytes of the cache beyond one copy, by what is there again; every group's sequences are counted once."""
    once: dict[str, Any] = {}
    for owned in alone.kinds:
        part = msgspec.structs.replace(alone, kinds=(owned,))
        name = _cached_name(part)
        once[name] = once.get(name, 0) - kv_cache_bytes(part, workload)
    for rank in whole.ranks:
        spread = rank.layout.parallelism
        group = msgspec.structs.replace(spread, attention_dp=1, ep=1)
        for owned in rank.layout.kinds:
            part = msgspec.structs.replace(rank.layout, kinds=(owned,), parallelism=group)
            name = _cached_name(part)
            once[name] = once.get(name, 0) + spread.tp * spread.cp * kv_cache_bytes(part, workload)
    return once


def _cached_name(part: Layout) -> str:
    mixer = part.kinds[0].shard.mixer
    return "kv_heads" if isinstance(mixer, GroupedQuery) else "latent" if isinstance(mixer, Latent) else "states"


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value == int(value) else value


def fullest(model: Model, whole: Step, workload: Workload, fraction: float, reserve_bytes: int) -> Memory:
    """The memory of the GPU with the least to spare; batch and context that every GPU has room for."""
    distinct: dict[int, RankStep] = {id(rank.layout): rank for rank in whole.ranks}
    capacity = whole.gpu.hbm_capacity_bytes
    found = [
        memory(model, rank.layout, workload, rank.stages, capacity, fraction, reserve_bytes)
        for rank in distinct.values()
    ]
    worst = min(found, key=lambda kept: kept.spare_bytes if kept.spare_bytes is not None else 0)
    batches = [kept.max_batch for kept in found if kept.max_batch is not None]
    contexts = [kept.max_context_tokens for kept in found if kept.max_context_tokens is not None]
    return msgspec.structs.replace(
        worst, max_batch=min(batches, default=None), max_context_tokens=min(contexts, default=None)
    )
