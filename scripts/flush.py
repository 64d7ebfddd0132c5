"""How the L2 is emptied before a cold call, three ways on one kernel: scripts/flush.py RECORD [--emulate]

A memset leaves the L2 full of lines that have to be written back during the call; reading clean bytes after it does
not, and neither does a rotation of clean buffers. The record says what that is worth.
"""

import sys
from pathlib import Path

from kvperf.bench import attention
from kvperf.bench.field import field_of
from kvperf.bench.run import Run, profile_of
from kvperf.bench.standin import Standin
from kvperf.hardware import load_gpu
from kvperf.kernel.geometry import Shape

SHAPES = ({"batch": 4, "seq": 4096}, {"batch": 16, "seq": 4096})


def main(file: Path, emulate: bool) -> None:
    if emulate:
        rig, gpu = Standin(load_gpu("h100")), load_gpu("h100")
        shapes = [Shape(heads=4, kv_heads=1, head_dim=64, dtype="bf16", batch=1, seq=77)]
    else:
        from kvperf.bench.device import Device

        rig = Device()
        gpu = profile_of(rig.facts, None)
        shapes = [Shape(heads=32, kv_heads=8, head_dim=128, dtype="bf16", **sizes) for sizes in SHAPES]
    run = Run(rig, gpu, " ".join(sys.argv), 0, file)
    for shape in shapes:
        entrants, _ = field_of(rig, shape, ["tensor_cores"], (), ("all",))
        for flush in ("rotation",) if emulate else ("rotation", "memset", "memset-read"):
            for cases in attention.bench(rig, gpu, shape, entrants, attention.Plan(budget_s=4, flush=flush)):
                run.add(cases)
    run.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--emulate" in sys.argv)
