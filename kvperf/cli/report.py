"""`kvperf report`: one document on a GPU, a model and a step."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from kvperf.cli.step_options import StepAsked, option, takes_step
from kvperf.errors import KvperfError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

BATCH = 4
FORMATS: dict[str, Literal["md", "html", "text"]] = {
    ".md": "md",
    ".html": "html",
    ".htm": "html",
    ".txt": "text",
}
EXAMPLES = """\b
Examples:
  kvperf report
  kvperf report --output report.html
  kvperf report --gpu mi300x --model deepseek-v3 --batch 64
  kvperf report --record run.json --format text
"""


def of_several(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with a batch of its own where none is asked for."""
    signature = inspect.signature(command)
    text = f"Sequences of the step. [default: {BATCH}]"
    parameters = [
        p.replace(annotation=Annotated[int | None, option("--batch", text)]) if p.name == "batch" else p
        for p in signature.parameters.values()
    ]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


@app.command(epilog=EXAMPLES)
@of_several
@takes_step
def report(
    asked: StepAsked,
    record: Annotated[
        Path | None, option("--record", "Measurements of `kvperf bench` to set beside the bound.", metavar="FILE")
    ] = None,
    format: Annotated[
        Literal["md", "html", "text"] | None,
        option("--format", "How to write it. HTML holds figures. [default: as the file is called, else md]"),
    ] = None,
    output: Annotated[
        Path | None, option("--output", "Write here, over what is there, instead of standard output.", metavar="FILE")
    ] = None,
) -> None:
    """One document: memory hierarchy, attention kernels, matrix units, stages, traffic, more GPUs, tuning, sources.

    Every figure in it is computed for this GPU, this model and this step.
    """
    from kvperf import api
    from kvperf.bench.record import read
    from kvperf.render import output as written
    from kvperf.report.build import report as build
    from kvperf.report.subject import Subject

    if asked.step["heads"] is not None:
        raise KvperfError("--heads is attention without a model", "a report is about a model: give --model")
    if asked.step["batch"] is None and asked.step.get("contexts") is None:
        asked.step["batch"] = BATCH
    readings = None if record is None else read(record)
    prepared = api.prepare(asked.gpu, asked.model, **asked.step)
    analysis, known = api.analyze(**asked.keywords), asked.keywords
    document = build(
        Subject(
            *prepared,
            parallelism=api.layout(**asked.layout),
            record=readings,
            asked=known,
            analysis=analysis,
            **asked.kept,
        )
    )
    if format is None:
        format = FORMATS.get(output.suffix.lower(), "md") if output is not None else "md"
    if format == "html":
        from kvperf.render.report.html import html as draw
    elif format == "text":
        from kvperf.render.report.text import text as draw
    else:
        from kvperf.render.report.markdown import markdown as draw
    written.write(draw(document), output)
    if output is not None and str(output) != "-":
        print(f"written: {output}", file=sys.stderr)
