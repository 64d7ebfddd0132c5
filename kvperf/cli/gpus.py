"""`kvperf gpus`: list the GPU profiles, show one with all its sources, check one."""

from __future__ import annotations

from typing import Annotated

import typer

from kvperf.cli.options import Format, Output
from kvperf.hardware import Gpu, gpu_names, load_gpu
from kvperf.render import gpus as views
from kvperf.render import output, table

app = typer.Typer(
    help="List, show and check GPU profiles.",
    epilog="kvperf gpus | kvperf gpus show h100 | kvperf gpus check my-gpu.yaml",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def gpus(context: typer.Context, format: Format = "table", output_file: Output = None) -> None:
    """List, show and check GPU profiles. Peaks are dense."""
    if context.invoked_subcommand:
        return
    loaded = [load_gpu(name) for name in gpu_names()]
    summaries = [views.summary(gpu) for gpu in loaded]
    if format == "json":
        output.write(output.json_text({"schema": "kvperf.gpus/1", "gpus": summaries}), output_file)
    elif format == "csv":
        output.write(output.csv_text(summaries), output_file)
    elif format == "md":
        output.write(table.markdown(views.listing(loaded)), output_file)
    elif output_file is None and table.is_terminal():
        from rich.console import Console

        table.on_terminal(views.listing(loaded), Console())
    else:
        output.write(table.plain(views.listing(loaded)), output_file)


@app.command(short_help="Everything about one GPU, with sources.")
def show(
    name: Annotated[str, typer.Argument(metavar="GPU", help="A name, an alias, or the path of a profile.")],
    format: Format = "table",
    output_file: Output = None,
) -> None:
    """Memory hierarchy, peaks, ridges, limits, links and readings of one GPU, with their sources."""
    gpu = load_gpu(name)
    if format == "json":
        output.write(output.json_text(views.record(gpu)), output_file)
    elif format == "csv":
        output.write(output.csv_text(views.rows(gpu)), output_file)
    elif format == "md":
        parts = [f"## {title}\n\n{table.markdown(section)}" for title, section in views.sections(gpu)]
        output.write("\n".join([f"# {views.heading(gpu)}", *parts, *_notes(gpu, "## notes\n\n")]), output_file)
    elif output_file is None and table.is_terminal():
        _draw(gpu)
    else:
        parts = [f"{title}\n\n{table.plain(section)}" for title, section in views.sections(gpu)]
        output.write("\n".join([views.heading(gpu), *parts, *_notes(gpu, "notes\n\n")]), output_file)


@app.command(short_help="Look for numbers that cannot be right.")
def check(
    profile: Annotated[str, typer.Argument(metavar="FILE", help="The path of a profile, or a shipped name.")],
) -> None:
    """Look for sparse numbers, impossible bandwidths, readings above their roof and missing sources.

    Exit 0: nothing found; 1: findings; 2: the file cannot be read.
    """
    from kvperf.hardware import lint
    from kvperf.hardware.loading import profile_path

    path = profile_path(profile)
    findings = lint.check(path)
    for finding in findings:
        print(f"{finding.where}: {finding.message}")
    if findings:
        raise typer.Exit(1)
    print(f"{path}: nothing found")


def _draw(gpu: Gpu) -> None:
    from rich.console import Console

    console = Console()
    console.print(views.heading(gpu), markup=False, highlight=False)
    for title, section in views.sections(gpu):
        console.print(title, style="bold", markup=False, highlight=False)
        table.on_terminal(section, console)
        console.print()
    console.print(views.notes(gpu), markup=False, highlight=False)


def _notes(gpu: Gpu, title: str) -> list[str]:
    text = views.notes(gpu)
    return [title + text] if text else []
