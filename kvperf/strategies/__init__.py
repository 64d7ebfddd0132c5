"""What each parallel strategy does to one step: its KV, what its GPUs send, where it stops paying, its best use.

Every figure is that of `kvperf.evaluation.step` with the layout of the strategy, so that of `kvperf analyze` too.
A verdict is chosen by the figures alone; `kvperf.render.strategies` puts it into words.
Sources of the layouts: Megatron-LM (arXiv:1909.08053, 2104.04473, 2205.05198), Ring Attention (2310.01889), Ulysses
(2309.14509), Helix (2507.07120), DeepSeek-V3 (2412.19437).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvperf.capacity import Memory, kv_bytes_per_token, kv_cache_bytes
from kvperf.errors import KvperfError
from kvperf.evaluation import RankStep, Step
from kvperf.hardware.cluster import node_size
from kvperf.predict.step import COLLECTIVES, Options
from kvperf.strategies.cases import Cases, layout
from kvperf.strategies.limits import limit
from kvperf.strategies.record import Collective, Communication, Kv, Limit, Room, Speed, Strategy, Verdict

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model
    from kvperf.workload import Workload

__all__ = [
    "THROUGHPUT",
    "TITLES",
    "Collective",
    "Communication",
    "Kv",
    "Limit",
    "Room",
    "Speed",
    "Strategy",
    "layout",
    "strategies",
]

TITLES = {
    "tensor": "tensor",
    "sequence": "tensor+sequence",
    "ring": "context ring",
    "ulysses": "context Ulysses",
    "pipeline": "pipeline",
    "attention_data": "attention data",
    "expert": "expert",
    "replicas": "replicas",
}
THROUGHPUT = ("pipeline", "attention_data", "expert", "replicas")  # judged by tokens/s of a GPU
DOUBLINGS = 12  # of the batch, at most, in search of the one that pays
SAME = 1e-9  # relative: the last bits of sums


def strategies(
    gpu: Gpu,
    model: Model,
    workload: Workload,
    degree: int,
    stack: str = "none",
    options: Options = Options(),
    maximum: int | None = None,
) -> tuple[Strategy, ...]:
    """Every strategy on `degree` GPUs, searched up to `maximum` (None: the GPUs of a node).

    Raises KvperfError for a degree below 2, attention alone, or a step that one GPU cannot run.
    """
    if degree < 2:
        raise KvperfError(f"strategies on {degree} GPU are none", "give a degree of 2 or more")
    if workload.scope == "attention":
        raise KvperfError("attention alone has no strategies", "give --model")
    cases = Cases(gpu, model, workload, stack, options)
    degrees = _degrees(degree, max(degree, node_size(gpu) if maximum is None else maximum))
    return tuple(_strategy(cases, name, degree, degrees) for name in TITLES)


def _strategy(cases: Cases, name: str, degree: int, degrees: tuple[int, ...]) -> Strategy:
    stops = limit(cases, name, degrees)
    head = {"name": name, "title": TITLES[name], "degree": degree, "tier": cases.tier, "limit": stops}
    try:
        found = cases.step(name, degree)
    except KvperfError as problem:
        return Strategy(**head, verdict="refused", refused=problem.message)
    kept = cases.memory(name, degree)
    kv, room = _kv(cases, name, degree), _room(cases, name, degree, degrees, kept)
    speed = _speed(cases, name, degree, found, room)
    verdict = _verdict(name, kv, room, speed)
    talk = _communication(cases, found)
    return Strategy(**head, verdict=verdict, kv=kv, communication=talk, speed=speed, room=room)


def _kv(cases: Cases, name: str, degree: int) -> Kv:
    """Of the rank that keeps most: of a pipeline, perhaps not the one with the least memory to spare."""
    found, mine = cases.step(name, degree), cases.mine(name, degree)
    alone = cases.alone_memory.kv_cache_bytes
    layouts = {id(rank.layout): rank.layout for rank in found.ranks}.values()
    kept = max(kv_cache_bytes(layout, mine) for layout in layouts)
    return Kv(
        bytes_per_token=max(kv_bytes_per_token(layout) for layout in layouts),
        bytes_per_token_alone=cases.alone_memory.kv_bytes_per_token,
        cache_bytes=kept,
        cache_bytes_alone=alone,
        cache_share=kept / alone if alone else None,
    )


def _communication(cases: Cases, found: Step) -> Communication:
    """Of the rank that sends most: the last stage of a pipeline, perhaps the busiest, hands nothing over."""
    m = found.micro_batches
    rank = max(found.ranks, key=_sent_bytes)
    time_s, collectives = 0.0, []
    for index, stage in enumerate(rank.stages):
        if stage.name not in COLLECTIVES:
            continue
        collectives.append(Collective(stage.name, m * stage.work.kernels))
        time_s = time_s + m * (
            rank.busy[index].longest_s if cases.tier == "bound" else rank.predicted.stages[index].seconds
        )
    network = m * rank.work.network_bytes
    return Communication(tuple(collectives), m * _sent_bytes(rank), network, time_s, time_s / cases.seconds(found))


def _sent_bytes(rank: RankStep) -> Any:
    """Bytes that leave the GPU, as the record of an analysis counts them."""
    work = rank.work
    return work.link_bytes + work.network_bytes + work.host_bytes


def _speed(cases: Cases, name: str, degree: int, found: Step, room: Room) -> Speed:
    own, alone = cases.seconds(found), cases.seconds(cases.alone)
    try:
        tensor = cases.seconds(cases.step("tensor", degree))
    except KvperfError:
        tensor = None
    per_gpu, rate = cases.per_gpu(name, degree), cases.workload.tokens / alone
    batches = [held for held in (room.max_batch, room.max_batch_tensor) if held is not None]
    rival = "tensor" if room.fits_alone is False and name != "tensor" and room.max_batch_tensor else "alone"

    def even(doublings: int) -> bool:
        return cases.per_gpu(name, degree, doublings) >= rate * (1 - SAME)

    def overtakes(doublings: int) -> bool:
        return cases.per_gpu(name, degree, doublings) > cases.per_gpu("tensor", degree, doublings) * (1 + SAME)

    return Speed(
        step_s=own,
        step_alone_s=alone,
        speedup=alone / own,
        latency=own / alone,
        tensor_ratio=None if tensor is None else own / tensor,
        tokens_per_s_per_gpu=per_gpu,
        tokens_per_s_alone=rate,
        per_gpu_ratio=per_gpu / rate,
        batch=cases.workload.sequences,
        rival=rival,
        even_batch=_first_batch(cases, room.max_batch, even) if name in THROUGHPUT else None,
        overtaking_batch=_first_batch(cases, min(batches, default=None), overtakes) if name in THROUGHPUT else None,
    )


def _first_batch(cases: Cases, max_batch: Any, pays: Callable[[int], bool]) -> int | None:
    """The smallest batch, doubling from the step's up to what fits, of which `pays` says so."""
    batch = cases.workload.sequences
    for doublings in range(DOUBLINGS + 1):
        if max_batch is not None and batch << doublings > max_batch:
            return None
        try:
            if pays(doublings):
                return batch << doublings
        except KvperfError:
            return None
    return None


