"""`kvperf bench`: measure on a GPU; show records and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvperf.cli import measure, measure_model
from kvperf.cli.options import Format, Output

app = typer.Typer(
    help="Measure kernels and ceilings on a GPU; show and compare records.",
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
    write_profile: Annotated[
        Path | None, typer.Option("--write-profile", metavar="FILE", help="Make a hardware profile of its ceilings.")
    ] = None,
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

    found = read(record)
    if write_profile:
        measure.keep_profile(found, write_profile)
    if not found.cases:
        raise KvperfError(f"{record} holds no case", "its run ended before the first one")
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


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The record that is compared against.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The record that is judged.")],
    fail_over: Annotated[
        str | None,
        typer.Option("--fail-over", metavar="PERCENT", help="Exit 1 where a case is slower by more, say 3%."),
    ] = None,
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """Two records, case by case: SAME (within 1 %), FASTER, SLOWER or AMBIGUOUS, by 95 % intervals.

    Exit code 1: a case of B is SLOWER and its ratio passes --fail-over.
    """
    import sys

    from kvperf.bench.compare import compare as compared
    from kvperf.bench.record import read
    from kvperf.render import bench as views
    from kvperf.render import output
    from kvperf.render.page import write_page

    limit = None if fail_over is None else 1 + _share(fail_over)
    found = compared(read(a), read(b))
    if format == "json":
        output.write(output.json_text(found), output_file)
    elif format == "csv":
        output.write(output.csv_text(views.comparison_rows(found)), output_file)
    else:
        write_page(views.comparison_view(found), format, output_file)
    if format == "csv":  # the other formats hold them
        for line in views.remarks(found):
            print(line, file=sys.stderr)
    if limit is None:
        return
    slower = [one for one in found.cases if one.verdict == "SLOWER" and one.ratio.ratio > limit]
    for one in slower:
        print(f"slower: {one.label}: {one.ratio.ratio:.4f} times as long, over {fail_over}", file=sys.stderr)
    if slower:
        raise typer.Exit(1)


def _share(text: str) -> float:
    """`3%` as 0.03."""
    import re

    from kvperf.errors import KvperfError

    matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", text)
    if matched is None:
        raise KvperfError(f"--fail-over '{text}' is not a percentage", "write it like 3% or 2.5%")
    return float(matched.group(1)) / 100
