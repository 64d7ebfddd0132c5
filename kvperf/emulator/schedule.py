"""Which of the ready threads go next: orders that expose what a kernel takes for granted.

forward   all warps of all blocks together, the lowest instruction first: the tamest
greedy    in each block one warp, the first that is ready, runs until it must wait: exposes missing barriers
reverse   the same from the last warp, blocks in reverse order; copies land as soon as they are issued; of the blocks
          that did an atomic operation together, the last runs as far ahead of the others as it can
random    by seed: another order of warps every few steps, blocks in random order, at times half of them asleep, and
          each copy lands early or late
halves    each warp falls apart into two halves of its lanes, which meet only where an instruction names both; until
          then one half of all warps goes first, which of them changes by seed: exposes a missing `__syncwarp()`
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvperf.emulator.formats import Array

NAMES = ("forward", "greedy", "reverse", "random", "halves")
WARP = 32
NEVER = np.iinfo(np.int32).max
# Mean number of basic blocks between two orders of a random schedule.
MEAN_STEPS = 16


class Schedule:
    """One of them, for one run."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.splits_warps = name == "halves"
        # The half of each warp that goes first, where warps are split.
        self.ahead = 0
        self.random = np.random.default_rng(seed)
        self.steps_left = 0
        self.order: Array | None = None
        self.half: Array | None = None
        self.asleep: Array | None = None

    def for_batch(self) -> Schedule:
        """The same run, before the first step of its next batch of blocks."""
        self.order, self.asleep, self.half, self.steps_left = None, None, None, 0
        return self

    def block_order(self, blocks: int) -> Array:
        """The order in which the blocks of the grid start."""
        if self.name == "reverse":
            return np.arange(blocks)[::-1].copy()
        if self.name == "forward":
            return np.arange(blocks)
        return self.random.permutation(blocks)

    def lands_early(self) -> bool:
        """Whether an asynchronous copy lands when it is issued, not when somebody has waited for it."""
        if self.name == "random":
            return bool(self.random.random() < 0.5)
        return self.name == "reverse"

    def pick(self, pending: int) -> int:
        """Which of several pending copies lands next."""
        return int(self.random.integers(pending)) if self.name == "random" else pending - 1

    def choose(self, ready: Array, warps_per_block: int, apart: list[bool]) -> tuple[int, Array | None] | None:
        """An instruction and the threads that shall execute it (None: all), or None where no thread is ready.

        `apart`: by instruction, whether halves of a warp go on one by one where the schedule splits warps.
        """
        in_order = self.name in ("greedy", "reverse") and warps_per_block == 1 and self.asleep is None
        if self.name == "forward" or in_order:
            return _lowest(ready)
        if self.splits_warps:
            return self._choose_half(ready, apart)
        by_warp = ready.reshape(-1, warps_per_block, WARP)
        next_of_warp = by_warp.min(axis=2)
        order = self._order(*next_of_warp.shape)
        ordered = next_of_warp[:, order]
        if self.asleep is not None:
            ordered = np.where(self.asleep[:, None], NEVER, ordered)
        first = (ordered < NEVER).argmax(axis=1)
        blocks = np.arange(len(first))
        at = ordered[blocks, first]
        pc = int(at.min())
        if pc == NEVER:
            return None
        here = np.flatnonzero(at == pc)
        warps = here * warps_per_block + order[first[here]]
        threads = (warps[:, None] * WARP + np.arange(WARP))[by_warp[here, order[first[here]]] == pc]
        return pc, None if len(threads) == len(ready) else threads

    def _choose_half(self, ready: Array, apart: list[bool]) -> tuple[int, Array | None] | None:
        if self.steps_left == 0:
            self.steps_left = int(self.random.geometric(1 / MEAN_STEPS))
            self.ahead = int(self.random.integers(2))
        self.steps_left -= 1
        by_half = ready.reshape(-1, 2, WARP // 2)
        pc = int(by_half[:, self.ahead].min())
        pc = int(ready.min()) if pc == NEVER else pc
        if pc == NEVER:
            return None
        here = by_half == pc
        if apart[pc] and here[:, self.ahead].any():
            here[:, 1 - self.ahead] = False
        threads = np.flatnonzero(here)
        return pc, None if len(threads) == len(ready) else threads

    def wake_all(self) -> bool:
        """Let every block be awake; False where it was so."""
        was_asleep = self.asleep is not None and bool(self.asleep.any())
        self.asleep = None
        return was_asleep

    def after_atomic(self, blocks: Array, resident: int) -> None:
        """Blocks have told others something: random draws a new order, reverse lets the last of them run ahead."""
        self.steps_left = 0
        if self.name == "reverse":
            self.asleep = np.zeros(resident, bool) if self.asleep is None else self.asleep
            self.asleep[blocks] = True
            self.asleep[blocks[-1]] = False

    def _order(self, blocks: int, warps: int) -> Array:
        if self.name == "random":
            if self.steps_left == 0 or self.order is None:
                self.steps_left = int(self.random.geometric(1 / MEAN_STEPS))
                self.order = self.random.permutation(warps)
                self.asleep = self._sleepers(blocks)
            self.steps_left -= 1
        elif self.order is None:
            self.order = np.arange(warps) if self.name == "greedy" else np.arange(warps)[::-1].copy()
        return self.order

    def _sleepers(self, blocks: int) -> Array | None:
        """Nobody, one half of the blocks, or the other. The halves stay, so that each of them keeps together."""
        if self.half is None:
            self.half = self.random.random(blocks) < 0.5
        return (None, self.half, ~self.half)[int(self.random.integers(3))]


def _lowest(ready: Array) -> tuple[int, Array | None] | None:
    pc = int(ready.min())
    if pc == NEVER:
        return None
    threads: Any = np.flatnonzero(ready == pc)
    return pc, None if len(threads) == len(ready) else threads
