"""`kvperf analyze`: bound and predict one generation step, stage by stage."""

from typing import Annotated

import typer

from kvperf.cli.options import Format, Output
from kvperf.cli.step_options import StepAsked, option, takes_step
from kvperf.errors import KvperfError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXAMPLES = """\b
Examples:
  kvperf analyze --gpu h100 --seq 4096
  kvperf analyze --gpu h200 --model llama-3.1-70b --batch 16 --kv-dtype fp8
  kvperf analyze --gpu b200 --model deepseek-v3 --batch 64 --tp 8 --stack sglang
  kvperf analyze --gpu l40s --model qwen3-8b --phase prefill --seq 8192
  kvperf analyze --gpu h100 --contexts 1024,4096,131072
  kvperf analyze --gpu h100 --explain attention
  kvperf analyze --heads 32 --kv-heads 32 --head-dim 128 --batch 4 --seq 4096
"""


@app.command(epilog=EXAMPLES)
@takes_step
def analyze(
    asked: StepAsked,
    explain: Annotated[
        str | None,
        option("--explain", "Print a stage's formulas, symbols and source instead.", metavar="STAGE"),
    ] = None,
    ceilings: Annotated[bool, option("--ceilings", "Add a table of implementation ceilings for every stage.")] = False,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Bound and predict one generation step on a GPU, stage by stage.

    Prints a floor no kernels can beat at this precision, what binds each stage, what a serving stack is predicted
    to take, and what fits.
    Exit code 1: the step does not fit into the GPU's memory.
    """
    from kvperf import api
    from kvperf.cli import analysis_output as shown

    if explain is not None and ceilings:
        raise KvperfError("--explain and --ceilings print two different things", "leave one of them out")
    if explain is not None:
        prepared = api.prepare(asked.gpu, asked.model, **asked.step)
        shown.explanation(prepared, explain, api.layout(**asked.layout), format, output)
        return
    record = api.analyze(**asked.keywords)
    shown.analysis(record, ceilings, format, output)
    if record.memory.fits is False:
        raise typer.Exit(1)
