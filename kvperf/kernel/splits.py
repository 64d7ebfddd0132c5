"""How many blocks share one sequence.

Splits are whole tiles, so that not every number can be had: 57 of 128 tiles would be 3 tiles each, and 43 of those make
the sequence.
"""

from __future__ import annotations

import math

from kvperf.arith import ceil_div

MAX_SPLITS = 128  # kernels/split.cuh


def whole(tiles: int, splits: int) -> int:
    """The splits that whole tiles give where so many are asked for."""
    return int(ceil_div(tiles, ceil_div(tiles, min(splits, tiles))))


def choose_splits(blocks: int, tiles: int, slots: int) -> int:
    """FlashAttention-3's rule (hopper/heuristics.h), over the splits that whole tiles give.

    blocks     blocks without splitting; tiles: of one sequence; slots: blocks the GPU runs at once
    None at 80 % of the slots or at 4 tiles and fewer; else the fewest with 85 % of the best efficiency, or more of them
    where those run in as many waves and are done sooner.
    """
    if blocks >= 0.8 * slots or tiles <= 4:
        return 1
    efficiency = _efficiency(blocks, tiles, slots)
    fewest = _fewest(efficiency, 0.85)
    waves = math.ceil(blocks * fewest / slots)
    side_by_side = {n: share for n, share in efficiency.items() if math.ceil(blocks * n / slots) == waves}
    return _fewest(side_by_side, 1)


def fill_slots(blocks: int, tiles: int, slots: int) -> int:
    """The splits of a persistent kernel, whose pieces should keep every slot busy to the end.

    The fewest with 95 % of the best efficiency, however many blocks there are without: a slot that takes one piece more
    than the others should not take a whole sequence more.
    """
    return 1 if tiles <= 4 else _fewest(_efficiency(blocks, tiles, slots), 0.95)


def _efficiency(blocks: int, tiles: int, slots: int) -> dict[int, float]:
    """By number of splits: the tiles there are over those that all slots could take until the last one is done."""
    counts = sorted({whole(tiles, n) for n in range(1, min(MAX_SPLITS, slots, tiles) + 1)})
    return {n: blocks * tiles / (slots * math.ceil(blocks * n / slots) * math.ceil(tiles / n)) for n in counts}


def _fewest(efficiency: dict[int, float], share: float) -> int:
    best = max(efficiency.values())
    return min(n for n, found in efficiency.items() if found >= share * best)
