"""Every batch of one engine as a point: what it gives its users, and which target it misses first."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from kvperf.evaluation import Step
from kvperf.plan.engine import Engine, busiest_resource, chunks, seconds
from kvperf.plan.record import Load

# Sequences of one group: steps of a quarter and less.
GRID = np.array([1, 2, 3, *(base << up for up in range(9) for base in (4, 5, 6, 7))], dtype=float)
MOST_BUSY = 0.95  # share of steps with prompts in them: above it requests wait for long

# Reasons in the order that they are asked in; a point is rejected for the first.
FITS, KEEPS_UP, IN_TTFT, IN_TPOT, IN_GPUS = "memory", "prompts", "ttft", "tpot", "gpus"
ROUNDING = 1e-9  # of a target: the last bits of sums


class Points(msgspec.Struct, frozen=True):
    """The batches of one engine in one mode, arrays over the batch.

    requests_per_s  of one replica
    replicas        that decode;  gpus: of all
    prompts, prompt_replicas, prompt_batch  the pool that reads prompts apart
    misses          by reason, how far each point is over what is allowed: 0.1 is 10 % too slow; not above 0: met
    """

    engine: Engine
    mode: Literal["mixed", "apart"]
    chunk_tokens: int | None
    found: Step
    batch: Any
    ttft_s: Any
    tpot_s: Any
    requests_per_s: Any
    spare_bytes: Any
    replicas: Any
    gpus: Any
    misses: dict[str, Any]
    prompts: Engine | None = None
    prompt_replicas: Any = 0
    prompt_batch: int = 0

    @property
    def met(self) -> Any:
        """Which points meet every target."""
        good = np.ones(len(self.batch), dtype=bool)
        for missed in self.misses.values():
            good &= missed <= ROUNDING
        return good

    @property
    def served_per_s(self) -> Any:
        """Requests that all replicas together serve: those that arrive, or as many as they can."""
        wanted = self.engine.load.requests_per_s
        return self.replicas * self.requests_per_s if wanted is None else np.full(len(self.batch), wanted)

    @property
    def tokens_per_s_per_gpu(self) -> Any:
        return self.served_per_s * self.engine.load.output_tokens / self.gpus

    def first_miss(self, index: int) -> str | None:
        """The first target that a point misses."""
        return next((reason for reason, missed in self.misses.items() if missed[index] > ROUNDING), None)

    def stopped_by(self, index: int) -> str:
        """What forbids the next larger batch; nothing where it is a way too, though others may be better."""
        if index + 1 == len(self.batch):
            return "largest batch tried"
        reason = self.first_miss(index + 1)
        if reason in (IN_TTFT, IN_TPOT, KEEPS_UP):
            return f"{reason} ({busiest_resource(self.found, index + 1)})"
        return reason or ""


class Decoding(msgspec.Struct, frozen=True):
    """The decode steps of an engine, over the batch."""

    engine: Engine
    found: Step
    batch: Any
    seconds: Any
    spare_bytes: Any

    @property
    def too_large(self) -> Any:
        """By how much of a GPU each batch does not fit."""
        return lacking(self.engine, self.spare_bytes)

    @property
    def hopeless(self) -> bool:
        """Whether no batch both fits and decodes fast enough: prompts beside it only make it slower."""
        slow = targets(self.engine.load, self.seconds, self.seconds, self.engine.parallelism.gpus)[IN_TPOT]
        return not np.any((self.too_large <= 0) & (slow <= ROUNDING))


def decoding(engine: Engine) -> Decoding:
    """All batches at once."""
    batch = GRID * engine.groups
    found = engine.decoding(batch)
    return Decoding(engine, found, batch, every(seconds(found), batch), every(engine.spare_bytes(found, batch), batch))


def alone(plain: Decoding, mode: Literal["mixed", "apart"]) -> Points:
    """The points of an engine whose decoding by itself is too slow or too large, whatever is done with prompts."""
    engine, gpus = plain.engine, plain.engine.parallelism.gpus
    rate = plain.batch / (engine.load.output_tokens * plain.seconds)
    misses = {
        FITS: plain.too_large,
        **targets(engine.load, np.zeros_like(rate), plain.seconds, gpus),
    }
    none, one = np.zeros_like(rate), np.ones_like(rate)
    told = (plain.batch, none, plain.seconds, rate, plain.spare_bytes, one, one * gpus)
    return Points(engine, mode, None, plain.found, *told, misses)


def mixed(plain: Decoding) -> list[Points]:
    """Prompts in chunks beside decoding, for each size of chunk."""
    engine, batch, decode_s = plain.engine, plain.batch, plain.seconds
    load = engine.load
    found = []
    for chunk in dict.fromkeys(chunks(load.prompt_tokens)):
        both, read = engine.mixing(batch, chunk)
        mixed_s = every(seconds(both), batch)
        # Of osl steps each sequence is in, so many hold a piece of a prompt: one prompt for each sequence that ends.
        busy = batch * load.prompt_tokens / (load.output_tokens * read)
        share = np.minimum(busy, 1.0)
        tpot_s = (1 - share) * decode_s + share * mixed_s
        passes = max(1, -(-load.prompt_tokens // chunk))
        # Of the time, not of the steps; a prompt that finds none before it waits for half a decode step.
        occupied = share * mixed_s / tpot_s
        ttft_s = waited(passes * mixed_s, occupied) + (1 - occupied) * decode_s / 2
        spare = every(engine.spare_bytes(both, batch + engine.groups), batch)
        rate = batch / (load.output_tokens * tpot_s)
        gpus = engine.parallelism.gpus
        replicas = needed(load, rate)
        misses = {
            FITS: lacking(engine, spare),
            KEEPS_UP: busy / MOST_BUSY - 1,
            **targets(load, ttft_s, tpot_s, replicas * gpus),
        }
        found.append(
            Points(
                engine,
                "mixed",
                chunk,
                plain.found,
                batch,
                ttft_s,
                tpot_s,
                rate,
                spare,
                replicas,
                replicas * gpus,
                misses,
            )
        )
    return found


def lacking(engine: Engine, spare_bytes: Any) -> Any:
    """Memory that is missing, as a share of a GPU's."""
    return np.maximum(-spare_bytes / engine.gpu.hbm_capacity_bytes, 0.0)


def targets(load: Load, ttft_s: Any, tpot_s: Any, gpus: Any) -> dict[str, Any]:
    """How far points are over the targets, as shares of them."""
    return {
        IN_TTFT: np.zeros_like(tpot_s) if load.ttft_s is None else ttft_s / load.ttft_s - 1,
        IN_TPOT: np.zeros_like(tpot_s) if load.tpot_s is None else tpot_s / load.tpot_s - 1,
        IN_GPUS: gpus / load.most_gpus - 1 + np.zeros_like(tpot_s),
    }


def needed(load: Load, requests_per_s: Any) -> Any:
    """Replicas that serve what arrives; one where nothing is said."""
    if load.requests_per_s is None:
        return np.ones_like(requests_per_s)
    return np.ceil(load.requests_per_s / requests_per_s)


def waited(service_s: Any, busy: Any) -> Any:
    """Service and the mean wait before it: one queue, random arrivals, service always alike (M/D/1, Pollaczek 1930)."""
    return service_s * (1 + busy / (2 * np.maximum(1 - busy, 1e-3)))


def every(value: Any, batch: Any) -> Any:
    """A figure for each batch, though it may be the same for all."""
    return np.broadcast_to(np.asarray(value, dtype=float), batch.shape)
