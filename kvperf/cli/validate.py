"""`kvperf validate`: replay measured data against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvperf.cli.options import Format, Output
from kvperf.cli.step_options import option
from kvperf.errors import KvperfError

app = typer.Typer(
    help="Replay measured data against the model.",
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

EXAMPLES = """\b
Examples:
  kvperf validate --gpu h100 --stack vllm
  kvperf validate --family decode-attention --fail-over 10
  kvperf validate --serving
  kvperf validate --gpu h100 --stack sglang --family gemm --ablate
  kvperf validate --rows mine.csv --gpu h100 --stack vllm
  kvperf validate lint --gpu h100
"""
Gpus = Annotated[str | None, option("--gpu", "Only this GPU (comma between several). [default: all measured]")]
Stacks = Annotated[str | None, option("--stack", "Only this stack: sglang, vllm or trtllm. [default: all]")]


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def validate(
    context: typer.Context,
    gpu: Gpus = None,
    stack: Stacks = None,
    family: Annotated[str | None, option("--family", "Only this kernel family. [default: all]")] = None,
    serving: Annotated[bool, option("--serving", "Replay load tests of whole deployments instead of kernels.")] = False,
    ablate: Annotated[bool, option("--ablate", "Fit again without each term, and print what it buys.")] = False,
    rows: Annotated[Path | None, option("--rows", "Replay your own measurements (docs/own_rows.md).")] = None,
    fail_over: Annotated[
        float | None,
        option(
            "--fail-over", "Exit 1 where a mean error is above so many percent (with --serving: of all dense models)."
        ),
    ] = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Errors of bound and prediction on rows that no constant was fitted to.

    Reads the tables of the package aiconfigurator-core where it is installed (pip install "kvperf[silicon]").
    """
    if context.invoked_subcommand:
        return
    from kvperf.cli import validation as work

    if sum((serving, ablate, rows is not None)) > 1:
        raise KvperfError("--serving, --ablate and --rows are three different replays", "give one of them")
    if family is not None and (serving or rows is not None):
        raise KvperfError("--family with whole load tests or your own rows", "leave --family out")
    if fail_over is not None and not fail_over >= 0:
        raise KvperfError(f"--fail-over {fail_over} is no error in percent", "give a number like 10")
    if rows is not None:
        record = work.own_rows(rows, gpu, stack)
    elif serving:
        record = work.serving(gpu, stack)
    elif ablate:
        record = work.ablated(gpu, stack, family)
    else:
        record = work.kernels(gpu, stack, family)
    work.show(record, format, output)
    if fail_over is not None and work.fails(record, fail_over, serving):
        raise typer.Exit(1)


@app.command()
def lint(gpu: Gpus = None, stack: Stacks = None, format: Format = "table", output: Output = None) -> None:
    """Rows faster than physics, and tables that cannot be what they say. Exit 1: an unnamed rule takes over 1 %."""
    from kvperf.cli import validation as work

    record = work.linted(gpu, stack)
    work.show(record, format, output)
    if work.too_many(record):
        raise typer.Exit(1)
