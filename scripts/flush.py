"""How the L2 is emptied before a cold call, three ways on one kernel: scripts/flush.py RECORD

A memset leaves the L2 full of lines that have to be written back during the call; reading clean bytes after it does
not, and neither does a rotation of clean buffers. The record says what that is worth.
"""

import sys
from pathlib import Path

from kvperf.bench import attention
from kvperf.bench.device import Device
from kvperf.bench.field import field_of
from kvperf.bench.run import Run, profile_of
from kvperf.kernel.geometry import Shape

SHAPES = ({"batch": 4, "seq": 4096}, {"batch": 16, "seq": 4096})


def main() -> None:
    device = Device()
    gpu = profile_of(device.facts, None)
    run = Run(device, gpu, " ".join(sys.argv), 0, Path(sys.argv[1]))
    for sizes in SHAPES:
        shape = Shape(heads=32, kv_heads=8, head_dim=128, dtype="bf16", **sizes)
        entrants, _ = field_of(device, shape, ["tensor_cores"], (), ("all",))
        for flush in ("rotation", "memset", "memset-read"):
            for cases in attention.bench(device, gpu, shape, entrants, attention.Plan(budget_s=6, flush=flush)):
                run.add(cases)
    run.finish()


main()
