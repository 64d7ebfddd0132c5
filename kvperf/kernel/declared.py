"""A kernel as its table declares it, and a launch of it at given sizes.

Claims: a launch loads, stores and computes exactly what its table says. The formulas are Python expressions over the
sizes of a launch and what `where` derives from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kvperf.arith import ceil_div, least, most
from kvperf.errors import KvperfError, unknown_name
from kvperf.files import folder
from kvperf.kernel.compile import ARCHITECTURES
from kvperf.kernel.launch import GRID_LIMITS

SYMBOLS = {
    "T": "new tokens, or rows of logits",
    "d": "hidden size",
    "H": "query heads",
    "K": "KV heads",
    "D": "elements of a key head",
    "Dv": "elements of a value head (0: a latent cache, which has no values)",
    "r": "rotated elements of a head",
    "I": "FFN width",
    "V": "vocabulary",
    "k": "inner size of the product",
    "n": "outputs of the product",
    "top_k": "largest logits that take part in the draw",
    "page": "tokens of a page",
    "a": "bytes of an element",
    "y": "bytes of an output element (4 where outputs are logits)",
    "count": "16-byte words of an array, or links of a chain",
    "passes": "walks over the set",
    "repeats": "turns of the loop",
    "steps": "loads of the chain",
    "stride": "places of 8 bytes from one link to the next",
    "sms": "SMs of the GPU",
    "per_sm": "blocks of an SM",
    "threads": "threads of a block",
}

HALVES = ("fp16", "bf16")
FROM_89 = ARCHITECTURES[ARCHITECTURES.index("89") :]


class Buffer(msgspec.Struct, frozen=True):
    """Bytes of one buffer in one launch.

    requested  by threads, each thread's own even where several ask for the same
    stage      what the stage formula counts for it; None: the same; "0": the stage does not have it
    """

    name: str
    requested: str
    stage: str | None = None


class Limit(msgspec.Struct, frozen=True):
    """A launch is refused unless `holds`."""

    holds: str
    words: str


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a file of kernels/.

    sizes       symbols a launch needs;  where: further ones, each from those before it
    macros      of the compilation;  arguments: scalars of the launch that follow from the sizes
    loads …     bytes by buffer;  atomics: operations by buffer
    operations  what a launch computes, by kind: fma, mma, exp2, conversion … and shared_bytes
    stages      the stage functions whose bytes it moves;  beyond: what differs from them, in words
    measures    what a ceiling divides by its time: bytes, or a kind of operation
    dtypes      of its elements; (): it has none to choose
    runs        architectures it compiles for
    """

    name: str
    file: str
    what: str
    sizes: tuple[str, ...]
    where: dict[str, str]
    macros: dict[str, str] = {}
    arguments: dict[str, str] = {}
    grid: tuple[str, ...] = ("per_sm*sms",)
    shared_bytes: str = "0"
    loads: tuple[Buffer, ...] = ()
    stores: tuple[Buffer, ...] = ()
    atomics: dict[str, str] = {}
    operations: dict[str, str] = {}
    stages: tuple[str, ...] = ()
    beyond: str = ""
    measures: str = ""
    entry: str = ""
    dtypes: tuple[str, ...] = HALVES
    limits: tuple[Limit, ...] = ()
    runs: tuple[str, ...] = ARCHITECTURES

    @property
    def source(self) -> Path:
        """The CUDA source; it includes its headers from `folder("kernels")`."""
        return folder("kernels") / self.file

    def require(self, arch: str) -> None:
        """Raises KvperfError where the kernel does not compile for sm_`arch`."""
        if arch not in self.runs:
            raise KvperfError(f"{self.name} cannot run on sm_{arch}", f"it runs on sm_{', sm_'.join(self.runs)}")


class Launch(msgspec.Struct, frozen=True):
    """A declared kernel at given sizes. Bytes and operations are requested ones; `stage_*` are those of the stage."""

    kernel: Declared
    symbols: dict[str, Any]
    macros: dict[str, int]
    grid: tuple[int, ...]
    threads: int
    shared_bytes: int
    arguments: dict[str, int]
    loads: dict[str, int]
    stores: dict[str, int]
    atomics: dict[str, int]
    operations: dict[str, int]
    stage_loads: int
    stage_stores: int

    @property
    def entry(self) -> str:
        return self.kernel.entry or self.kernel.name

    @property
    def bytes(self) -> int:
        """Requested from global memory, both directions."""
        return sum(self.loads.values()) + sum(self.stores.values())


