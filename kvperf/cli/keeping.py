"""A run from its first group of cases to the printed record: kept after each group, printed at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from kvperf.cli.interruption import listening, stopped
from kvperf.errors import KvperfError

if TYPE_CHECKING:
    from kvperf.bench.record import Case, Record
    from kvperf.bench.rig import Rig
    from kvperf.bench.run import Run
    from kvperf.hardware import Gpu


class LeftOut(NamedTuple):
    """Who does not take part, and why: a part gives it beside its groups of cases."""

    messages: tuple[str, ...]


def run_parts(
    rig: Rig,
    gpu: Gpu | None,
    parts: Iterable[Iterable[list[Case] | LeftOut]],
    seed: int,
    path: Path | None,
    format: str,
    output_file: Path | None,
) -> Record:
    """Run the parts, keep the record after each group of cases, print it at the end. Exit 1 where results are wrong."""
    from kvperf.bench.run import Run

    apart({"--record": path, "--output": output_file})
    file = path or Path(f"kvperf-bench-{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    run = Run(rig, gpu, shlex.join(["kvperf", *sys.argv[1:]]), seed, file, fresh=path is None)
    try:
        with listening():
            for part in parts:
                _take(run, part)
                if stopped():
                    raise KeyboardInterrupt
            found = run.finish()
    except BaseException as problem:
        if run.kept:
            print(f"kept {run.kept} case{'s' * (run.kept > 1)} in {run.path}", file=sys.stderr)
        elif not isinstance(problem, KvperfError):  # which says itself why there is nothing
            print("nothing was kept: no case was read", file=sys.stderr)
        raise
    show_record(found, format, output_file)
    print(f"record: {run.path}" if run.kept else "nothing was kept: there is no case", file=sys.stderr)
    if any((case.refused or "").startswith("wrong result") for case in found.cases):
        raise typer.Exit(1)
    return found


def _take(run: Run, part: Iterable[list[Case] | LeftOut]) -> None:
    """Everything a part gives, until somebody asks to stop."""
    from kvperf.render.bench_lines import left_out_lines

    for given in part:
        if isinstance(given, LeftOut):
            for line in left_out_lines(run.leave_out(given.messages)):
                print(line, file=sys.stderr)
        else:
            run.add(given)
        if stopped():
            raise KeyboardInterrupt


def apart(files: dict[str, Path | None]) -> None:
    """Raises KvperfError where two options name one file. Standard output is none."""
    seen: dict[Path, str] = {}
    for option, file in files.items():
        if file is None or str(file) == "-":
            continue
        other = seen.setdefault(file.resolve(), option)
        if other != option:
            raise KvperfError(f"{other} and {option} are one file, {file}", "name two")


def show_record(record: Record, format: str, output_file: Path | None) -> None:
    """The record as tables or data."""
    from kvperf.render import bench as views
    from kvperf.render import output
    from kvperf.render.page import write_page

    if format == "json":
        output.write(output.json_text(record), output_file)
    elif format == "csv":
        output.write(output.csv_text(views.csv_rows(record.cases)) if record.cases else "", output_file)
    else:
        write_page(views.record_view(record), format, output_file)
