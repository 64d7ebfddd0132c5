"""How long `kvperf analyze` takes, in units of a bare `python -c pass`.

Method: three commands take turns, so that a slow moment of the machine hits all of them alike: the bare
interpreter, `kvperf analyze` on a pseudo-terminal (where it draws its table), and `kvperf analyze --format json`
into a pipe. One turn warms up and writes the bytecode; of the others, the medians are divided. Run it on an idle
machine.

    python benchmarks/start_up.py [TURNS]
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import time
from pathlib import Path

BUDGETS = {"table": 13.0, "json": 9.0}
TURNS = 30
KVPERF = str(Path(sys.executable).parent / "kvperf")
COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "table": [KVPERF, "analyze", "--gpu", "h100", "--seq", "4096"],
    "json": [KVPERF, "analyze", "--gpu", "h100", "--seq", "4096", "--format", "json"],
}
# Without cached bytecode every start would compile the sources that changed since.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def in_a_pipe(command: list[str]) -> float:
    """Wall seconds of one run."""
    start = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, env=ENVIRONMENT)
    return time.perf_counter() - start


def on_a_terminal(command: list[str]) -> float:
    """Wall seconds of one run that believes a person is reading."""
    ours, theirs = pty.openpty()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT)
    os.close(theirs)
    while _read(ours):
        pass
    code = process.wait()
    seconds = time.perf_counter() - start
    os.close(ours)
    if code != 0:
        raise subprocess.CalledProcessError(code, command)
    return seconds


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux reports the last writer's exit as an error, not as an end of file.
        return b""


def main(turns: int = TURNS) -> None:
    if turns < 20:
        raise SystemExit("error: fewer than 20 turns say little\nhint: leave the number out")
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(turns + 1):
        for name, command in COMMANDS.items():
            taken = on_a_terminal(command) if name == "table" else in_a_pipe(command)
            if turn:
                seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(f"medians of {turns} interleaved runs; python -c pass: {medians['bare'] * 1e3:.1f} ms")
    for name, budget in BUDGETS.items():
        ratio = medians[name] / medians["bare"]
        verdict = "within" if ratio <= budget else "over"
        print(f"analyze, {name:5}  {medians[name] * 1e3:6.1f} ms  {ratio:5.1f}×  {verdict} the budget of {budget:g}×")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
