"""Evaluate every layout, format, batch and mode; keep those that none beats; say why the others are none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kvperf import __version__
from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES
from kvperf.errors import KvperfError
from kvperf.layout import DEGREES, Parallelism
from kvperf.plan.engine import Engine, busiest_resource
from kvperf.plan.layouts import AS_PUBLISHED, formats, layouts, refusal
from kvperf.plan.points import Decoding, Points, alone, decoding, mixed
from kvperf.plan.pools import Prompts, apart, best, prompts
from kvperf.plan.record import Load, Plan, Pool, Rejected, Serving
from kvperf.predict.calibration import Constants

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model

MODES = ("mixed", "apart")
SAID = {
    "memory": "does not fit",
    "prompts": "prompts cannot keep up",
    "ttft": "first token too late",
    "tpot": "next tokens too slow",
    "gpus": "needs more GPUs",
}


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
    for gpu in gpus:
        if gpu.hbm_capacity_bytes is None:
            raise KvperfError(f"nobody says how much memory {gpu.name} has", "a plan must know what fits")
        constants = Constants(gpu, stack)
        for weight, kv in formats(gpu, weight_dtypes, kv_dtypes):
            engines = [
                Engine(gpu, model, spread, weight, kv, load, stack, memory_fraction, reserve_bytes, constants)
                for spread in layouts(gpu, model, load.most_gpus, load.prompt_tokens)
            ]
            found += _evaluated(engines, modes, refused)
    if not found:
        raise KvperfError(f"no layout divides {model.name}", f"tried {sum(map(len, refused.values()))} of them")
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
        rejected=(*_missed(found), *(Rejected(why, len(all_), all_[0]) for why, all_ in refused.items())),
        closest=None if front else _closest(found),
    )


def _evaluated(engines: Sequence[Engine], modes: Sequence[str], refused: dict[str, list[str]]) -> list[Points]:
    """The points of all engines of one pair of formats; layouts that are none are noted."""
    found: list[Points] = []
    readers: list[Prompts] = []
    able: list[Decoding] = []
    for engine in engines:
        try:
            plain = decoding(engine)
            if "apart" in modes and plain.too_large[0] <= 0 and (reader := prompts(engine)):
                readers.append(reader)
            if "mixed" in modes:
                found += [alone(plain, "mixed")] if plain.hopeless else mixed(plain)
            able.append(plain)
        except KvperfError as problem:
            refused.setdefault(refusal(problem), []).append(named(engine.parallelism))
    if "apart" in modes:
        chosen = best(readers)
        for plain in able:
            found += apart(plain, chosen) if chosen and not plain.hopeless else [alone(plain, "apart")]
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
    engine, load = points.engine, points.engine.load
    spread = engine.parallelism
    own = Pool(_degrees(spread), spread.gpus, int(points.replicas[index]), int(points.batch[index]))
    pools = (own,)
    if points.prompts is not None:
        reading = points.prompts.parallelism
        pools = (Pool(_degrees(reading), reading.gpus, int(points.prompt_replicas[index]), points.prompt_batch), own)
    gpus = int(points.gpus[index])
    rate = float(points.tokens_per_s_per_gpu[index])
    spare = float(points.spare_bytes[index])
    return Serving(
        mode=points.mode,
        gpu=engine.gpu.name,
        weight_dtype=_stored(engine),
        kv_dtype=engine.kv_dtype if engine.kv_dtype != AS_PUBLISHED else points.found.busiest.layout.first.kv.name,
        pools=pools,
        chunk_tokens=points.chunk_tokens,
        ttft_s=float(points.ttft_s[index]),
        tpot_s=float(points.tpot_s[index]),
        tokens_per_s_per_gpu=rate,
        tokens_per_s_per_user=1 / float(points.tpot_s[index]),
        requests_per_s=float(points.served_per_s[index]),
        gpus=gpus,
        cost_per_million_tokens=None if load.price is None else load.price / 3600 / rate * 1e6,
        spare_bytes=spare,
        bound_by=busiest_resource(points.found, index),
        stopped_by=points.stopped_by(index),
        warnings=points.found.busiest.predicted.warnings,
    )


def _stored(engine: Engine) -> str:
    """The format of the weights by its own name."""
    checkpoint = engine.model.checkpoint
    return (checkpoint.quantised or checkpoint.dtype) if engine.weight_dtype == AS_PUBLISHED else engine.weight_dtype


def _missed(found: Sequence[Points]) -> list[Rejected]:
    """Points by the first target they miss, and the one of each that comes closest."""
    counts: dict[str, int] = {}
    nearest: dict[str, tuple[float, str]] = {}
    for points in found:
        for index in np.flatnonzero(~points.met):
            reason = points.first_miss(int(index))
            assert reason is not None
            counts[reason] = counts.get(reason, 0) + 1
            over = float(points.misses[reason][index])
            if reason not in nearest or over < nearest[reason][0]:
                nearest[reason] = over, _short(points, int(index), reason)
    return [Rejected(SAID[reason], counts[reason], nearest[reason][1]) for reason in SAID if reason in counts]


def _closest(found: Sequence[Points]) -> str:
    """By how much the way misses that misses least, all its targets together."""
    least: tuple[float, Points, int] | None = None
    for points in found:
        over = np.max([np.maximum(missed, 0) for missed in points.misses.values()], axis=0)
        index = int(np.argmin(over))
        if least is None or over[index] < least[0]:
            least = float(over[index]), points, index
    assert least is not None
    _, points, index = least
    worst = max(points.misses, key=lambda reason: points.misses[reason][index])
    return _short(points, index, worst)


def _short(points: Points, index: int, reason: str) -> str:
    """What a point lacks, and which one it is."""
    load = points.engine.load
    spread, batch = points.engine.parallelism, points.batch[index]
    which = f"{points.engine.gpu.name}, {named(spread)}, batch {batch:.0f}, {points.mode}"
    over = points.misses[reason][index]
    if reason == "memory":
        return f"{-points.spare_bytes[index] / 2**30:.3g} GiB ({which})"
    if reason == "gpus":
        return f"{points.gpus[index] - load.most_gpus:.0f} GPUs ({which})"
    if reason == "prompts":
        return f"{100 * over:.3g} % more prompt tokens than it reads ({which})"
    target, value = (load.ttft_s, points.ttft_s) if reason == "ttft" else (load.tpot_s, points.tpot_s)
    assert target is not None
    return f"{1e3 * (value[index] - target):.3g} ms of {reason.upper()}, {100 * over:.3g} % ({which})"


def _degrees(spread: Parallelism) -> dict[str, int]:
    return {name: degree for name in DEGREES if (degree := getattr(spread, name)) > 1}


LETTERS = {"tp": "TP", "cp": "CP", "attention_dp": "DP", "ep": "EP", "pp": "PP"}


def named(spread: Parallelism) -> str:
    """A layout in short: TP8, DP8 EP8, TP4 PP2."""
    degrees = _degrees(spread)
    return " ".join(f"{letters}{degrees[name]}" for name, letters in LETTERS.items() if name in degrees) or "TP1"