def value(formula: str, symbols: Mapping[str, Any]) -> Any:
    """A formula of a table, evaluated."""
    functions = {"__builtins__": {}, "ceil_div": ceil_div, "least": least, "most": most}
    return eval(formula, functions, dict(symbols))


def launch(table: Mapping[str, Declared], name: str, dtype: str | None, sms: int, sizes: Mapping[str, int]) -> Launch:
    """The launch of one kernel of the table. Raises KvperfError where the kernel does not support it.

    `sizes` may also replace what has a usual value: y, per_sm, and what `where` derives, such as threads.
    """
    chosen = table.get(name)
    if chosen is None:
        raise unknown_name("kernel", name, table)
    _check(chosen, dtype, sizes)
    symbols: dict[str, Any] = {"a": 2, "y": 2, "per_sm": 4, "sms": sms} | dict(sizes)
    for symbol, formula in chosen.where.items():
        if symbol not in sizes:
            symbols[symbol] = value(formula, symbols)
    for limit in chosen.limits:
        if not value(limit.holds, symbols):
            given = ", ".join(f"{symbol}={size}" for symbol, size in sizes.items())
            raise KvperfError(f"{name} cannot run with {given}", limit.words)
    grid = tuple(int(value(formula, symbols)) for formula in chosen.grid)
    for axis, blocks, largest in zip("xyz", grid, GRID_LIMITS, strict=False):
        if blocks > largest:
            words = f"a grid has at most {largest} blocks along {axis}: give smaller sizes, or several launches"
            raise KvperfError(f"{name} cannot run with {blocks} blocks along {axis}", words)
    macros = {macro: int(value(formula, symbols)) for macro, formula in chosen.macros.items()}
    return Launch(
        kernel=chosen,
        symbols=symbols,
        macros=macros | {"THREADS": symbols["threads"], "ELEMENT_BF16": int(dtype == "bf16")},
        grid=grid,
        threads=symbols["threads"],
        shared_bytes=value(chosen.shared_bytes, symbols),
        arguments={argument: int(value(formula, symbols)) for argument, formula in chosen.arguments.items()},
        loads={buffer.name: value(buffer.requested, symbols) for buffer in chosen.loads},
        stores={buffer.name: value(buffer.requested, symbols) for buffer in chosen.stores},
        atomics={buffer: value(formula, symbols) for buffer, formula in chosen.atomics.items()},
        operations={kind: value(formula, symbols) for kind, formula in chosen.operations.items()},
        stage_loads=sum(_of_stage(buffer, symbols) for buffer in chosen.loads),
        stage_stores=sum(_of_stage(buffer, symbols) for buffer in chosen.stores),
    )


def _check(kernel: Declared, dtype: str | None, sizes: Mapping[str, int]) -> None:
    if kernel.dtypes and dtype not in kernel.dtypes:
        raise KvperfError(f"{kernel.name} does not support {dtype}", f"it supports {' and '.join(kernel.dtypes)}")
    if missing := [name for name in kernel.sizes if name not in sizes]:
        words = "; ".join(f"{name}: {SYMBOLS[name]}" for name in missing)
        raise KvperfError(f"{kernel.name} needs {', '.join(missing)}", words)
    known = {*kernel.sizes, *kernel.where, "y", "per_sm"}
    if unknown := [name for name in sizes if name not in known]:
        raise KvperfError(f"{kernel.name} has no {', '.join(unknown)}", f"its sizes are {', '.join(kernel.sizes)}")
    for name, size in sizes.items():
        if size < (0 if name == "Dv" else 1):
            raise KvperfError(f"{name}={size} is no size of a launch", "every size is at least 1")


def _of_stage(buffer: Buffer, symbols: Mapping[str, Any]) -> int:
    return value(buffer.requested if buffer.stage is None else buffer.stage, symbols)
