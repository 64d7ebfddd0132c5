"""Hardware counters of three shapes against our byte counts: scripts/counters.py FILE [--emulate]

Nsight Compute (`ncu`) reads the bytes that DRAM and L2 moved for each launch; the file puts them beside the bytes that
the closed form says threads request, and that any kernel must read. With --emulate the counted bytes are the
interpreter's. Every kernel is launched once, on cold buffers, without a gate.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kvperf.bench.entrant import ours
from kvperf.bench.operands import operands
from kvperf.bench.run import architecture_of
from kvperf.bench.standin import Standin
from kvperf.hardware import load_gpu
from kvperf.kernel.catalogue import KERNELS
from kvperf.kernel.geometry import Shape

SHAPES = ({"batch": 1, "seq": 4096}, {"batch": 16, "seq": 4096}, {"batch": 4, "seq": 16384})
NAMES = ("cached_attention", "split_kv", "vector_loads", "tensor_cores", "int8_kv")
METRICS = {
    "dram__bytes_read.sum": "dram_read_bytes",
    "dram__bytes_write.sum": "dram_write_bytes",
    "lts__t_sectors_srcunit_tex_op_read.sum": "l2_read_sectors",
    "lts__t_sectors_srcunit_ltcfabric.sum": "l2_fabric_sectors",
    "l1tex__data_bank_conflicts_pipe_lsu.sum": "bank_conflicts",
    "gpu__time_duration.sum": "time_ns",
}


def launched(rig: Any, sizes: dict[str, int], heads: int, kv_heads: int, head_dim: int) -> list[dict[str, Any]]:
    """Launch each kernel once; what it requests, and its entries in the order of their launches."""
    shape = Shape(heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype="bf16", **sizes)
    caches: dict[str, Any] = {}
    done = []
    for name in NAMES:
        if name == "cached_attention" and shape.seq > 8192:  # its scores do not fit shared memory
            continue
        entrant = ours(rig, name, shape, architecture_of(rig.facts))
        if entrant.kind not in caches:
            caches[entrant.kind] = operands(entrant.kind, shape, 0)
            caches[entrant.kind].place(rig, 2)
        call = entrant.call(caches[entrant.kind].sets[-1])
        found = {"kernel": name, **sizes, "requested_bytes": entrant.work.requested_bytes}
        found |= {"compulsory_bytes": entrant.work.compulsory_bytes, "launches": entrant.launches}
        if rig.emulated:
            counts = rig.counted(call)
            found["counted_bytes"] = sum(n for key, n in counts.items() if key.startswith(("loads", "stores")))
        else:
            call()
            rig.wait()
        done.append(found)
    return done


def profiled() -> list[dict[str, Any]]:
    """Run this script again under ncu, and join its counters with what was launched."""
    with tempfile.TemporaryDirectory() as scratch:
        log, said = Path(scratch) / "ncu.csv", Path(scratch) / "launched.json"
        entries = "|".join(sorted({entry for name in NAMES for entry in KERNELS[name].entries}))
        command = ["ncu", "--clock-control", "none", "--csv", "--print-units", "base", "--log-file", str(log)]
        command += ["--metrics", ",".join(METRICS), "--kernel-name", f"regex:^({entries})$"]
        ended = subprocess.run([*command, sys.executable, __file__, str(said), "--launch"], env=os.environ).returncode
        text = log.read_text() if log.exists() else ""
        if ended or not said.exists():
            sys.exit("error: ncu ended with " + f"{ended}\n" + "\n".join(text.splitlines()[-5:]))
        rows = list(csv.DictReader(line for line in text.splitlines() if line.startswith('"')))
        known = json.loads(said.read_text())
    counted: dict[str, dict[str, float | None]] = {}
    for row in rows:
        value = row["Metric Value"].replace(",", "")
        number = float(value) if value.replace(".", "").replace("e+", "").replace("e-", "").isdigit() else None
        counted.setdefault(row["ID"], {})[METRICS.get(row["Metric Name"], row["Metric Name"])] = number
    wanted = sum(one["launches"] for one in known)
    if len(counted) != wanted:
        sys.exit(f"error: ncu saw {len(counted)} launches, {wanted} were made\n{text[-2000:]}")
    launches = iter(counted.values())
    for one in known:
        parts = [next(launches) for _ in range(one["launches"])]
        for key in METRICS.values():
            values = [part.get(key) for part in parts]
            one[key] = None if None in values else sum(value for value in values if value is not None)
    return known


def main(file: Path, options: list[str]) -> None:
    if "--launch" in options:
        from kvperf.bench.device import Device

        rig = Device()
        found = [one for sizes in SHAPES for one in launched(rig, sizes, 32, 8, 128)]
    elif "--emulate" in options:
        found = launched(Standin(load_gpu("h100")), {"batch": 1, "seq": 77}, 4, 1, 64)
    elif shutil.which("ncu"):
        found = profiled()
    else:
        sys.exit("error: ncu is not installed\nhint: it comes with Nsight Compute")
    file.write_text(json.dumps(found, indent=1) + "\n")
    for one in found if "--launch" not in options else []:
        print(
            " ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in one.items())
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
