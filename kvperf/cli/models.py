"""`kvperf models`: list, show and import models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kvperf.cli.options import Format, Output
from kvperf.errors import KvperfError, nearest
from kvperf.model import load_model, model_names
from kvperf.render.output import csv_text, json_text, write
from kvperf.render.table import Table, is_terminal, markdown, on_terminal, plain


class Models(TyperGroup):
    """The command group: a word that is no command of it may be a model's name."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        close, names = nearest(cmd_name, self.commands), model_names()
        if cmd_name in ("list", "ls"):
            hint = "`kvperf models` lists the models"
        elif cmd_name.lower() in names or "/" in cmd_name or Path(cmd_name).exists():
            hint = f"`kvperf models show {cmd_name}` shows that model"
        elif close:
            hint = f"did you mean `kvperf models {close}`?"
        elif model := nearest(cmd_name, names):
            hint = f"did you mean `kvperf models show {model}`?"
        else:
            hint = "`kvperf models --help` lists what it takes"
        raise KvperfError(f"'{cmd_name}' is no command of `kvperf models`", hint)


app = typer.Typer(
    cls=Models,
    name="models",
    help="List, show and import models.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def models(context: typer.Context, format: Format = "table", output: Output = None) -> None:
    """List the shipped models; `show NAME` prints one, `import PATH` translates a config.json."""
    if context.invoked_subcommand is not None:
        return
    from kvperf.render.models import list_table, summary

    rows = [summary(load_model(name)) for name in model_names()]
    if format == "json":
        write(json_text({"schema": "kvperf.models/1", "models": rows}), output)
    elif format == "csv":
        write(csv_text(rows), output)
    else:
        _print([list_table(rows)], "", format, output)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, hub id or path.", show_default=False)],
    format: Format = "table",
    output: Output = None,
) -> None:
    """Show one model: shape, parameters by module, published counts, sources."""
    from kvperf.model.parameters import parameters
    from kvperf.render.models import module_rows, module_table, published_lines, record, shape_table

    model = load_model(name)
    if format == "json":
        write(json_text(record(model)), output)
    elif format == "csv":
        write(csv_text(module_rows(model)), output)
    else:
        lines = published_lines(model, parameters(model))
        notes = "".join(f"- {line.strip()}\n" if format == "md" else f"{_wrapped(line)}\n" for line in lines)
        _print([shape_table(model), module_table(model)], notes, format, output)


@app.command("import")
def import_(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A config.json, its directory, or a hub id.", show_default=False)
    ],
    output: Output = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --output.")] = False,
) -> None:
    """Translate a Hugging Face config.json into the YAML of a model, named after the file of --output."""
    import msgspec

    from kvperf.render.model_yaml import yaml_text
    from kvperf.render.models import imported_line

    if Path(path).suffix in (".yaml", ".yml"):
        raise KvperfError(f"{path} is a model already", "give a config.json, a directory that holds one, or a hub id")
    if output is None or str(output) == "-":
        write(yaml_text(load_model(path)), output)
        return
    if output.is_file() and not force:
        raise KvperfError(f"{output} exists already", "name another file, or overwrite it with --force")
    model = msgspec.structs.replace(load_model(path), name=output.stem)
    write(yaml_text(model), output)
    print(f"wrote {output}: {imported_line(model)}", file=sys.stderr)


def _print(tables: list[Table], notes: str, format: str, output: Path | None) -> None:
    """Tables and the notes below them: with rules on a terminal, plain text elsewhere."""
    if format == "table" and output is None and is_terminal():
        from rich.console import Console

        for table in tables:
            on_terminal(table, Console())
            print()
        print(notes, end="")
        return
    draw = markdown if format == "md" else plain
    write("\n".join([*(draw(table) for table in tables), *([notes] if notes else [])]), output)


def _wrapped(line: str) -> str:
    import textwrap

    return textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
