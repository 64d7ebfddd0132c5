"""Run a small kernel on the interpreter, and compare what it requests with its table."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from kvperf.emulator import Counts, bf16_bits, bf16_values, run
from kvperf.files import folder
from kvperf.kernel.compile import Compiled, Request, compile_kernel, compile_many, disassemble
from kvperf.kernel.declared import Launch
from kvperf.kernel.sass import Instruction, functions

Array = np.ndarray[Any, Any]
SCHEDULES = ("forward", "greedy", "reverse", "random")


def compiled(launch: Launch, arch: str = "80") -> Compiled:
    return compile_kernel(launch.kernel.source, launch.macros, arch, folder("kernels"), ptx_only=True)


def compiled_all(launches: Mapping[str, Launch], arch: str) -> dict[str, Compiled]:
    """The machine code of many launches, from one run of the compiler."""
    requests = [Request(each.kernel.source, each.macros, arch, folder("kernels")) for each in launches.values()]
    return dict(zip(launches, compile_many(requests), strict=True))


@functools.cache
def _machine_code(cubin: bytes) -> dict[str, tuple[Instruction, ...]] | None:
    text = disassemble(cubin)
    return None if text is None else functions(text)


def machine_code(found: Compiled, entry: str) -> tuple[Instruction, ...]:
    """The instructions of an entry. Skips the test where no disassembler is installed."""
    code = _machine_code(found.cubin)
    if code is None:
        pytest.skip("cuobjdump and nvdisasm are not installed: pip install kvperf[test]")
    return code[entry]


def times_of(instructions: tuple[Instruction, ...], pattern: str) -> int:
    """How many of the instructions have a name of this pattern."""
    return sum(bool(re.search(pattern, instruction.name)) for instruction in instructions)


def execute(
    launch: Launch,
    arguments: Mapping[str, Any],
    outputs: tuple[str, ...] = (),
    schedule: str = "forward",
    arch: str = "80",
    *,
    as_declared: bool = True,
) -> Counts:
    """Run the launch; what it requests of each buffer must be what its table says. `outputs` hold no data before."""
    given = dict(arguments)
    given |= {name: value for name, value in launch.arguments.items() if name in given}
    counts = run(
        compiled(launch, arch).ptx,
        launch.entry,
        grid=launch.grid,
        block=(launch.threads,),
        arguments=list(given.values()),
        names=list(given),
        shared_bytes=launch.shared_bytes,
        schedule=schedule,
        initialised=dict.fromkeys(outputs, False),
    ).counts
    if not as_declared:
        return counts
    loads = {name: buffer.bytes for name, buffer in counts.loads.items()}
    assert loads == _some(launch.loads), f"loaded {loads}, declared {launch.loads}"
    stores = {name: buffer.bytes for name, buffer in counts.stores.items()}
    assert stores == _some(launch.stores), f"stored {stores}, declared {launch.stores}"
    assert dict(counts.atomics) == _some(launch.atomics)
    return counts


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def stored(x: Array, dtype: str) -> Array:
    """Rounded to the element type, as memory holds it."""
    return bf16_bits(x.astype(np.float32)) if dtype == "bf16" else x.astype(np.float16)


def values(memory: Array, dtype: str) -> Array:
    found = bf16_values(memory) if dtype == "bf16" else memory
    return np.asarray(found, np.float64)


def random(seed: int, *shape: int, dtype: str = "fp16", spread: float = 1.0) -> tuple[Array, Array]:
    """Normal numbers: as memory holds them, and their exact values."""
    memory = stored(np.random.default_rng(seed).normal(0, spread, shape), dtype)
    return memory, values(memory, dtype)


def poisoned(*shape: int, dtype: str = "fp16") -> Array:
    return stored(np.full(shape, np.nan), dtype)


def close(memory: Array, expected: Array, dtype: str) -> bool:
    """Every element is the nearest of its type, but for the rounding of fp32 arithmetic; no element is NaN."""
    half_step = {"bf16": 2**-8, "fp16": 2**-11, "fp32": 2**-24}[dtype]
    found = values(memory, dtype)
    allowed = 1.01 * half_step * abs(expected) + 1e-5 * abs(expected).max() + 2**-25
    return bool((abs(found - expected) <= allowed).all())
