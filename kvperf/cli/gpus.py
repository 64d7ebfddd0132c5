"""`kvperf gpus`: list the GPU profiles, show one with all its sources, check one."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kvperf.cli.options import Format, Output
from kvperf.errors import KvperfError, unknown_name
from kvperf.hardware import Gpu, gpu_names, load_gpu
from kvperf.render import gpus as views
from kvperf.render import output, table


class Commands(TyperGroup):
    """`show`, `check`, and a way on for whoever wrote a GPU or `list` in their place."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None and not cmd_name.startswith("-"):
            raise _unknown_command(cmd_name, list(self.commands))
        return command


def _unknown_command(name: str, commands: list[str]) -> KvperfError:
    from kvperf.hardware.loading import profile_path

    problem = unknown_name("command", name, commands, "`kvperf gpus --help`")
    try:
        profile_path(name)
    except KvperfError:
        if not problem.hint.startswith("did you mean"):
            problem.hint = "`kvperf gpus` lists the GPUs, `kvperf gpus show h100` prints one"
    else:
        quoted = f"'{name}'" if " " in name else name
        problem.hint = f"write `kvperf gpus show {quoted}`; `kvperf gpus` lists the GPUs"
    return problem


app = typer.Typer(
    cls=Commands,
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

    Exit 0: no findings; 1: findings; 2: the file cannot be read as a profile.
    """
    from kvperf.hardware import lint
    from kvperf.hardware.loading import profile_path

    report = lint.check(profile_path(profile))
    for finding in report.findings:
        print(f"{finding.where}: {finding.message}")
    if report.findings:
        raise typer.Exit(1)
    unchecked = f"; not checked: {'; '.join(report.unchecked)}" if report.unchecked else ""
    print(f"ok: no findings{unchecked}")


def _draw(gpu: Gpu) -> None:
    """On a terminal. Paths and sources stay on their line, however long: a broken one cannot be copied."""
    import textwrap

    from rich.console import Console

    console = Console()

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    line(views.heading(gpu))
    *tables, (sources, listed) = views.sections(gpu)
    for title, section in tables:
        line(title, "bold")
        table.on_terminal(section, console)
        console.print()
    line(sources, "bold")
    width = max(len(key) for key, _ in listed.rows)
    for key, source in listed.rows:
        line(f"{key:{width}}  {source}")
    console.print()
    for note in views.notes(gpu).splitlines():
        line(textwrap.fill(note, console.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def _notes(gpu: Gpu, title: str) -> list[str]:
    text = views.notes(gpu)
    return [title + text] if text else []