def _room(cases: Cases, name: str, degree: int, degrees: tuple[int, ...], kept: Memory) -> Room:
    alone = cases.alone_memory
    dealt = degree if name == "replicas" else 1
    return Room(
        fits=kept.fits,
        fits_alone=alone.fits,
        needed_bytes=kept.needed_bytes,
        usable_bytes=None if kept.capacity_bytes is None else kept.capacity_bytes * kept.usable_fraction,
        max_batch=None if kept.max_batch is None else kept.max_batch * dealt,
        max_batch_alone=alone.max_batch,
        max_batch_tensor=_tensor_batch(cases, degree),
        fits_degree=_fits_degree(cases, name, degrees) if kept.fits is False else None,
    )


def _tensor_batch(cases: Cases, degree: int) -> Any:
    try:
        return cases.memory("tensor", degree).max_batch
    except KvperfError:
        return None


def _fits_degree(cases: Cases, name: str, degrees: tuple[int, ...]) -> int | None:
    for degree in degrees:
        try:
            if cases.memory(name, degree).fits:
                return degree
        except KvperfError:
            continue
    return None


def _verdict(name: str, kv: Kv, room: Room, speed: Speed) -> Verdict:
    """What the strategy is for, by its figures: faster steps, more tokens/s of a GPU, or more room."""
    if room.fits is False:
        return "unfit"
    if speed.rival == "tensor":
        return _beside_tensor(name, room, speed)
    if name in THROUGHPUT:
        if speed.per_gpu_ratio >= 1 - SAME:
            return "throughput"
        if speed.even_batch is not None:
            return "batch"
    elif name == "sequence" and speed.tensor_ratio is not None and speed.tensor_ratio >= 1:
        return "none"
    if speed.speedup > 1 + SAME:
        return "latency"
    roomier = (room.max_batch or 0) > (room.max_batch_alone or 0)
    return "capacity" if roomier or (kv.cache_share or 1) < 1 - SAME else "none"


def _beside_tensor(name: str, room: Room, speed: Speed) -> Verdict:
    """One GPU cannot hold the step: what tensor parallelism on as many GPUs leaves to gain."""
    if speed.tensor_ratio is not None and speed.tensor_ratio < 1 - SAME:
        return "throughput" if name in THROUGHPUT else "latency"
    if speed.overtaking_batch is not None:
        return "batch"
    return "capacity" if (room.max_batch or 0) > (room.max_batch_tensor or 0) else "none"


def _degrees(degree: int, maximum: int) -> tuple[int, ...]:
    """1, 2, 4, … up to the maximum, and the degree asked for."""
    return tuple(
        sorted({1 << power for power in range(maximum.bit_length()) if 1 << power <= maximum} | {degree, maximum})
    )
