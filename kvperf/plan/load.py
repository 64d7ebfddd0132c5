"""A load is checked before anything is searched for it."""

from __future__ import annotations

import math

from kvperf.errors import KvperfError
from kvperf.plan.record import Load

MOST_GPUS = 4096
LONGEST = 10**8  # tokens


def checked_load(load: Load) -> Load:
    """The same. Raises KvperfError for what no load can be."""
    for option, tokens in (("--isl", load.prompt_tokens), ("--osl", load.output_tokens)):
        if not 1 <= tokens <= LONGEST:
            raise KvperfError(f"{option} {tokens} is no length", f"give 1 to {LONGEST:,} tokens")
    for option, value in (("--ttft", load.ttft_s), ("--tpot", load.tpot_s), ("--rps", load.requests_per_s)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise KvperfError(f"{option} {value} is none", "give more than 0, or leave it out")
    for price in load.prices:
        if not (math.isfinite(price) and price >= 0):
            raise KvperfError(f"--price {price} is none", "give what one GPU costs an hour")
    if not 1 <= load.most_gpus <= MOST_GPUS:
        raise KvperfError(f"--max-gpus {load.most_gpus} is no number of GPUs", f"give 1 to {MOST_GPUS}")
    return load
