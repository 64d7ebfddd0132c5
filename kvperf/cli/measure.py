"""The measuring commands of `kvperf bench`: parse, choose a rig, and say what is to be read."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kvperf.cli.interruption import stopped
from kvperf.cli.keeping import LeftOut, apart, run_parts
from kvperf.cli.measure_options import (
    Budget,
    BudgetEach,
    CeilingsRecord,
    Emulate,
    Flush,
    Profile,
    ProfileFile,
    RecordFile,
    Regimes,
    Seed,
)
from kvperf.cli.options import Format, Output
from kvperf.errors import KvperfError

if TYPE_CHECKING:
    from kvperf.bench.outcome import Levels
    from kvperf.bench.record import Case, Record
    from kvperf.bench.rig import Rig
    from kvperf.hardware import Gpu
    from kvperf.kernel.geometry import Shape

Emulated = ("1", "4", "2", "64", "77")  # a shape that the interpreter runs in seconds


def quick(
    context: typer.Context,
    gpu: Profile = None,
    emulate: Emulate = False,
    record: RecordFile = None,
    seed: Seed = 0,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """Measure kernels and ceilings on a GPU; show and compare records.

    Without a command: the ceilings and the ladder at the default shape, in under two minutes.
    """
    if context.invoked_subcommand is not None:
        misplaced = [name for name, value in context.params.items() if value not in (None, False, 0, "table")]
        if misplaced:
            option = misplaced[0].replace("_file", "").replace("_", "-")
            hint = f"write kvperf bench {context.invoked_subcommand} --{option} …"
            raise KvperfError(f"--{option} stands before the command", hint)
        return
    from kvperf.bench import attention as attention_bench
    from kvperf.bench import ceilings as ceiling_bench

    rig, profile = rig_of(emulate, gpu)
    shapes = _shapes(_sizes(emulate, (None,) * 5), "bf16", 64)
    with progress() as tell:
        parts: list[Iterable[list[Case] | LeftOut]] = []
        if not emulate:
            parts.append(ceiling_bench.bench(rig, profile, 40.0, seed, tell, stopped=stopped))
        how = attention_bench.Plan(budget_s=30.0, seed=seed, progress=tell, stopped=stopped)
        parts.append(_ladder(rig, profile, shapes, None, (), ("all",), how))
        run_parts(rig, profile, parts, seed, record, format, output_file)


def ceilings(
    gpu: Profile = None,
    budget: Budget = 60.0,
    write_profile: ProfileFile = None,
    emulate: Emulate = False,
    record: RecordFile = None,
    seed: Seed = 0,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """Bandwidths, arithmetic, latencies, launches and host copies of this GPU."""
    from kvperf.bench import ceilings as ceiling_bench

    if write_profile and emulate:
        raise KvperfError("--write-profile with --emulate", "a profile is made of readings")
    apart({"--record": record, "--output": output_file, "--write-profile": write_profile})
    rig, profile = rig_of(emulate, gpu, small=True)
    with progress() as tell:
        readings = ceiling_bench.bench(rig, profile, budget, seed, tell, stopped=stopped)
        found = run_parts(rig, profile, [readings], seed, record, format, output_file)
    if write_profile:
        keep_profile(found, write_profile)


def attention(
    gpu: Profile = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Sequences: one number or several, as 1,16,64.")] = None,
    heads: Annotated[str | None, typer.Option("--heads", help="Query heads, one number or several.")] = None,
    kv_heads: Annotated[str | None, typer.Option("--kv-heads", help="KV heads, one number or several.")] = None,
    head_dim: Annotated[str | None, typer.Option("--head-dim", help="Head size; 576 is MLA.")] = None,
    seq: Annotated[str | None, typer.Option("--seq", help="Cached tokens, one number or several.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of queries and output: fp16 or bf16.")] = "bf16",
    kv_dtype: Annotated[str, typer.Option("--kv-dtype", help="Of K and V: all, or some of 16bit,fp8,int8.")] = "all",
    page_tokens: Annotated[
        str, typer.Option("--page-tokens", help="Tokens of a page, for paged, one number or several.")
    ] = "64",
    kernel: Annotated[
        list[str] | None,
        typer.Option("--kernel", help="A kernel of ours, FILE.py:function or FILE.cu; repeatable. [default: all ours]"),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", help="torch or flashinfer, interleaved; repeatable.")
    ] = None,
    regime: Regimes = None,
    flush: Flush = "rotation",
    budget: BudgetEach = 10.0,
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Compare results with float64; time nothing.")
    ] = False,
    ceilings_record: CeilingsRecord = None,
    emulate: Emulate = False,
    record: RecordFile = None,
    seed: Seed = 0,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """The ladder of attention kernels over a grid of shapes, checked against float64, then timed.

    Exit code 1: a kernel is wrong.
    """
    from kvperf.bench import attention as attention_bench

    regimes = tuple(dict.fromkeys(["cold"] if regime is None else regime))
    for name in regimes:
        if name not in ("cold", "warm", "stream"):
            raise KvperfError(f"unknown regime '{name}'", "known: cold, warm, stream")
    pages = _numbers("--page-tokens", page_tokens)
    shapes = _shapes(_sizes(emulate, (batch, heads, kv_heads, head_dim, seq)), dtype, pages[0])
    caches = tuple(part.strip() for part in kv_dtype.split(","))
    kernels = None if kernel is None else list(dict.fromkeys(kernel))
    rig, profile = rig_of(emulate, gpu)
    with progress() as tell:
        how = attention_bench.Plan(
            regimes=cast(Any, regimes),
            budget_s=budget,
            seed=seed,
            flush=flush,
            progress=tell,
            stopped=stopped,
            levels=levels_in(ceilings_record),
            check_only=check_only,
        )
        parts = [_ladder(rig, profile, shapes, kernels, tuple(dict.fromkeys(against or ())), caches, how)]
        # Another page size concerns one kernel only.
        for page in pages[1:]:
            others = _shapes(_sizes(emulate, (batch, heads, kv_heads, head_dim, seq)), dtype, page)
            parts.append(_ladder(rig, profile, others, ["paged"], (), caches, how))
        run_parts(rig, profile, parts, seed, record, format, output_file)


def keep_profile(record: Record, file: Path) -> None:
    """Write the hardware profile of a record of ceilings."""
    from kvperf.bench.profile import profile_text
    from kvperf.render import output

    output.write(profile_text(record, file.stem), file)
    print(f"profile: {file}; kvperf analyze --gpu {file}", file=sys.stderr)


def levels_in(record: Path | None) -> Levels:
    """What a record of ceilings says of this GPU's memories; nothing without one."""
    from kvperf.bench.outcome import Levels, levels_of
    from kvperf.bench.record import read

    if record is None:
        return Levels()
    try:
        return levels_of(read(record))
    except KvperfError as problem:  # the gap is then told with fewer parts, the readings are the same
        print(f"without ceilings: {problem.message}", file=sys.stderr)
        return Levels()


