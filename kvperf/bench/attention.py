"""Cached attention on one shape: every entrant checked, then all of them timed together with the read ceiling.

Nothing is timed that was not right first. The read ceiling streams as many bytes beside the kernels, in their regime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from kvperf.bench.ceiling_calls import empty_call, read_calls
from kvperf.bench.entrant import Entrant, error_of
from kvperf.bench.operands import Operands, operands
from kvperf.bench.outcome import agreed, judged, timed
from kvperf.bench.record import Case, Regime, Work
from kvperf.bench.rig import Call, Rig
from kvperf.bench.standin import Standin
from kvperf.bench.timing import Contestant, Readings, is_cold, measure, sets_for
from kvperf.errors import KvperfError
from kvperf.hardware import Gpu
from kvperf.kernel.geometry import Shape

FREE_SHARE = 0.8  # of the GPU's free memory, for all sets together


@dataclass(frozen=True)
class Plan:
    """How a shape is measured. `flush` names what makes a cold call cold: rotation, memset, memset-read."""

    regimes: Sequence[Regime] = ("cold",)
    budget_s: float = 20.0
    seed: int = 0
    flush: str = "rotation"
    progress: Callable[[str], None] | None = None


def bench(rig: Rig, gpu: Gpu | None, shape: Shape, entrants: Sequence[Entrant], how: Plan) -> Iterator[list[Case]]:
    """Cases of one shape, regime by regime; first, and only, those of wrong entrants where results are wrong."""
    caches = {kind: operands(kind, shape, how.seed) for kind in sorted({e.kind for e in entrants})}
    _place(rig, caches, how.regimes)
    errors = {e.name: error_of(rig, e, caches[e.kind]) for e in entrants}
    right = [e for e in entrants if errors[e.name] <= e.limit]
    cases = {e.name: _case(e, shape, gpu, errors[e.name]) for e in entrants}
    wrong = [_wrong(cases[e.name]) for e in entrants if e not in right]
    if rig.emulated:
        yield [*wrong, *(_counted(rig, e, caches[e.kind], cases[e.name]) for e in right)]
        return
    if wrong:
        yield wrong
    for regime in how.regimes:
        chosen = [e for e in right if regime != "stream" or e.captures]
        if chosen:
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


def _place(rig: Rig, caches: dict[str, Operands], regimes: Sequence[Regime]) -> None:
    """Sets of buffers for the most demanding regime, as far as memory goes. Raises KvperfError where it does not."""
    for cache in caches.values():
        wanted = max(sets_for(regime, cache.set_bytes, rig.facts.l2_bytes) for regime in regimes)
        wanted = 2 if rig.emulated else wanted
        share = FREE_SHARE * rig.free_bytes() / (1 + len([c for c in caches.values() if not c.sets]))
        held = int(share // cache.set_bytes)
        if held < min(wanted, 2):
            raise KvperfError(
                f"two sets of {cache.set_bytes / 1e9:.1f} GB of K and V do not fit the memory that is free",
                "measure a smaller batch or sequence",
            )
        cache.place(rig, min(wanted, held))


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
    flush, count = flush_of(rig, how.flush), sets_for(regime, largest.set_bytes, rig.facts.l2_bytes)
    before = flush if regime == "cold" else None
    reads = read_calls(rig, largest.set_bytes, 1 if before else min(count, len(largest.sets)))
    contestants = [
        Contestant("launch", regime, [empty_call(rig)], 0, before),
        Contestant("read", regime, reads, largest.set_bytes, before),
    ]
    for e in entrants:
        sets = caches[e.kind].sets[: 1 if regime == "warm" or before else None]
        contestants.append(Contestant(e.name, regime, [e.call(s) for s in sets], caches[e.kind].set_bytes, before))
    found = measure(rig, contestants, budget_s=how.budget_s, seed=how.seed, progress=how.progress)
    launch_s = found["launch"].statistics.median_s
    read_rate = largest.set_bytes / found["read"].statistics.median_s
    ceiling = Case(
        family="ceiling",
        subject="read",
        regime=regime,
        shape={"bytes": largest.set_bytes},
        work=Work(compulsory_bytes=largest.set_bytes, requested_bytes=largest.set_bytes),
        bound_s=largest.set_bytes / gpu.hbm_bytes_per_s if gpu else None,
        flush=how.flush,
    )
    done = [judged(timed(ceiling, contestants[1], found["read"]), rig.facts, gpu, launch_s=launch_s)]
    for e, contestant in zip(entrants, contestants[2:], strict=True):
        case = _labelled(cases[e.name], contestant, found[e.name], how.flush, rig)
        read = read_rate if done[0].refused is None else None
        done.append(judged(case, rig.facts, gpu, launch_s=launch_s, read_bytes_per_s=read, launches=e.launches))
    return done


def _labelled(case: Case, contestant: Contestant, readings: Readings, flush: str, rig: Rig) -> Case:
    """A case that says cold must have been cold."""
    case = msgspec.structs.replace(timed(case, contestant, readings), flush=flush)
    if contestant.regime == "warm" or is_cold(contestant, rig.facts.l2_bytes):
        return case
    problem = f"its {contestant.rotated_bytes / 1e6:.0f} MB of buffers do not exceed four times the L2: not cold"
    return msgspec.structs.replace(case, refused=problem)


def flush_of(rig: Rig, method: str) -> Call | None:
    """What empties the L2 before a call; None where the rotation of buffers does."""
    import numpy as np

    if method == "rotation":
        return None
    dirty = rig.empty((2 * rig.facts.l2_bytes,), np.uint8)
    clean = read_calls(rig, 2 * rig.facts.l2_bytes, 1)[0]

    def flush() -> None:
        rig.clear(dirty)
        if method == "memset-read":
            clean()

    return flush


def _case(entrant: Entrant, shape: Shape, gpu: Gpu | None, error: float) -> Case:
    finite = error if error == error else None
    return Case(
        family="kernel" if entrant.family == "kernel" else "attention",
        subject=entrant.name,
        regime="cold",
        shape=shape_of(shape),
        work=entrant.work,
        resources=entrant.resources,
        error=finite,
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


def _wrong(case: Case) -> Case:
    found = "NaN" if case.error is None else f"{case.error:.2g}"
    return msgspec.structs.replace(case, refused=f"wrong result: error {found}, allowed {case.error_limit:g}")


def _counted(rig: Rig, entrant: Entrant, cache: Operands, case: Case) -> Case:
    """What the interpreter counted in one call."""
    assert isinstance(rig, Standin)
    return agreed(case, rig.counted(entrant.call(cache.sets[0])))
