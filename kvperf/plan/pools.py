"""Prefill and decode on GPUs of their own: which layout reads prompts, and how many of each the load needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from kvperf.plan.engine import Engine, seconds
from kvperf.plan.points import FITS, Decoding, Points, every, lacking, needed, targets, waited

FULL = 0.9  # share of the time that a prefilling pool may work: beyond it requests wait for long


class Prompts(msgspec.Struct, frozen=True):
    """One replica that reads prompts: how many at once, how long that takes, and how many requests that is.

    busy   at that rate
    spare_bytes  that the prompts leave;  late: even an idle one misses the target for the first token
    """

    engine: Engine
    batch: int
    service_s: float
    requests_per_s: float
    busy: float
    spare_bytes: float
    late: bool

    @property
    def gpus(self) -> int:
        return self.engine.parallelism.gpus


def prompts(engine: Engine) -> Prompts:
    """The replica, as busy as the target for the first token allows."""
    found, count = engine.prefilling()
    service_s, load = float(seconds(found)), engine.load
    busy, late = FULL, False
    if load.ttft_s is not None:
        # service·(1 + ρ/(2(1 − ρ))) + moving the cache = target, solved for ρ
        left = load.ttft_s - service_s - engine.handed_over_s(found)
        late = left <= 0
        busy = FULL if late else min(FULL, 2 * left / (service_s + 2 * left))
    # Batches of prompts follow each other through pipeline stages without waiting.
    streamed_s = service_s - float(found.wait_s)
    spare = float(engine.spare_bytes(found, count))
    return Prompts(engine, count, service_s, busy * count / streamed_s, busy, spare, late)


def best(found: Sequence[Prompts]) -> list[Prompts]:
    """For each number of GPUs the replica that reads most; and only if it reads more for a GPU than a smaller one.

    Of those that fit and are in time; where there are none, of those that fit, or of all.
    """
    kept: list[Prompts] = []
    fitting = [p for p in found if p.spare_bytes >= 0]
    for one in sorted(
        [p for p in fitting if not p.late] or fitting or found, key=lambda p: (p.gpus, -p.requests_per_s)
    ):
        if not kept or one.requests_per_s / one.gpus > kept[-1].requests_per_s / kept[-1].gpus:
            kept.append(one)
    return kept


def apart(plain: Decoding, readers: Sequence[Prompts]) -> list[Points]:
    """A decoding pool with each kind of prefilling one."""
    engine, found, batch, tpot_s = plain.engine, plain.found, plain.batch, plain.seconds
    load = engine.load
    rate = batch / (load.output_tokens * tpot_s)
    moved_s = engine.handed_over_s(found)
    points = []
    for reader in readers:
        replicas, reading = _sizes(engine, reader, rate)
        gpus = replicas * engine.parallelism.gpus + reading * reader.gpus
        served = np.minimum(rate, reading * reader.requests_per_s / replicas)
        asked = replicas * served if load.requests_per_s is None else load.requests_per_s
        ttft_s = every(
            waited(reader.service_s, reader.busy * asked / (reading * reader.requests_per_s)) + moved_s, batch
        )
        short = lacking(engine, np.minimum(plain.spare_bytes, reader.spare_bytes))
        misses = {FITS: short, **targets(load, ttft_s, tpot_s, gpus)}
        points.append(
            Points(
                engine,
                "apart",
                None,
                found,
                batch,
                ttft_s,
                tpot_s,
                served,
                plain.spare_bytes,
                replicas,
                gpus,
                misses,
                reader.engine,
                reading,
                reader.batch,
            )
        )
    return points


def _sizes(engine: Engine, reader: Prompts, rate: Any) -> tuple[Any, Any]:
    """Replicas of the decoding and of the prefilling pool: what arrives, or the pair that wastes least."""
    load, own = engine.load, engine.parallelism.gpus
    if load.requests_per_s is not None:
        return needed(load, rate), np.ceil(load.requests_per_s / np.full_like(rate, reader.requests_per_s))
    replicas, reading = np.ones_like(rate), np.ones_like(rate)
    most = np.zeros_like(rate)
    for decoding in range(1, max(2, load.most_gpus // own + 1)):
        for rounded in (np.floor, np.ceil):
            wanted = np.maximum(1, rounded(decoding * rate / reader.requests_per_s))
            gpus = decoding * own + wanted * reader.gpus
            served = np.minimum(decoding * rate, wanted * reader.requests_per_s) / gpus
            better = (served > most * (1 + 1e-9)) & (gpus <= load.most_gpus)
            replicas, reading = np.where(better, decoding, replicas), np.where(better, wanted, reading)
            most = np.where(better, served, most)
    return replicas, reading
