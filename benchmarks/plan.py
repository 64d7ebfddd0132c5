"""How long `kvperf plan` takes for 5,000 points, in seconds and in units of a bare `python -c pass`.

Method: searches and bare interpreters take turns, so that a slow moment of the machine hits both alike; one turn warms
up, of the others the medians count. A search runs inside one process, as the command does after its start. Run it on an
idle machine.

    python benchmarks/plan.py [TURNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from kvperf import api

TURNS = 7
POINTS = 5_000
BUDGET_S = 2.0
LOAD = {"ttft_s": 0.5, "tpot_s": 0.02, "most_gpus": 16}
MODELS = ("llama-3.1-70b", "deepseek-v3")


def seconds(run: Callable[[], object]) -> float:
    """Wall seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def bare() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def main(turns: int) -> None:
    for model in MODELS:
        points, searching, starting = 0, [], []
        for _ in range(turns + 1):
            found = []
            searching.append(seconds(lambda found=found, model=model: found.append(api.plan(["h100"], model, **LOAD))))
            starting.append(seconds(bare))
            points = found[0].evaluated
        took, start = statistics.median(searching[1:]), statistics.median(starting[1:])
        each = took * POINTS / points
        print(
            f"{model}: {points} points in {took:.2f} s; {POINTS} in {each:.2f} s (budget {BUDGET_S} s), "
            f"{each / start:.0f} × a bare interpreter's {1e3 * start:.0f} ms"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TURNS)
