"""Cached attention on one shape: every entrant checked, then all of them timed together with the read ceiling.

Nothing is timed that was not right first. The read ceiling streams as many bytes beside the kernels, in their regime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kvperf.bench.ceiling_calls import empty_call, flush_of, read_calls
from kvperf.bench.entrant import Entrant, error_of, output_of
from kvperf.bench.operands import Operands, operands
from kvperf.bench.outcome import Levels, agreed, failed, judged, timed
from kvperf.bench.record import Case, Regime, Work
from kvperf.bench.rig import Rig
from kvperf.bench.standin import Standin
from kvperf.bench.timing import Contestant, Readings, Rotation, alone, is_cold, measure, sets_for
from kvperf.errors import KvperfError
from kvperf.hardware import Gpu
from kvperf.kernel.geometry import Shape

FREE_SHARE = 0.8  # of the GPU's free memory, for all sets together


@dataclass(frozen=True)
class Plan:
    """How a shape is measured. `flush` names what makes a cold call cold: rotation, memset, memset-read.

    levels  readings of this GPU's ceilings, for the gap;  check_only: nothing is timed
    """

    regimes: Sequence[Regime] = ("cold",)
    budget_s: float = 20.0
    seed: int = 0
    flush: str = "rotation"
    progress: Callable[[str], None] | None = None
    stopped: Callable[[], bool] = lambda: False
    levels: Levels = field(default_factory=Levels)
    check_only: bool = False


def bench(rig: Rig, gpu: Gpu | None, shape: Shape, entrants: Sequence[Entrant], how: Plan) -> Iterator[list[Case]]:
    """Cases of one shape: first those that are wrong, then regime by regime what was read."""
    caches = {kind: operands(kind, shape, how.seed) for kind in sorted({e.kind for e in entrants})}
    cases = {e.name: _case(e, shape, gpu) for e in entrants}
    problems = {kind: _place(rig, caches, kind, how) for kind in caches}
    right: list[Entrant] = []
    outputs: dict[str, Any] = {}
    for entrant in entrants:
        problem = problems[entrant.kind] or _checked(rig, entrant, caches[entrant.kind], cases, outputs)
        if problem:
            yield [failed(cases[entrant.name], problem)]
            continue
        right.append(entrant)
        if rig.emulated:
            yield [_counted(rig, entrant, caches[entrant.kind], cases[entrant.name])]
        elif how.check_only:
            yield [cases[entrant.name]]
        if how.stopped():
            return
    for regime in () if rig.emulated or how.check_only else how.regimes:
        chosen = [e for e in right if regime != "stream" or (e.captures and len(caches[e.kind].sets) > 1)]
        if chosen and not how.stopped():
            yield _timed(rig, gpu, chosen, caches, regime, how, cases)


def shape_of(shape: Shape) -> dict[str, int | float | str]:
    """A shape as records name it."""
    found: dict[str, int | float | str] = {
        "batch": shape.batch,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "seq": shape.seq,
        "dtype": shape.dtype,
    }
    return found | ({"q_len": shape.q_len} if shape.q_len > 1 else {})


def _place(rig: Rig, caches: dict[str, Operands], kind: str, how: Plan) -> str | None:
    """Make the sets of one cache for the most demanding regime, as far as memory goes; why not, where it does not."""
    cache = caches[kind]
    wanted = max(sets_for(regime, cache.set_bytes, rig.facts.l2_bytes) for regime in how.regimes)
    if rig.emulated or how.check_only or how.flush != "rotation":
        wanted = 2 if rig.emulated or how.check_only else 1
    waiting = len([c for c in caches.values() if not c.sets])
    held = int(FREE_SHARE * rig.free_bytes() / (1 + waiting) // cache.set_bytes)
    if held < min(wanted, 2):
        return f"two sets of {cache.set_bytes / 1e9:.1f} GB of K and V do not fit the memory that is free"
    cache.place(rig, min(wanted, held))
    return None


def _checked(
    rig: Rig, entrant: Entrant, cache: Operands, cases: dict[str, Case], outputs: dict[str, Any]
) -> str | None:
    """Check an entrant, and note its error; what is wrong with it, in words. `outputs`: of right ones, by cache."""
    try:
        before = None if entrant.trusted else _fingerprint(rig, cache)
        error = error_of(rig, entrant, cache, None if entrant.rounds_query else outputs.get(cache.kind))
        if before is not None and (changed := _changed(before, _fingerprint(rig, cache))):
            count = len(cache.sets)
            cache.sets.clear()
            cache.place(rig, count)
            return f"it changed its operand {changed}"
    except KvperfError as problem:
        return f"failed: {problem.message}"
    except Exception as problem:  # a kernel may fail in any way: it is named, and the others go on
        first = str(problem).strip().split("\n")[0]
        return f"failed: {type(problem).__name__}: {first}"
    finite = None if math.isnan(error) else error
    cases[entrant.name] = msgspec.structs.replace(cases[entrant.name], error=finite)
    if not error <= entrant.limit:
        return f"wrong result: error {error:.2g}, allowed {entrant.limit:g}"
    if entrant.trusted and not entrant.rounds_query and cache.kind not in outputs:
        outputs[cache.kind] = output_of(rig, entrant, cache.sets[0])
    return None


def _fingerprint(rig: Rig, cache: Operands) -> dict[str, int]:
    """A checksum of every operand of the first set, summed where the buffers lie."""
    return {name: rig.checksum(buffer) for name, buffer in cache.sets[0].items()}


def _changed(before: dict[str, int], after: dict[str, int]) -> str | None:
    return next((name for name in before if before[name] != after[name]), None)


def _timed(
    rig: Rig,
    gpu: Gpu | None,
    entrants: Sequence[Entrant],
    caches: dict[str, Operands],
    regime: Regime,
    how: Plan,
    cases: dict[str, Case],
) -> list[Case]:
    largest = max((caches[e.kind] for e in entrants), key=lambda c: c.set_bytes)
    flushes = {kind: _flush_name(cache, regime, how) for kind, cache in caches.items()}
    befores = {name: flush_of(rig, name) for name in set(flushes.values())}
    rotations = {kind: Rotation(len(cache.sets), cache.set_bytes) for kind, cache in caches.items()}
    flush = befores[flushes[largest.kind]]
    reads = read_calls(rig, largest.set_bytes, 1 if flush or regime == "warm" else len(largest.sets))
    contestants = [
        alone("launch", regime, [empty_call(rig)]),
        alone("read", regime, reads, largest.set_bytes, flush),
    ]
    for e in entrants:
        before, rotation, sets = befores[flushes[e.kind]], rotations[e.kind], caches[e.kind].sets
        if before is not None or regime == "warm":
            rotation, sets = Rotation(1, rotation.set_bytes), sets[:1]
        contestants.append(Contestant(e.name, regime, [e.call(s) for s in sets], rotation, before))
    found = measure(rig, contestants, budget_s=how.budget_s, seed=how.seed, progress=how.progress, stopped=how.stopped)
    launch_s = found["launch"].median_s
    ceiling = Case(
        family="ceiling",
        subject="read",
        regime=regime,
        shape={"bytes": largest.set_bytes},
        work=Work(compulsory_bytes=largest.set_bytes, requested_bytes=largest.set_bytes),
        bound_s=largest.set_bytes / gpu.hbm_bytes_per_s if gpu else None,
        flush=flushes[largest.kind],
    )
    ceiling = _labelled(ceiling, contestants[1], found["read"], rig)
    done = [judged(ceiling, rig.facts, gpu, launch_s=launch_s, levels=how.levels)]
    read = done[0].bytes_per_s
    for e, contestant in zip(entrants, contestants[2:], strict=True):
        case = msgspec.structs.replace(cases[e.name], regime=regime, flush=flushes[e.kind])
        case = _labelled(case, contestant, found[e.name], rig)
        done.append(
            judged(
                case,
                rig.facts,
                gpu,
                launch_s=launch_s,
                read_bytes_per_s=read,
                launches=e.launches,
                levels=how.levels,
            )
        )
    return done


def _flush_name(cache: Operands, regime: Regime, how: Plan) -> str:
    """What makes calls cold: the rotation, or a flush where one was asked for or the sets would be too many."""
    if regime != "cold":
        return "rotation"
    return "memset-read" if how.flush == "rotation" and len(cache.sets) < 2 else how.flush


def _labelled(case: Case, contestant: Contestant, readings: Readings, rig: Rig) -> Case:
    """A case that says cold must have been cold."""
    if readings.failure is not None:
        return failed(case, f"failed: {readings.failure}")
    case = timed(case, contestant, readings)
    if contestant.regime != "cold" or is_cold(contestant, readings, rig.facts.l2_bytes):
        return case
    problem = f"only {(readings.reuse_bytes or 0) / 1e6:.0f} MB were read before its buffers were met again: not cold"
    return failed(case, problem)


def _case(entrant: Entrant, shape: Shape, gpu: Gpu | None) -> Case:
    return Case(
        family="kernel" if entrant.family == "kernel" else "attention",
        subject=entrant.name,
        regime="cold",
        shape=shape_of(shape) | entrant.sizes,
        work=entrant.work,
        resources=entrant.resources,
        error_limit=entrant.limit,
        bound_s=_bound_s(entrant.work, gpu),
    )


def _bound_s(work: Work, gpu: Gpu | None) -> float | None:
    """The larger of compulsory bytes over the HBM peak and FLOPs over the tensor peak: no kernel is faster, cold."""
    if gpu is None:
        return None
    peak = gpu.peak(work.operand).flops_per_s if work.operand else None
    tensor_s = work.operations.get("flop", 0) / peak if peak else 0.0
    return max(work.compulsory_bytes / gpu.hbm_bytes_per_s, tensor_s)


def _counted(rig: Rig, entrant: Entrant, cache: Operands, case: Case) -> Case:
    """What the interpreter counted in one call."""
    assert isinstance(rig, Standin)
    return agreed(case, rig.counted(entrant.call(cache.sets[0])))
