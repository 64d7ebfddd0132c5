"""What the counters need to know of threads that access memory together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kvperf.emulator.formats import Array


class Company(NamedTuple):
    """Which warps and blocks some threads belong to, in ascending order.

    warp_key   the warp, above the 40 bits of an offset
    requests   how many warps they are
    rows       how many blocks, if each sends the same threads; else 1
    thread     the threads of one of those blocks; if the blocks differ, of all, told apart by their block
    identity   `thread` as bytes
    """

    warp_key: Array
    requests: int
    rows: int
    thread: Array
    identity: bytes

    @classmethod
    def of(cls, warp: Array, block: Array, thread: Array) -> Company:
        requests = 1 + int(np.count_nonzero(warp[1:] != warp[:-1]))
        rows = int(block[-1] - block[0]) + 1
        if rows > 1 and len(thread) % rows == 0:
            who, owner = thread.reshape(rows, -1), block.reshape(rows, -1)
            if (who == who[0]).all() and (owner[:, 0] == owner[:, -1]).all():
                return cls(warp << 40, requests, rows, who[0], who[0].tobytes())
        apart = thread + (block << 12)
        return cls(warp << 40, requests, 1, apart, apart.tobytes())
