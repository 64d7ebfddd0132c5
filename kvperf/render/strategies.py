"""Strategies in words and numbers: a table of all of them, and a note on each."""

from __future__ import annotations

from typing import Any

from kvperf.render.analysis import cell, folded
from kvperf.render.table import Table, plain
from kvperf.strategies import THROUGHPUT, Communication, Kv, Limit, Room, Speed, Strategy
from kvperf.units import binary, decimal, prefix_for, significant

ABSENT = "–"
KV_BY = {
    "kv_heads": "KV heads",
    "latents": "latents are whole on every GPU",
    "pages": "pages of the longest sequence",
    "layers": "layers",
    "sequences": "sequences",
}
KV_WHOLE = KV_BY | {"kv_heads": "one KV head", "pages": "one page", "layers": "one layer", "sequences": "one sequence"}


def text(strategies: tuple[Strategy, ...]) -> str:
    """The table and below it the notes, 80 columns wide."""
    held = [s.room for s in strategies if s.room is not None]
    lines = [line for strategy in strategies for line in notes(strategy)]
    if held and held[0].fits_alone is False:
        lines.append("one GPU has too little memory for this step: its figures are those of one that had enough")
    return plain(table(strategies)) + "\n" + folded(lines)


def table(strategies: tuple[Strategy, ...]) -> Table:
    """One row a strategy, below that of one GPU."""
    speeds = [s.speed for s in strategies if s.speed is not None]
    talks = [s.communication for s in strategies if s.communication is not None]
    sent = prefix_for(max((t.link_bytes for t in talks), default=0))
    talk = prefix_for(max((t.time_s for t in talks), default=0))
    step = prefix_for(max((max(s.step_s, s.step_alone_s) for s in speeds), default=0))
    rate = prefix_for(max((max(s.tokens_per_s_per_gpu, s.tokens_per_s_alone) for s in speeds), default=0))
    tier = strategies[0].tier
    headers = (
        f"{tier}\non {strategies[0].degree} GPUs",
        "KV\n%",
        "falls\nup to",
        f"sent\n{sent[0]}B",
        f"talk\n{talk[0]}s",
        "talk\n%",
        f"step\n{step[0]}s",
        "speed\n×",
        f"{rate[0]}tok/s\n/GPU",
        "best\non",
    )
    rows = [_row(s, sent[1], talk[1], step[1], rate[1]) for s in strategies]
    if speeds:
        first = speeds[0]
        alone = (cell(first.step_alone_s, step[1]), "1", cell(first.tokens_per_s_alone, rate[1]), "")
        rows.insert(0, ("one GPU", "100", "", "0", "0", "0", *alone))
    return Table(headers, tuple(rows))


def _row(s: Strategy, sent: float, talk: float, step: float, rate: float) -> tuple[str, ...]:
    stops = "" if s.limit.kv_degree is None else "never" if s.limit.kv_degree == 1 else str(s.limit.kv_degree)
    if s.kv is None or s.communication is None or s.speed is None:
        return (s.title, *[ABSENT] * 9)
    said = s.communication
    return (
        s.title,
        ABSENT if s.kv.cache_share is None else cell(100 * s.kv.cache_share, 1),
        stops,
        cell(said.link_bytes, sent),
        cell(said.time_s, talk),
        cell(100 * said.share, 1),
        cell(s.speed.step_s, step),
        significant(s.speed.speedup),
        cell(s.speed.tokens_per_s_per_gpu, rate),
        str(s.limit.degree),
    )


def notes(strategy: Strategy) -> list[str]:
    """Four things about a strategy, in a paragraph: KV, communication, limit, best use."""
    parts = []
    if strategy.kv is not None and strategy.communication is not None:
        parts = [_kv(strategy.kv, strategy.limit), _communication(strategy, strategy.communication)]
    parts += [*_limit(strategy), f"Best use: {best_use(strategy)}"]
    return [f"{strategy.title}: {'. '.join(part[0].upper() + part[1:] for part in parts)}."]


def _kv(kv: Kv, limit: Limit) -> str:
    if limit.kv_degree is None:
        return "no KV that grows"
    falls = "never falls" if limit.kv_degree == 1 else f"falls up to {limit.kv_degree} GPUs"
    why = (KV_WHOLE if limit.kv_degree == 1 else KV_BY)[limit.kv_by]
    return (
        f"KV {binary(kv.cache_bytes)} of {binary(kv.cache_bytes_alone)}, {binary(kv.bytes_per_token)} of "
        f"{binary(kv.bytes_per_token_alone)} a token it keeps; {falls} ({why})"
    )


def _communication(strategy: Strategy, said: Communication) -> str:
    if not said.collectives:
        return "sends nothing" + (", as replicas do" if strategy.name != "replicas" else "")
    counted = ", ".join(f"{cell(c.count, 1)} {c.name}" for c in said.collectives)
    network = f" ({decimal(said.network_bytes, 'B')} over the network)" if said.network_bytes else ""
    return (
        f"{counted} a step, {decimal(said.link_bytes, 'B')} must leave the GPU{network}: "
        f"{decimal(said.time_s, 's')}, {significant(100 * said.share)} % of the step"
    )


