"""Where more GPUs stop helping a strategy: a step that is no faster, a layout that is refused, KV that stays."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import ceil_div
from kvperf.capacity import kv_bytes_per_token
from kvperf.errors import KvperfError
from kvperf.layout import Layout, Parallelism, one_rank
from kvperf.layout.rank import stage_layers
from kvperf.layout.shard import split_mixer
from kvperf.model.architecture import Compressed, Latent
from kvperf.strategies.cases import Cases
from kvperf.strategies.record import KvLimit, Limit


def limit(cases: Cases, name: str, degrees: tuple[int, ...]) -> Limit:
    """The fastest of the degrees, and why not the next one."""
    times: dict[int, Any] = {}
    refused: dict[int, str] = {}
    for degree in degrees:
        try:
            times[degree] = cases.seconds(cases.step(name, degree))
        except KvperfError as problem:
            refused[degree] = problem.message
    best = min(times, key=lambda degree: (times[degree], degree))
    following = next((degree for degree in degrees if degree > best), None)
    kv_degree, kv_by = _kv_limit(cases, name)
    return Limit(
        kv_degree=kv_degree,
        kv_by=kv_by,
        degree=best,
        step_s=times[best],
        stopped="searched" if following is None else "refused" if following in refused else "slower",
        next_degree=following,
        next_s=None if following is None else times.get(following),
        next_refused=None if following is None else refused.get(following),
    )


def _kv_limit(cases: Cases, name: str) -> tuple[int | None, KvLimit]:
    """The degree from which a GPU's cache stops falling, whatever the step's speed."""
    layout = cases.alone.busiest.layout
    if not kv_bytes_per_token(layout):
        return None, "no_kv"
    if name in ("tensor", "sequence", "ulysses"):
        return _by_heads(layout)
    if name == "ring":
        longest = max(r.context_tokens for r in cases.workload.requests)
        return int(ceil_div(longest, cases.workload.page_tokens)), "pages"
    if name == "pipeline":
        return _by_layers(cases), "layers"
    return cases.workload.sequences, "sequences"


def _by_heads(layout: Layout) -> tuple[int, KvLimit]:
    """KV heads are split, then copied; latents are whole on every GPU."""
    most = max(getattr(owned.shard.mixer, "heads", 1) for owned in layout.kinds)
    held = {ranks: found for ranks in range(1, most + 1) if (found := _split(layout, ranks)) is not None}
    least = min(held.values())
    degree = min(ranks for ranks, found in held.items() if found == least)
    latent = any(isinstance(owned.shard.mixer, Latent | Compressed) for owned in layout.kinds)
    return degree, "latents" if latent and degree == 1 else "kv_heads"


def _split(layout: Layout, ranks: int) -> Any:
    """KV bytes of a token on one of `ranks` GPUs that share out the heads; None where they don't divide."""
    replace = msgspec.structs.replace
    try:
        kinds = tuple(
            replace(owned, cache=replace(owned.cache, mixer=split_mixer(owned.cache.mixer, ranks)))
            for owned in layout.kinds
        )
    except KvperfError:
        return None
    return kv_bytes_per_token(replace(layout, kinds=kinds))


def _by_layers(cases: Cases) -> int:
    """The fewest stages of which the fullest keeps no more than the largest single layer."""
    model, workload = cases.model, cases.workload
    count = len(model.layer_sequence())
    split = Parallelism(pp=count)
    held = [kv_bytes_per_token(one_rank(model, workload, split, stage)) for stage in range(count)]
    for pp in range(1, count):
        if all(_kept(held, pp, stage) <= max(held) for stage in range(pp)):
            return pp
    return count


def _kept(held: list[Any], pp: int, stage: int) -> Any:
    low, high = stage_layers(len(held), pp, stage)
    summed: Any = 0
    for layer in held[low:high]:
        summed = summed + layer
    return summed
