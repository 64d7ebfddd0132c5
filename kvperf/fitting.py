"""The nearest changes that make a step fit: one for each thing that could give way, each evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.capacity import Memory, at_context
from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.evaluation import Step, step
from kvperf.layout import Parallelism
from kvperf.record import Change
from kvperf.replication import fullest
from kvperf.workload import Requests, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model

NARROWER = ("fp8", "int4")
MOST_GPUS = 1024


class Tried(msgspec.Struct, frozen=True):
    """What is asked for, to be changed in one respect."""

    gpu: Gpu
    model: Model
    workload: Workload
    parallelism: Parallelism
    fraction: float
    reserve_bytes: int

    def memory(self, **changes: Any) -> Memory | None:
        """That of the step with another workload or layout; None where there is no such layout."""
        changed = msgspec.structs.replace(self, **changes)
        try:
            whole: Step = step(changed.gpu, changed.model, changed.workload, changed.parallelism)
        except KvperfError:
            return None
        return fullest(changed.model, whole, changed.workload, changed.fraction, changed.reserve_bytes)

    def fits(self, **changes: Any) -> bool:
        kept = self.memory(**changes)
        return kept is not None and bool(kept.fits)


def nearest(tried: Tried, kept: Memory) -> tuple[Change, ...]:
    """The least change of each kind that is enough by itself: batch, context, cache, weights, GPUs."""
    return tuple(found for kind in (_requests, _formats, _gpus) for found in kind(tried, kept))


def _requests(tried: Tried, kept: Memory) -> Iterator[Change]:
    workload = tried.workload
    alike = len(workload.requests) == 1
    if alike and kept.max_batch:
        request = workload.requests[0]
        fewer = (Requests(kept.max_batch, request.context_tokens, request.new_tokens),)
        if tried.fits(workload=msgspec.structs.replace(workload, requests=fewer)):
            yield Change("--batch", str(kept.max_batch))
    context = int(kept.max_context_tokens or 0)
    if alike and context and tried.fits(workload=at_context(workload, context)):
        yield Change("--seq", str(kept.max_context_tokens))


def _formats(tried: Tried, kept: Memory) -> Iterator[Change]:
    whole = step(tried.gpu, tried.model, tried.workload, tried.parallelism)
    shard = whole.busiest.layout.first
    held = {"kv_dtype": shard.kv.bits, "weight_dtype": min(shard.formats.mlp.bits, shard.formats.experts.bits)}
    for field, bits in held.items():
        for name in NARROWER:
            changed = msgspec.structs.replace(tried.workload, **{field: name})
            if DTYPES[name].bits < bits and tried.fits(workload=changed):
                yield Change("--" + field.replace("_", "-"), name)
                break


def _gpus(tried: Tried, kept: Memory) -> Iterator[Change]:
    """More tensor-parallel GPUs; where the model or the links end before that, pipeline stages."""
    for degree in ("tp", "pp"):
        factor = 2
        while factor * tried.parallelism.gpus <= MOST_GPUS:
            value = factor * getattr(tried.parallelism, degree)
            if tried.fits(parallelism=msgspec.structs.replace(tried.parallelism, **{degree: value})):
                yield Change(f"--{degree}", str(value))
                return
            factor *= 2
