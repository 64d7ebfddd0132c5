"""Calls of the ceiling kernels on a rig: each with its parameters in the order of its source."""

from __future__ import annotations

from typing import Any

from kvperf.bench.operands import spread
from kvperf.bench.rig import Call, Rig
from kvperf.files import folder
from kvperf.kernel import ceiling_kernels
from kvperf.kernel.compile import compile_kernel
from kvperf.kernel.declared import Launch

WORD = 16  # bytes of a load
NOISE_BYTES = (16 << 20) + 16
NEVER = 1 << 40  # equals no 32-bit result, which the compiler does not know
LONG = ("read", "write", "copy", "scale", "triad")  # their count is a 64-bit number

# Scalars and buffers of every entry, in the order of its parameters.
PARAMETERS = {
    "read": ("data", "count", "never", "sink"),
    "write": ("data", "count", "seed"),
    "copy": ("from", "to", "count"),
    "scale": ("from", "to", "count", "factor"),
    "triad": ("first", "second", "to", "count", "factor"),
    "l2_read": ("data", "count", "passes", "never", "sink"),
    "shared_bandwidth": ("repeats", "seed", "never", "sink"),
    "fma_fp32": ("repeats", "factor", "term", "never", "sink"),
    "fma_fp16": ("repeats", "factor", "term", "never", "sink"),
    "mma_sync": ("fragments", "repeats", "never", "sink"),
    "wgmma": ("repeats", "seed", "never", "sink"),
    "exponentials": ("repeats", "never", "sink"),
    "dequantise": ("repeats", "scale", "never", "sink"),
    "link": ("chain", "next", "count", "stride"),
    "chase": ("chain", "steps", "clocks"),
    "empty": (),
}


def ceiling_call(rig: Rig, launch: Launch, buffers: dict[str, Any], sink: Any = None) -> Call:
    """A call of one launch. `buffers`: its arrays by parameter; `sink`: 4 bytes that a result never reaches."""
    import numpy as np

    arch = launch.kernel.runs[0] if launch.kernel.runs == ("90a",) else rig.facts.capability
    compiled = compile_kernel(launch.kernel.source, launch.macros, arch, folder("kernels"))
    whole = np.uint64 if launch.kernel.name in LONG else np.int32
    scalars: dict[str, Any] = {
        "never": np.uint64(NEVER),
        "seed": np.uint32(20261122),
        "factor": np.float32(0.75),
        "term": np.float32(0.2),
        "scale": np.float32(0.5),
    }
    scalars |= {name: whole(size) for name, size in launch.arguments.items()}
    given = scalars | buffers | {"sink": sink}
    names = [name for name in PARAMETERS[launch.entry] if name in buffers or name == "sink"]
    arguments = [given[name] for name in PARAMETERS[launch.entry]]
    return rig.launch(compiled, launch.entry, launch.grid, (launch.threads,), arguments, launch.shared_bytes, names)


def read_calls(rig: Rig, bytes_each: int, count: int) -> list[Call]:
    """`count` calls that read as many bytes each, from places of their own: the ceiling beside a kernel."""
    import numpy as np

    words = -(-bytes_each // WORD)
    launch = ceiling_kernels.launch("read", rig.facts.sms, count=words)
    sink = rig.upload(np.zeros(1, np.uint32))
    places = [noise(rig, words * WORD)]
    places += [rig.copy(places[0]) for _ in range(count - 1)]
    return [ceiling_call(rig, launch, {"data": place}, sink) for place in places]


def empty_call(rig: Rig) -> Call:
    """The kernel that does nothing: what a launch costs."""
    return ceiling_call(rig, ceiling_kernels.launch("empty", rig.facts.sms), {})


def flush_of(rig: Rig, method: str) -> Call | None:
    """What empties the L2 before a call; None where the rotation of buffers does.

    memset leaves it full of lines that have to be written back; memset-read reads clean bytes after that.
    """
    import numpy as np

    if method == "rotation":
        return None
    dirty = rig.empty((2 * rig.facts.l2_bytes,), np.uint8)
    clean = read_calls(rig, 2 * rig.facts.l2_bytes, 1)[0]

    def flush() -> None:
        rig.clear(dirty)
        if method == "memset-read":
            clean()

    return flush


def noise(rig: Rig, size: int) -> Any:
    """Random bytes on the rig, repeating after 16 MiB and a little: zeros would run faster than data."""
    import numpy as np

    few = np.random.default_rng(7).integers(0, 256, min(size, NOISE_BYTES), np.uint8)
    return spread(rig, few, size)
