"""Why points are no plans: counted by the first target they miss, and by how much the closest ones miss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvperf.plan.layouts import named
from kvperf.plan.points import IN_GPUS, ROUNDING, Points
from kvperf.plan.record import Rejected

SAID = {
    "memory": "does not fit",
    "prompts": "prompts cannot keep up",
    "ttft": "first token too late",
    "tpot": "next tokens too slow",
    "gpus": "needs more GPUs",
}


def missed(found: Sequence[Points]) -> list[Rejected]:
    """Points by the first target they miss, and the one of each that comes closest."""
    counts: dict[str, int] = {}
    nearest: dict[str, tuple[float, str, str]] = {}
    for points in found:
        for index in map(int, np.flatnonzero(~points.met)):
            reason = points.first_miss(index)
            assert reason is not None
            counts[reason] = counts.get(reason, 0) + 1
            over = float(points.misses[reason][index])
            if reason not in nearest or over < nearest[reason][0]:
                nearest[reason] = over, _by(points, index, reason), _which(points, index)
    return [Rejected(SAID[reason], counts[reason], *nearest[reason][1:]) for reason in SAID if reason in counts]


def closest(found: Sequence[Points]) -> str:
    """By how much the way misses that misses least, all its targets together; and whether more GPUs are enough."""
    points, index = min(
        ((points, int(np.argmin(_over(points)))) for points in found), key=lambda at: _over(at[0])[at[1]]
    )
    reasons = [reason for reason, over in points.misses.items() if over[index] > ROUNDING]
    text = f"{' and '.join(_by(points, index, reason) for reason in reasons)} ({_which(points, index)})"
    enough = _enough(found)
    return text if enough is None else f"{text}; --max-gpus {enough} would be enough"


def _over(points: Points) -> np.ndarray:
    """The largest miss of each point, as a share of its target."""
    return np.max([np.maximum(over, 0) for over in points.misses.values()], axis=0)


def _enough(found: Sequence[Points]) -> int | None:
    """The fewest GPUs of a point that misses nothing else."""
    fewest: float | None = None
    for points in found:
        others = [over for reason, over in points.misses.items() if reason != IN_GPUS]
        good = np.all([over <= ROUNDING for over in others], axis=0)
        if good.any():
            least = float(np.min(np.broadcast_to(points.gpus, good.shape)[good]))
            fewest = least if fewest is None else min(fewest, least)
    return None if fewest is None else int(fewest)


def _by(points: Points, index: int, reason: str) -> str:
    """By how much a point misses a target."""
    load, over = points.engine.load, float(points.misses[reason][index])
    if reason == "memory":
        return f"{over * points.engine.gpu.hbm_capacity_bytes / 2**30:.3g} GiB"
    if reason == "gpus":
        more = int(points.gpus[index] - load.most_gpus)
        return f"{more} GPU{'s' if more > 1 else ''}"
    if reason == "prompts":
        return f"{100 * over:.3g} % more prompt tokens than it reads"
    target, value = (load.ttft_s, points.ttft_s) if reason == "ttft" else (load.tpot_s, points.tpot_s)
    assert target is not None
    share = f"{100 * over:.3g} %" if over < 10 else f"{1 + over:.0f} × the target"
    return f"{1e3 * (value[index] - target):.3g} ms of {reason.upper()}, {share}"


def _which(points: Points, index: int) -> str:
    """The point: GPU, layout, formats, batch."""
    engine = points.engine
    formats = f"{engine.stored} weights, {engine.cached} KV"
    chunk = f", chunk {points.chunk_tokens}" if points.chunk_tokens else ""
    batch = f"batch {points.batch[index]:.0f}"
    return f"{engine.gpu.name}, {named(engine.parallelism)}, {formats}, {batch}{chunk}, {points.mode}"
