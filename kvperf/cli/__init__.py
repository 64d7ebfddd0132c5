"""The command line: parse, call, render. Each command is a module that loads when it is called."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

import kvperf
from kvperf.errors import KvperfError, unknown_name

# Every command: where it lives, and its line in `kvperf --help`.
COMMANDS = {
    "analyze": ("kvperf.cli.analyze", "Bound one generation step, stage by stage."),
    "compare": ("kvperf.cli.compare", "Several GPUs, models or layouts side by side."),
    "plan": ("kvperf.cli.plan", "Which layout, batch and formats serve a load within its targets."),
    "gpus": ("kvperf.cli.gpus", "List, show and check GPU profiles."),
    "models": ("kvperf.cli.models", "List, show and import models."),
    "plot": ("kvperf.cli.plot", "Draw rooflines, sweeps, ladders, gaps and memory."),
    "report": ("kvperf.cli.report", "One document on a GPU, a model and a workload."),
    "kernel": ("kvperf.cli.kernel", "List, show, compare and verify the attention kernels."),
    "validate": ("kvperf.cli.validate", "Replay measured data against the model."),
    "calibrate": ("kvperf.cli.calibrate", "Fit the model's constants to measurements."),
    "bench": ("kvperf.cli.bench", "Measure kernels and ceilings on a GPU; show and compare records."),
    "doctor": ("kvperf.cli.doctor", "What is installed for compiling, verifying and measuring kernels."),
}


class LazyGroup(TyperGroup):
    """A command group that imports a command's module only when that command runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            raise unknown_name("command", cmd_name, COMMANDS, "`kvperf --help`")
        module = importlib.import_module(COMMANDS[cmd_name][0])
        return typer.main.get_command(module.app)


app = typer.Typer(
    cls=LazyGroup,
    name="kvperf",
    help=kvperf.__doc__,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(f"kvperf {kvperf.__version__}")
        raise typer.Exit()
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main() -> None:
    """Run the command line; every mistake of the user ends in two lines on stderr and exit 2."""
    gc.disable()  # one short run: collecting costs more than it frees
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without µ or – gets a question mark, not a traceback
            stream.reconfigure(errors="replace")
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # the reader has gone, or there is no stream at all
            stream.flush()
    # Everything is written: taking the interpreter apart would cost a fifth of the whole run.
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 fine, 1 a threshold missed, 2 bad input, 3 no GPU."""
    usage_error: Any = typer.BadParameter.__base__
    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="kvperf", standalone_mode=False)
    except KvperfError as problem:
        _complain(problem.message, problem.hint)
        return problem.exit_code
    except usage_error as problem:
        return _complain_usage(problem, arguments)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 0
    except OSError as problem:
        _complain(f"{problem.strerror or problem}", "the output cannot be written; --output FILE puts it elsewhere")
        return 2
    except Exception as problem:
        if os.environ.get("KVPERF_DEBUG"):
            raise
        _complain(f"kvperf failed: {type(problem).__name__}: {problem}", "a defect: KVPERF_DEBUG=1 shows where")
        return 2
    return result if isinstance(result, int) else 0


def _complain(message: str, hint: str) -> None:
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)


def _complain_usage(problem: Any, arguments: Sequence[str]) -> int:
    message = problem.format_message().split("\n")[0].strip().rstrip(".")
    context = getattr(problem, "ctx", None)
    command = context.command_path if context else "kvperf"
    if command == "kvperf" and arguments and arguments[0] in COMMANDS:
        command = f"kvperf {arguments[0]}"
    _complain(message[0].lower() + message[1:], f"`{command} --help` lists what it takes")
    return 2
