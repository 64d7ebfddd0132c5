"""A stage's formulas with the values of their symbols, as text."""

from __future__ import annotations

from typing import Any

from kvperf.explanation import ExplainedPart, ExplainedStage
from kvperf.render.analysis import folded
from kvperf.units import decimal, significant


def explanation_text(stage: ExplainedStage) -> str:
    """Every kind of layers of the stage: formulas, symbols, resources, source."""
    lines = [f"{stage.name}: bound {decimal(stage.bound_s, 's', 4)} on {stage.gpu}\n"]
    for part in stage.parts:
        lines += ["\n", *_part(part)]
    if len(stage.parts) > 1:
        sums = ", ".join(f"{name} {decimal(seconds, 's', 4)}" for name, seconds in stage.busy_s.items())
        lines.append(f"\nall layers: {sums}; the bound is the longest, {decimal(stage.bound_s, 's', 4)}\n")
    return "".join(lines)


def _part(part: ExplainedPart) -> list[str]:
    found = part.explanation
    lines = [folded([found.title]), "\n"]
    width = max(len(formula.name) for formula in found.formulas)
    for formula in found.formulas:
        lines.append(f"  {formula.name:<{width}} = {formula.expression}\n")
        lines.append(f"  {'':<{width}} = {number(formula.value)}\n")
    lines.append("\n")
    wide = max((len(name) for name in found.symbols), default=0)
    figures = {name: number(value) for name, (value, _) in found.symbols.items()}
    long = max((len(text) for text in figures.values()), default=0)
    for name, (_, meaning) in found.symbols.items():
        lines.append(_indented(f"  {name:<{wide}} = {figures[name]:>{long}}  ", meaning))
    lines.append("\n")
    for divided in part.resources:
        rate = decimal(divided.peak, f"{divided.unit}/s", 4)
        seconds = decimal(divided.seconds, "s", 4)
        lines.append(f"  {divided.resource}_s = {number(divided.amount)} {divided.unit} / {rate} = {seconds}\n")
        lines += [f"    {source}\n" for source in divided.source]
    lines.append(f"  {_closing(part)}\n")
    lines.append(_indented("  source: ", found.source))
    return lines


def _closing(part: ExplainedPart) -> str:
    """How one layer's resources make the bound of all of them."""
    busy: dict[str, float] = {}
    for divided in part.resources:
        busy[divided.resource] = busy.get(divided.resource, 0.0) + divided.seconds
    longest = max(busy, key=lambda name: busy[name])
    times = ", ".join(decimal(seconds, "s", 4) for seconds in busy.values())
    one = f"max({times})" if len(busy) > 1 else times
    layers = "1 layer" if part.layers == 1 else f"{part.layers} layers"
    return f"{one} × {layers} = {decimal(busy[longest] * part.layers, 's', 4)} ({longest})"


def _indented(head: str, text: str) -> str:
    """`text` after `head`, folded at 80 columns below its own beginning."""
    from textwrap import wrap

    indent = " " * min(len(head), 30)
    return "\n".join(wrap(text, 80, initial_indent=head, subsequent_indent=indent, break_long_words=False)) + "\n"


def number(value: Any) -> str:
    """A whole number in full, any other with six digits."""
    if value == int(value):
        return f"{int(value):,}"
    return significant(value, 6)