def rig_of(emulate: bool, gpu: str | None, small: bool = False) -> tuple[Rig, Gpu | None]:
    """The GPU, or the interpreter in its place, and the profile of its datasheet."""
    from kvperf.bench.run import profile_of
    from kvperf.hardware import load_gpu

    if emulate:
        from kvperf.bench.standin import Standin

        stood_for = load_gpu("h100" if gpu is None else gpu)
        return Standin(stood_for, small), stood_for
    from kvperf.bench.device import Device

    device = Device()
    return device, profile_of(device.facts, gpu)


def _sizes(emulate: bool, given: tuple[str | None, ...]) -> tuple[list[int], ...]:
    """Batch, heads, KV heads, head size and tokens: as given, else the default shape, else one the interpreter runs."""
    usual = Emulated if emulate else ("1", "32", "8", "128", "4096")
    names = ("--batch", "--heads", "--kv-heads", "--head-dim", "--seq")
    return tuple(
        _numbers(name, default if text is None else text)
        for name, text, default in zip(names, given, usual, strict=True)
    )


def _numbers(option: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise KvperfError(f"{option} '{text}' is no list of numbers", f"write {option} 1,16,64") from None
    return list(dict.fromkeys(found))


def _shapes(sizes: tuple[list[int], ...], dtype: str, page: int) -> list[Shape]:
    """Every combination of batch, heads, KV heads, head size and tokens. Raises KvperfError where one is no shape."""
    from kvperf.kernel.geometry import Shape

    found = []
    for b, h, k, d, s in itertools.product(*sizes):
        found.append(Shape(batch=b, heads=h, kv_heads=k, head_dim=d, seq=s, dtype=dtype, page_tokens=page))
    return found


def _ladder(
    rig: Rig,
    gpu: Gpu | None,
    shapes: list[Any],
    names: list[str] | None,
    against: tuple[str, ...],
    caches: tuple[str, ...],
    how: Any,
) -> Iterator[list[Case] | LeftOut]:
    """The cases of every shape, and who does not support it."""
    from kvperf.bench import attention as attention_bench
    from kvperf.bench.field import compile_ahead, field_of

    if not rig.emulated:
        compile_ahead(rig, shapes, names)
    for shape in shapes:
        entrants, left_out = field_of(rig, shape, names, against, caches)
        yield LeftOut(tuple(left_out))
        yield from attention_bench.bench(rig, gpu, shape, entrants, how)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None] | None]:
    """One line on standard error that says what is read and what it is so far; nothing outside a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.status import Status

    with Status("preparing", console=Console(stderr=True)) as status:
        yield lambda text: status.update(text)
