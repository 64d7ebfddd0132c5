"""`kvperf bench`: measure on a GPU; show records and compare them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvperf.cli import measure, measure_model
from kvperf.cli.keeping import apart
from kvperf.cli.measure_options import ProfileFile
from kvperf.cli.options import Format, Output

if TYPE_CHECKING:
    from kvperf.bench.compare import Comparison
    from kvperf.bench.record import Record

app = typer.Typer(
    epilog="For example: kvperf bench attention --batch 1,16,64 --against torch",
    no_args_is_help=False,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.callback(invoke_without_command=True)(measure.quick)
app.command()(measure.ceilings)
app.command()(measure.attention)
app.command()(measure_model.stages)
app.command()(measure_model.step)


@app.command()
def show(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A record of `kvperf bench`.")],
    case: Annotated[
        str | None, typer.Option("--case", metavar="TEXT", help="Cases whose label holds TEXT, each with its gap.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="NAME",
            help="Ratios of every subject against this one, sample by sample. Of several that begin so, as torch, "
            "the fastest on each shape.",
        ),
    ] = None,
    write_profile: ProfileFile = None,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """A record: its cases in tables, or some of them with the gap between the bound and the measured time."""
    from msgspec.structs import replace

    from kvperf.bench.record import read
    from kvperf.errors import KvperfError
    from kvperf.render import bench as views
    from kvperf.render import output
    from kvperf.render.page import write_page

    apart({"RECORD": record, "--output": output_file, "--write-profile": write_profile})
    found = read(record)
    if write_profile:
        measure.keep_profile(found, write_profile)
    if not found.cases:
        raise KvperfError(f"{record} holds no case", "its run ended before the first one")
    if against is not None:
        _show_against(found, against, case or "", format, output_file)
        return
    chosen = found if case is None else replace(found, cases=tuple(c for c in found.cases if case in c.label))
    if not chosen.cases:
        raise KvperfError(f"no case of {record} has '{case}' in its label", f"one label is '{found.cases[0].label}'")
    if format == "json":
        output.write(output.json_text(chosen), output_file)
    elif format == "csv":
        output.write(output.csv_text(views.csv_rows(chosen.cases)), output_file)
    elif case is None:
        write_page(views.record_view(chosen), format, output_file)
    else:
        write_page([part for one in chosen.cases for part in views.case_view(one)], format, output_file)


def _show_against(record: Record, name: str, text: str, format: str, output_file: Path | None) -> None:
    """The subjects of a record beside one of them, where their label holds the text."""
    from msgspec.structs import replace

    from kvperf.bench.pairs import against, mean
    from kvperf.errors import KvperfError
    from kvperf.render import bench as views

    whole = against(record, name)
    chosen = tuple(one for one in whole.cases if text in one.label)
    if not chosen:
        raise KvperfError(
            f"no case beside '{name}' has '{text}' in its label", f"one label is '{whole.cases[0].label}'"
        )
    left_out = tuple(one for one in whole.left_out if text in one.case)
    found = replace(whole, cases=chosen, left_out=left_out, geometric_mean=mean(chosen))
    _write(found, lambda: views.against_view(record, found, name), format, output_file)


def _write(found: Comparison, view: Callable[[], Any], format: str, output_file: Path | None) -> None:
    """A comparison as data or as a page."""
    from kvperf.render import bench as views
    from kvperf.render import output
    from kvperf.render.page import write_page

    if format == "json":
        output.write(output.json_text(found), output_file)
    elif format == "csv":
        output.write(output.csv_text(views.comparison_rows(found)) if found.cases else "", output_file)
        for line in views.remarks(found):  # the other formats hold them
            print(line, file=sys.stderr)
    else:
        write_page(view(), format, output_file)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The record that is compared against.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The record that is judged.")],
    fail_over: Annotated[
        str | None,
        typer.Option(
            "--fail-over",
            metavar="PERCENT",
            help="Exit 1 where B is slower by more, say 3%, or did not measure what A did.",
        ),
    ] = None,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """Two records, case by case: SAME (within 1 %), FASTER, SLOWER or AMBIGUOUS, by 95 % intervals.

    With --fail-over, exit code 1: a case is SLOWER or AMBIGUOUS and its ratio is beyond the limit; one that A measured
    is refused or missing in B; or B is incomplete. Each is named on standard error.
    """
    from kvperf.bench.compare import compare as compared
    from kvperf.bench.compare import failures
    from kvperf.bench.record import read
    from kvperf.render import bench as views

    slowdown = None if fail_over is None else _share(fail_over)
    apart({"A": a, "--output": output_file})
    apart({"B": b, "--output": output_file})
    found = compared(read(a), read(b))
    _write(found, lambda: views.comparison_view(found), format, output_file)
    problems = () if slowdown is None else failures(found, slowdown)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def _share(text: str) -> float:
    """`3%` as 0.03."""
    import re

    from kvperf.errors import KvperfError

    matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", text)
    if matched is None:
        raise KvperfError(f"--fail-over '{text}' is not a percentage", "write it like 3% or 2.5%")
    return float(matched.group(1)) / 100
