"""The replays behind `kvperf validate`, and their printing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from kvperf import __version__
from kvperf.errors import KvperfError, unknown_name
from kvperf.render import output as out
from kvperf.silicon.catalogue import TABLES
from kvperf.silicon.tables import STACKS, SYSTEMS, VERSION, installed_version
from kvperf.validate.record import Dropped, Validation

MOST_DROPPED = 0.01  # of a table, by rules that do not say how it was measured


def kernels(gpu: str | None, stack: str | None, family: str | None) -> Validation:
    from kvperf.validate.kernels import kernel_lines

    return _record(lines=tuple(kernel_lines(_gpus(gpu), _stacks(stack), _families(family))))


def ablated(gpu: str | None, stack: str | None, family: str | None) -> Validation:
    from kvperf.validate.kernels import ablation

    found = [row for g in _gpus(gpu) for s in _stacks(stack) for row in ablation(g, s, _families(family))]
    return _record(ablation=tuple(found))


def serving(gpu: str | None, stack: str | None) -> Validation:
    """Load tests: kernel tables alone, host constants, and the time to the first token; definitions as notes."""
    from kvperf.validate import serving as model
    from kvperf.validate.load_tests import host_of, load_tests, serving_lines

    tests, dropped = load_tests(_gpus(gpu), _stacks(stack))
    if not tests:
        raise KvperfError("no load test is left of that GPU and stack", "leave --gpu and --stack out")
    hosts = {key: host_of(*key) for key in {(t.row.gpu, t.row.stack) for t in tests}}
    notes = tuple(line.strip() for line in (model.__doc__ or "").strip().splitlines() if " = " in line)
    return _record(lines=tuple(serving_lines(tests, hosts)), dropped=tuple(dropped), notes=notes)


def own_rows(path: Path, gpu: str | None, stack: str | None) -> Validation:
    """A user's file against one GPU's and stack's constants; what could not be used is said on standard error."""
    from kvperf.hardware import load_gpu
    from kvperf.predict.calibration import Constants
    from kvperf.validate.kernels import line
    from kvperf.validate.own_rows import read_rows

    if gpu is None or stack is None:
        raise KvperfError("--rows without --gpu and --stack", "say what the rows were measured on")
    device = load_gpu(gpu)
    groups, bad = read_rows(path, device, stack)
    for number, why in bad:
        print(f"{path}:{number}: {why}", file=sys.stderr)
    constants = Constants(device, stack)
    lines = [
        line(family, device.name, stack, group.label, group.rows, constants.of(family))
        for family, same in groups.items()
        for group in same
    ]
    return _record(lines=tuple(lines), source=str(path))


def linted(gpu: str | None, stack: str | None) -> Validation:
    from kvperf.validate.drops import drops

    return _record(dropped=tuple(drops(_gpus(gpu), _stacks(stack))))


def fails(record: Validation, percent: float, whole_steps: bool) -> bool:
    """Whether a line's mean error is above so many percent, or not a number; each such line is named.

    Of load tests, only the times per token of all dense models together are held to it.
    """
    held = [line for line in record.lines if not whole_steps or ("TPOT" in line.family and line.group == "all dense")]
    for line in held:
        if not 100 * line.mean <= percent:
            where = " ".join(name for name in (line.family, line.gpu, line.stack, line.group) if name != "all")
            print(f"over {percent:g} %: {where}: {100 * line.mean:.1f} %", file=sys.stderr)
    return not held or any(not 100 * line.mean <= percent for line in held)


def too_many(record: Validation) -> list[Dropped]:
    """Physical rules that take more than 1 % of a table."""
    from kvperf.validate.drops import PHYSICAL

    return [d for d in record.dropped if d.rule in PHYSICAL and d.rows > MOST_DROPPED * d.of]


def show(record: Validation, format: str, output: Path | None) -> None:
    from kvperf.render import validation as view

    if format == "json":
        out.write(out.json_text(record), output)
    elif format == "csv":
        out.write(out.csv_text(view.csv_rows(record)), output)
    else:
        from kvperf.render.table import markdown, plain

        draw = markdown if format == "md" else plain
        made = (
            (record.lines, view.table),
            (record.ablation, view.ablation_table),
            (record.dropped, view.dropped_table),
        )
        parts = [draw(make(record)) for rows, make in made if rows]
        notes = "".join(f"{note}\n" for note in record.notes)
        out.write("\n".join(parts + ([notes] if notes else [])) or "nothing was measured there\n", output)


def _record(source: str | None = None, **parts: object) -> Validation:
    source = source or f"aiconfigurator-core {VERSION}"
    found = installed_version()
    if source.startswith("aiconfigurator") and found != VERSION:
        print(f"warning: aiconfigurator-core {found} is installed; the constants are of {VERSION}", file=sys.stderr)
    return Validation("kvperf.validation/1", __version__, source, **parts)  # type: ignore[arg-type]


def _gpus(asked: str | None) -> tuple[str, ...]:
    if asked is None:
        return tuple(SYSTEMS)
    from kvperf.hardware import load_gpu

    names = tuple(load_gpu(name.strip()).name for name in asked.split(","))
    for name in names:
        if name not in SYSTEMS:
            raise KvperfError(f"no table was measured on {name}", f"measured: {', '.join(SYSTEMS)}")
    return names


def _stacks(asked: str | None) -> tuple[str, ...]:
    return _chosen("stack", asked, STACKS)


def _families(asked: str | None) -> tuple[str, ...]:
    return _chosen("kernel family", asked and asked.replace("-", "_"), TABLES)


def _chosen(kind: str, asked: str | None, known: Iterable[str]) -> tuple[str, ...]:
    names = tuple(known)
    if asked is None:
        return names
    found = tuple(part.strip() for part in asked.split(","))
    for name in found:
        if name not in names:
            raise unknown_name(kind, name, names)
    return found
