"""Options that more than one command takes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Format = Annotated[
    Literal["table", "json", "csv", "md"],
    typer.Option("--format", help="How to print: table; json and csv in base SI units; md."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Write here instead of standard output.", show_default=False),
]
