"""A stage's formulas with the values of their symbols, as text."""

from __future__ import annotations

from typing import Any

from kvperf.explanation import Divided, ExplainedPart, ExplainedStage
from kvperf.units import decimal, significant


def explanation_text(stage: ExplainedStage) -> str:
    """Every kind of layers of the stage: formulas, symbols, resources, source."""
    lines = [f"{stage.name}: bound {decimal(stage.bound_s, 's', 4)} on {stage.gpu}"]
    for part in stage.parts:
        lines += ["", *_part(part)]
    return "\n".join(lines) + "\n"


def _part(part: ExplainedPart) -> list[str]:
    found = part.explanation
    count = "1 layer" if part.layers == 1 else f"{part.layers} layers; figures of one"
    lines = [f"{found.title} ({count})", ""]
    width = max(len(formula.name) for formula in found.formulas)
    for formula in found.formulas:
        lines.append(f"  {formula.name:<{width}} = {formula.expression}")
        lines.append(f"  {'':<{width}} = {number(formula.value)}")
    lines.append("")
    wide = max((len(name) for name in found.symbols), default=0)
    figures = {name: number(value) for name, (value, _) in found.symbols.items()}
    long = max((len(text) for text in figures.values()), default=0)
    for name, (_, meaning) in found.symbols.items():
        lines.append(f"  {name:<{wide}} = {figures[name]:>{long}}  {meaning}")
    lines.append("")
    lines += [f"  {_divided(divided)}" for divided in part.resources]
    lines.append(f"  source: {found.source}")
    return lines


def _divided(d: Divided) -> str:
    rate = decimal(d.peak, f"{d.unit}/s", 4)
    return (
        f"{d.resource}_s = {number(d.amount)} {d.unit} / {rate} = {decimal(d.seconds, 's', 4)}  ({'; '.join(d.source)})"
    )


def number(value: Any) -> str:
    """A whole number in full, any other with six digits."""
    if value == int(value):
        return f"{int(value):,}"
    return significant(value, 6)