def _limit(strategy: Strategy) -> list[str]:
    """The fastest degree and why no more GPUs; none where every degree is refused."""
    limit, speed = strategy.limit, strategy.speed
    if limit.degree == 1 and limit.stopped == "refused":
        return []
    said = f"fastest on {limit.degree} GPUs, {decimal(limit.step_s, 's')}"
    if limit.degree == 1:
        said = f"never faster than one GPU, {decimal(limit.step_s, 's')}"
    if limit.next_degree is None:
        said += ", the most searched"
    elif limit.next_s is None:
        said += f"; {limit.next_degree}: {limit.next_refused}"
    else:
        said += f"; {limit.next_degree} take {decimal(limit.next_s, 's')}"
    if speed is not None and strategy.name in THROUGHPUT:
        rate = significant(speed.tokens_per_s_per_gpu)
        said += f"; {rate} tokens/s a GPU, {significant(speed.per_gpu_ratio)} × one GPU's"
    return [said]


def best_use(strategy: Strategy) -> str:
    """One sentence, by the verdict; every number is one of the record."""
    speed, room = strategy.speed, strategy.room
    if speed is None or room is None:
        return f"not possible on {strategy.degree} GPUs: {strategy.refused}"
    if strategy.verdict == "unfit":
        return _unfit(strategy.degree, room)
    beside = speed.rival == "tensor" or strategy.name == "sequence"
    return (_beside_tensor if beside else _beside_one)(strategy.verdict, speed, room)


def _unfit(degree: int, room: Room) -> str:
    usable = "" if room.usable_bytes is None else f" of {binary(room.usable_bytes)}"
    fits = "on no number of GPUs searched" if room.fits_degree is None else f"from {room.fits_degree} GPUs on"
    return f"not possible on {degree} GPUs: each needs {binary(room.needed_bytes)}{usable}; fits {fits}"


def _beside_one(verdict: str, speed: Speed, room: Room) -> str:
    """Against one GPU, and for comparison tensor parallelism."""
    said = {
        "latency": f"lowers latency, {significant(speed.speedup)} × as fast as one GPU",
        "throughput": f"raises throughput, {significant(speed.per_gpu_ratio)} × one GPU's tokens/s on each",
        "batch": f"only pays from batch {speed.even_batch} on, where each GPU gives the tokens/s that one alone gives "
        f"with {speed.batch}",
        "capacity": f"only adds capacity, latency {significant(speed.latency)} × one GPU's",
        "none": f"does not pay, latency {significant(speed.latency)} × one GPU's with as much KV on each",
    }[verdict]
    if room.max_batch is not None:
        said += f"; holds batch {room.max_batch}, one GPU {room.max_batch_alone}"
    if speed.tensor_ratio in (None, 1):
        return said
    return f"{said}; the step is {significant(speed.tensor_ratio)} × tensor parallelism's on as many GPUs"


def _beside_tensor(verdict: str, speed: Speed, room: Room) -> str:
    """Against tensor parallelism on as many GPUs."""
    ratio = "unknown" if speed.tensor_ratio is None else significant(speed.tensor_ratio)
    rival = f"{ratio} × tensor parallelism's on as many GPUs"
    held = "" if room.max_batch is None else f"; holds batch {room.max_batch}, that {room.max_batch_tensor}"
    return {
        "latency": f"lowers latency, the step is {rival}",
        "throughput": f"raises throughput, the step is {rival}",
        "batch": f"only pays from batch {speed.overtaking_batch} on, where the step gets faster than tensor "
        f"parallelism's on as many GPUs (with {speed.batch}, {ratio} × that)",
        "capacity": f"only adds capacity, the step is {rival}",
        "none": f"does not pay, the step is {rival}",
    }[verdict] + held


def rows(strategies: tuple[Strategy, ...]) -> list[dict[str, Any]]:
    """One row a strategy for CSV, in base units; what a refused one lacks is empty."""
    return [_flat(strategy) for strategy in strategies]


def _flat(s: Strategy) -> dict[str, Any]:
    flat: dict[str, Any] = {name: getattr(s, name) for name in ("name", "degree", "tier", "verdict", "refused")}
    said = s.communication
    flat["collectives"] = None if said is None else " ".join(f"{c.name}:{c.count}" for c in said.collectives)
    parts: tuple[tuple[str, Any, Any], ...] = (
        ("kv", Kv, s.kv),
        ("communication", Communication, said),
        ("speed", Speed, s.speed),
        ("room", Room, s.room),
        ("limit", Limit, s.limit),
    )
    for title, kind, part in parts:
        for field in kind.__struct_fields__:
            if field != "collectives":
                flat[f"{title}.{field}"] = None if part is None else getattr(part, field)
    flat["best_use"] = best_use(s)
    return flat
