"""Options of the measuring commands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kvperf.errors import KvperfError


def with_emulate(context: typer.Context, option: typer.CallbackParam, value: Any) -> Any:
    """Refuse what only readings take beside --emulate, whichever of the two comes first."""
    source = context.get_parameter_source(option.name or "")
    if source is not None and source.name == "COMMANDLINE" and value is not False:
        given = context.meta.setdefault("kvperf.given", {})
        given[option.name] = True
        readings = [name for name in given if name != "emulate"]
        if "emulate" in given and readings:
            name = f"--{readings[0]}"
            raise KvperfError(f"{name} with --emulate: readings need a GPU", f"leave {name} out")
    return value


def _seconds(context: typer.Context, option: typer.CallbackParam, value: float) -> float:
    if math.isnan(value):
        raise typer.BadParameter("it is no number of seconds", context, option)
    return with_emulate(context, option, value)


Profile = Annotated[
    str | None, typer.Option("--gpu", help="Profile of the datasheet's figures. [default: by the driver's name]")
]
Emulate = Annotated[
    bool,
    typer.Option(
        "--emulate",
        callback=with_emulate,
        help="No GPU: run the kernels on the interpreter, checked and counted, untimed.",
    ),
]
RecordFile = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="FILE", help="Keep the record here; only a record is overwritten. [default: a new file]"
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        min=0,
        callback=_seconds,
        help="Longest time of all readings; 0: the fewest rounds.",
    ),
]
BudgetEach = Annotated[
    float,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        min=0,
        callback=_seconds,
        help="Longest time for each shape and regime; 0: the fewest rounds.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of data and of the order of readings.")]
Regimes = Annotated[
    list[str] | None,
    typer.Option("--regime", callback=with_emulate, help="cold, warm or stream; repeatable. [default: cold]"),
]
Flush = Annotated[
    Literal["rotation", "memset", "memset-read"],
    typer.Option("--flush", callback=with_emulate, help="What makes calls cold."),
]
ProfileFile = Annotated[
    Path | None, typer.Option("--write-profile", metavar="FILE", help="Make a hardware profile of the ceilings.")
]
CeilingsRecord = Annotated[
    Path | None,
    typer.Option("--ceilings", metavar="RECORD", help="A record of bench ceilings here: L2 and latency for the gap."),
]
