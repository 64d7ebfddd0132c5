"""The symbols of the stage formulas, and reading a formula back from a stage's docstring.

A stage's docstring holds its formulas as Python expressions over the local names of the function
itself. `kvperf analyze --explain` prints those lines, takes the values of the names from a run of the
function, and evaluates the printed expression; a test compares the result with what the function
returned, for every stage of every model.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kvperf import arith

SYMBOLS = {
    "B": "sequences of the step",
    "T": "new tokens of the step",
    "T_out": "rows sent to the LM head",
    "P": "query-key pairs under the causal mask, over all sequences",
    "R": "KV entries read by the kernel, each once a sequence",
    "C": "KV entries that were cached before the step and must be read",
    "N": "new KV entries that a later step can see",
    "d": "hidden size",
    "H": "query heads of this rank",
    "K": "KV heads of this rank",
    "D": "elements of a key head (head_dim)",
    "Dv": "elements of a value head",
    "I": "FFN width of this rank",
    "V": "vocabulary rows of this rank",
    "E": "experts",
    "k": "inner size of the product",
    "n": "outputs of the product",
    "w": "bytes of a weight, scales included",
    "s": "bytes of the scale of one output channel",
    "b": "bytes of a bias or norm weight",
    "bias": "1 if there is a bias, else 0",
    "a": "bytes of an activation at a kernel boundary (0 in a megakernel, where it stays on chip)",
    "x": "bytes of a matrix input at a kernel boundary, after quantisation",
    "c": "bytes of a cached element, scales included",
    "r": "rotated elements of a head",
    "elements": "stored elements of the matrix",
    "converted": "1 if stored elements are converted before the product, else 0",
    "launches": "kernels under this fusion",
}

HERE = Path(__file__).parent
FORMULA = re.compile(r"^ {4}(\w+)\s+= (.+)$", re.MULTILINE)
MEANING = re.compile(r"^ {4}(\w+)  +([^=].*)$", re.MULTILINE)
SOURCE = re.compile(r"^ {4}Source: ((?:.+\n?)+)", re.MULTILINE)


class Formula(msgspec.Struct, frozen=True):
    """One printed line: `name = expression`, what its symbols are worth, and what it comes to."""

    name: str
    expression: str
    value: Any


class Explanation(msgspec.Struct, frozen=True):
    """A stage function run once: its formulas evaluated, the symbols they use, its source."""

    function: str
    title: str
    formulas: tuple[Formula, ...]
    symbols: dict[str, tuple[Any, str]]
    source: str


def formulas(stage: Callable[..., Any]) -> dict[str, str]:
    """The formulas of a stage by the name of the figure, in the order they are printed."""
    return dict(FORMULA.findall(stage.__doc__ or ""))


def explain(stage: Callable[..., Any], *arguments: Any) -> Explanation:
    """Evaluate the formulas a stage's docstring prints, with the values its own run gave the symbols."""
    values = _locals_of(stage, *arguments)
    printed = formulas(stage)
    names = {name for expression in printed.values() for name in _names(expression)}
    meanings = SYMBOLS | dict(MEANING.findall(stage.__doc__ or ""))
    functions = {"ceil_div": arith.ceil_div, "least": arith.least, "most": arith.most, "power": arith.power}
    source = SOURCE.search(stage.__doc__ or "")
    return Explanation(
        function=stage.__name__,
        title=(stage.__doc__ or "").strip().split("\n")[0],
        formulas=tuple(
            Formula(name, expression, eval(expression, {"__builtins__": {}}, functions | values))
            for name, expression in printed.items()
        ),
        symbols={name: (values[name], meanings[name]) for name in values if name in names and name in meanings},
        source=" ".join(source.group(1).split()) if source else "",
    )


def _names(expression: str) -> tuple[str, ...]:
    return compile(expression, "formula", "eval").co_names


def _locals_of(stage: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """The local names of `stage`, and of the stage functions it calls, when they returned."""
    found: dict[str, Any] = {}

    def on_event(frame: Any, event: str, _argument: Any) -> None:
        if event == "return" and Path(frame.f_code.co_filename).parent == HERE:
            found.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        stage(*arguments)
    finally:
        sys.setprofile(before)
    return found
