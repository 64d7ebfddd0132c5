"""Evaluate every layout, format, batch and mode; keep those that none beats; say why the others are none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kvperf import __version__
from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES
from kvperf.errors import KvperfError
from kvperf.plan.engine import Engine, busiest_resource
from kvperf.plan.layouts import AS_PUBLISHED, degrees, formats, layouts, named, refusal
from kvperf.plan.points import Decoding, Points, alone, decoding, mixed
from kvperf.plan.pools import Prompts, apart, best, prompts
from kvperf.plan.record import Load, Plan, Pool, Rejected, Serving
from kvperf.plan.rejection import closest, missed
from kvperf.predict.calibration import Constants

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model

MODES = ("mixed", "apart")
NARROWED = "formats narrower than the checkpoint's change what the model says: --weight-dtype, --kv-dtype choose"
REFUSED_HINT = "a plan needs a layout that divides the model, and predictions: `kvperf analyze --gpu …` says more"


def plan(
    gpus: Sequence[Gpu],
    model: Model,
    load: Load,
    *,
    stack: str = "vllm",
    modes: Sequence[str] = MODES,
    weight_dtypes: tuple[str, ...] = (),
    kv_dtypes: tuple[str, ...] = (),
    memory_fraction: float = MEMORY_FRACTION,
    reserve_bytes: int = RESERVE_BYTES,
) -> Plan:
    """Search. Raises KvperfError where not a single layout divides the model."""
    found: list[Points] = []
    refused: dict[str, list[str]] = {}
    prices = load.prices if len(load.prices) == len(gpus) else load.prices * len(gpus)
    for at, gpu in enumerate(gpus):
        if gpu.hbm_capacity_bytes is None:
            raise KvperfError(f"nobody says how much memory {gpu.name} has", "a plan must know what fits")
        constants = Constants(gpu, stack)
        for weight, kv in formats(gpu, weight_dtypes, kv_dtypes):
            engines = [
                Engine(
                    gpu,
                    model,
                    spread,
                    weight,
                    kv,
                    load,
                    stack,
                    memory_fraction,
                    reserve_bytes,
                    constants,
                    prices[at] if prices else None,
                )
                for spread in layouts(gpu, model, load.most_gpus, load.prompt_tokens)
            ]
            found += _evaluated(engines, modes, refused)
    if not found:
        why = next(iter(refused), "no mode to try")
        raise KvperfError(f"no plan for {model.name} on {' or '.join(gpu.name for gpu in gpus)}: {why}", REFUSED_HINT)
    front = _front(found)
    return Plan(
        schema_version="kvperf.plan/1",
        version=__version__,
        model=model.name,
        stack=stack,
        load=load,
        evaluated=sum(len(points.batch) for points in found),
        met=sum(int(points.met.sum()) for points in found),
        front=tuple(_serving(points, index) for points, index in front),
        rejected=(*missed(found), *(Rejected(why, len(all_), None, all_[0]) for why, all_ in refused.items())),
        closest=None if front else closest(found),
    )


def _evaluated(engines: Sequence[Engine], modes: Sequence[str], refused: dict[str, list[str]]) -> list[Points]:
    """The points of all engines of one pair of formats; layouts that are none are noted."""
    found: list[Points] = []
    readers: list[Prompts] = []
    able: list[Decoding] = []
    for engine in engines:
        try:
            plain = decoding(engine)
            if "apart" in modes and plain.too_large[0] <= 0:
                readers.append(prompts(engine))
            if "mixed" in modes:
                found += [alone(plain, "mixed")] if plain.hopeless else mixed(plain)
            able.append(plain)
        except KvperfError as problem:
            refused.setdefault(refusal(problem), []).append(named(engine.parallelism))
    if "apart" in modes:
        chosen = best(readers)
        for plain in able:
            found += [alone(plain, "apart")] if plain.hopeless else apart(plain, chosen)
    return found


def _front(found: Iterable[Points]) -> list[tuple[Points, int]]:
    """Points that meet every target and that none beats in both respects, the fastest for a user first."""
    points = [(p, int(i)) for p in found for i in np.flatnonzero(p.met)]
    ordered = sorted(points, key=lambda at: _rank(*at))
    front: list[tuple[Points, int]] = []
    most = 0.0
    for p, i in ordered:
        if p.tokens_per_s_per_gpu[i] > most * (1 + 1e-6):
            front.append((p, i))
            most = float(p.tokens_per_s_per_gpu[i])
    return front


def _rank(points: Points, index: int) -> tuple[float, float, float]:
    """The faster for a user first; of equally fast ones the one with more tokens a GPU, then with fewer GPUs."""
    return points.tpot_s[index], -points.tokens_per_s_per_gpu[index], points.gpus[index]


def _serving(points: Points, index: int) -> Serving:
    engine, spread = points.engine, points.engine.parallelism
    own = Pool(degrees(spread), spread.gpus, int(points.replicas[index]), int(points.batch[index]))
    pools = (own,)
    if points.prompts is not None:
        reading = points.prompts.parallelism
        pools = (Pool(degrees(reading), reading.gpus, int(points.prompt_replicas[index]), points.prompt_batch), own)
    gpus = int(points.gpus[index])
    rate = float(points.tokens_per_s_per_gpu[index])
    spare = float(points.spare_bytes[index])
    return Serving(
        mode=points.mode,
        gpu=engine.gpu.name,
        weight_dtype=engine.stored,
        kv_dtype=engine.kv_dtype if engine.kv_dtype != AS_PUBLISHED else points.found.busiest.layout.first.kv.name,
        pools=pools,
        chunk_tokens=points.chunk_tokens,
        ttft_s=float(points.ttft_s[index]),
        tpot_s=float(points.tpot_s[index]),
        tokens_per_s_per_gpu=rate,
        tokens_per_s_per_user=1 / float(points.tpot_s[index]),
        requests_per_s=float(points.served_per_s[index]),
        gpus=gpus,
        cost_per_million_tokens=None if engine.price is None else engine.price / 3600 / rate * 1e6,
        spare_bytes=spare,
        bound_by=busiest_resource(points.found, index),
        stopped_by=points.stopped_by(index),
        warnings=_cautions(points),
    )


def _cautions(points: Points) -> tuple[str, ...]:
    """What the prediction rests on that was not measured here."""
    found = points.found.busiest.predicted
    label = found.calibration or ""
    borrowed = (f"constants are borrowed from {label.removesuffix(', borrowed')}",) if "borrowed" in label else ()
    narrowed = (NARROWED,) if points.engine.narrowed else ()
    return (*narrowed, *borrowed, *dict.fromkeys(w for rank in points.found.ranks for w in rank.predicted.warnings))
