"""`kvperf compare`: several GPUs, models or layouts side by side, for the same step."""

import inspect
import re
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from kvperf.cli.options import Format, Output
from kvperf.cli.step_options import StepAsked, takes_step
from kvperf.errors import KvperfError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXAMPLES = """\b
Examples:
  kvperf compare --gpu h100,h200,b200 --model llama-3.1-70b --tp 4,8
  kvperf compare --model llama-3.1-8b,qwen3-8b --batch 16
  kvperf compare --gpu h100 --batch 1,8,64 --kv-dtype bf16,fp8
  kvperf compare --gpu h200 --model deepseek-v3 --tp 8 --ep 1,8 --stack sglang
  kvperf compare --cluster h100-sxm:8x2,b200:8x2 --model llama-3.1-405b --tp 16
"""
# The options that take a list, and those of them whose values are whole numbers.
WORDS = ("gpu", "model", "cluster", "stack", "weight_dtype", "kv_dtype")
NUMBERS = ("batch", "tp", "pp", "cp", "ep", "attention_dp")


def takes_lists(command: Callable[..., None]) -> Callable[..., None]:
    """The same command; the options named above come as the text of a comma list, or None."""
    signature = inspect.signature(command)
    parameters = [
        p.replace(annotation=_list_of(p.annotation), default=None) if p.name in (*WORDS, *NUMBERS) else p
        for p in signature.parameters.values()
    ]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _list_of(annotation: Any) -> Any:
    """The annotation of an option, for text; its help says that there may be several."""
    kind, info = get_args(annotation)
    info = copy(info)
    said, bracket, default = info.help.partition(" [default")
    info.help = f"{said} Several: a,b.{bracket}{default}"
    if get_origin(kind) is Literal:
        info.metavar = f"<{'|'.join(get_args(kind))}>"
    return Annotated[str | None, info]


@app.command(epilog=EXAMPLES)
@takes_lists
@takes_step
def compare(asked: StepAsked, format: Format = "table", output: Output = None) -> None:
    """Put several GPUs, models or layouts side by side, for the same step.

    Options that take several values take them as a list, a,b; every combination is one column, 12 at most.
    A combination that cannot be says why; one that does not fit into memory is compared all the same.
    """
    from kvperf.cli.comparison_output import comparison
    from kvperf.comparison import compare as compared

    given = {name: _values(name, value) if name in WORDS + NUMBERS else value for name, value in asked.keywords.items()}
    comparison(compared(**{name: value for name, value in given.items() if value is not None}), format, output)


def _values(name: str, text: str | None) -> list[Any] | None:
    """The values of a comma list. Raises KvperfError for an empty one, or a number that is none."""
    if text is None:
        return None
    flag, words = f"--{name.replace('_', '-')}", [word.strip() for word in text.split(",")]
    if "" in words:
        raise KvperfError(f"{flag} '{text}': a value is missing", f"write {flag} a,b without spaces")
    if name == "stack":
        return [word.lower() for word in words]
    if name not in NUMBERS:
        return words
    wrong = next((word for word in words if re.fullmatch(r"0*[1-9][0-9]{0,12}", word) is None), None)
    if wrong is not None:
        raise KvperfError(f"{flag} '{wrong}' is not a whole number of 1 or more", f"write {flag} 4 or {flag} 4,8")
    return [int(word) for word in words]
