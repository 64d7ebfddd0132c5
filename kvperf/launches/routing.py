"""How many rows each expert of the busiest rank gets, under the routings that the tables were measured with.

uniform         every token draws its experts at random, all alike: the expectation of any rank
balanced        the tables' round robin: token t takes every stride-th expert from t on
grouped         the same offered to DeepSeek-V3's router, which keeps 4 of 8 groups and fills up with low experts
power_law_<a>   loads drawn from a power law with exponent a, the busiest rank measured
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from kvperf.arith import choose, most, power

DRAWS = 3  # placements of power-law loads on ranks that are averaged; one rank has one placement
GROUPS, KEPT_GROUPS = 8, 4


class Routing(msgspec.Struct, frozen=True):
    """The share of one rank: the busiest where loads differ.

    active   distinct experts that get rows
    rows     token-expert pairs
    tiles    tiles of `tile_rows` rows, each expert's last one padded
    """

    active: Any
    rows: Any
    tiles: Any
    tile_rows: Any


def routing(tokens: Any, experts: Any, topk: Any, ep: Any, distribution: Any) -> Routing:
    """For plain numbers, or arrays (also of names), which are tabulated over their distinct combinations."""
    if isinstance(distribution, str) and distribution == "uniform":
        return _uniform(tokens, experts, topk, ep)
    inputs = (tokens, experts, topk, ep, distribution)
    if all(isinstance(value, (int, float, str)) for value in inputs):
        return Routing(*_routed(float(tokens), int(experts), int(topk), int(ep), str(distribution)))
    import numpy as np

    if np.size(distribution) and (np.asarray(distribution) == "uniform").all():
        return _uniform(tokens, experts, topk, ep)
    columns = np.broadcast_arrays(*inputs)
    keys = list(zip(*(column.tolist() for column in columns), strict=True))
    results = {key: _routed(float(key[0]), *(int(k) for k in key[1:4]), str(key[4])) for key in dict.fromkeys(keys)}
    return Routing(*np.array([results[key] for key in keys], dtype=float).reshape(-1, 4).T)


@functools.lru_cache(maxsize=65536)
def _routed(tokens: float, experts: int, topk: int, ep: int, distribution: str) -> tuple[float, float, float, float]:
    tile = _tile_rows(tokens * topk / experts)
    loads = _loads(round(tokens), experts, topk, ep, distribution)
    active = sum(sum(1 for load in rank if load) for rank in loads) / len(loads)
    rows = sum(map(sum, loads)) / len(loads)
    tiles = sum(sum(-(-load // tile) for load in rank) for rank in loads) / len(loads)
    return active, rows, tiles, tile


def _uniform(tokens: Any, experts: Any, topk: Any, ep: Any) -> Routing:
    """The expectation: distinct experts of an occupancy problem, and half a tile lost at the end of each."""
    active = experts / ep * (1 - power(1 - topk / experts, tokens))
    rows = tokens * topk / ep
    load = tokens * topk / experts
    tile = choose(load <= 16, 16, choose(load <= 32, 32, choose(load <= 64, 64, 128)))
    return Routing(active, rows, most(active, rows / tile + active / 2), tile)


def _tile_rows(mean_load: float) -> int:
    """Tiles grow with the load an expert has on average, from the least that an MMA takes to 128 rows."""
    return next((rows for rows in (16, 32, 64) if mean_load <= rows), 128)


def _loads(tokens: int, experts: int, topk: int, ep: int, distribution: str) -> list[list[int]]:
    """Rows of every expert of the busiest rank, once or for several placements."""
    local = experts // ep
    if distribution == "balanced":
        return [_balanced(tokens, experts, topk)[:local]]
    if distribution == "grouped":
        return [_grouped(tokens, experts)[:local]]
    exponent = float(distribution.removeprefix("power_law_"))
    return [_power_law(tokens, experts, topk, ep, exponent, draw) for draw in range(DRAWS if ep > 1 else 1)]


def _balanced(tokens: int, experts: int, topk: int) -> list[int]:
    """`balanced_logits` of aiconfigurator's collector/helper.py."""
    stride = -(-experts // topk)
    if tokens < stride:
        loads = [0] * experts
        for token in range(tokens):
            for slot in range(topk):
                loads[int(token * stride / tokens + slot * stride) % experts] += 1
        return loads
    rounds, rest = divmod(tokens, experts)
    loads = [topk * rounds] * experts
    for slot in range(topk):
        for token in range(rest):
            loads[(token + slot * stride) % experts] += 1
    return loads


def _grouped(tokens: int, experts: int) -> list[int]:
    """`balanced` through a router that keeps 4 of 8 groups: all groups score alike, the first four stay, each token
    keeps its expert in these, and ties fill its other four places with the lowest experts."""
    size = experts // GROUPS
    rounds, rest = divmod(tokens, size)
    place = [rounds + (position < rest) for position in range(size)]
    if tokens < size:
        place = [0] * size
        for token in range(tokens):
            place[int(token * size / tokens)] += 1
    loads = place * KEPT_GROUPS + [0] * (experts - KEPT_GROUPS * size)
    filled = GROUPS - KEPT_GROUPS
    loads[filled] += sum(place[:filled])
    loads[:filled] = [tokens] * filled
    return loads


def _power_law(tokens: int, experts: int, topk: int, ep: int, exponent: float, draw: int) -> list[int]:
    """`_generate_power_law_distribution` of aiconfigurator's collector/helper.py, its uniform draws made even: loads
    scaled to the pairs there are, rounded, no load above the tokens, what is missing given to the least loaded expert
    of each rank in turn. The busiest rank."""
    import random

    low, high = (1.0, 0.8 * tokens) if tokens * topk > experts else (0.01, 2.0)
    power = 1 - exponent
    shares = [(i + 0.5) / experts for i in range(experts)]
    random.Random(draw).shuffle(shares)
    weights = [((high**power - low**power) * share + low**power) ** (1 / power) for share in shares]
    scale = tokens * topk / sum(weights)
    loads = [min(tokens, round(weight * scale)) for weight in weights]
    local = experts // ep
    ranks = [loads[start : start + local] for start in range(0, experts, local)]
    missing = tokens * topk - sum(loads)
    for index, rank in enumerate(ranks):
        share, more = divmod(abs(missing), ep)
        _adjust(rank, (share + (index < more)) * (1 if missing > 0 else -1), tokens)
    return max(ranks, key=sum)


def _adjust(loads: list[int], amount: int, most: int) -> None:
    """Add to the least loaded one by one up to `most`, or take from the most loaded; in place."""
    sign = 1 if amount > 0 else -1
    left = abs(amount)
    while left:
        edge = min(loads) if sign > 0 else max(loads)
        if edge == (most if sign > 0 else 0):
            return
        chosen = [index for index, load in enumerate(loads) if load == edge][:left]
        others = [load for load in loads if load != edge]
        limit = (min(others, default=most) if sign > 0 else max(others, default=0)) - edge
        steps = max(1, min(abs(limit), left // len(chosen)))
        for index in chosen:
            loads[index] += sign * steps
        left -= steps * len(chosen)
