"""`kvperf calibrate`: fit the model's constants to measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvperf.cli.options import Output
from kvperf.cli.step_options import option

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

EXAMPLES = """\b
Examples:
  kvperf calibrate --gpu h100 --stack vllm
  kvperf calibrate --gpu h100 --stack vllm --family decode-attention
  kvperf calibrate reports/h100.attention.json --stack kvperf --output h100-sxm.kvperf.yaml
  kvperf calibrate mine.csv --gpu h100 --stack vllm
"""


@app.command(epilog=EXAMPLES)
def calibrate(
    measured: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Records of kvperf bench, or a CSV of your own (docs/own_rows.md)."),
    ] = None,
    gpu: Annotated[str | None, option("--gpu", "What the measurements are of. [default: the records' own]")] = None,
    stack: Annotated[str, option("--stack", "Whose kernels they are: sglang, vllm, trtllm or kvperf.")] = "vllm",
    family: Annotated[str | None, option("--family", "Only this kernel family (comma between several).")] = None,
    entrant: Annotated[
        str | None, option("--entrant", "Of a record, the kernel to take. [default: the fastest]")
    ] = None,
    output: Output = None,
) -> None:
    """Fit the constants of a GPU and stack, and print them as YAML with what they are worth.

    Without files: to the tables of the package aiconfigurator-core (pip install "kvperf[silicon]"): half of the shapes
    fit, a quarter sets the intervals, a quarter is scored. With files: few rows are enough, because the fit starts from
    the nearest calibration and leaves it no further than they ask for. `hardware/calibration/<gpu>.<stack>.yaml` is
    where every command looks for it.
    """
    from kvperf.cli import calibration

    calibration.fit(measured or [], gpu, stack, family, entrant, output)
