"""A step over batch or context: one analysis for each size, and the exact sizes where its character changes.

Changes are found between neighbouring sizes and narrowed by halving, through the same analysis as every other figure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import msgspec

from kvperf import api
from kvperf.arith import Number, total
from kvperf.errors import KvperfError
from kvperf.record import Analysis

Axis = Literal["batch", "seq"]
ATTENTION = ("attention", "attention_combine", "indexer")
FFN = ("mlp", "moe_experts", "shared_experts")
OCTAVES = 10  # of a sweep: a factor of 1024
LARGEST_BATCH = 1 << 14
DOES_NOT_FIT = "this step does not fit"  # how the warning of it begins
RESOURCES = {"hbm": "memory", "tensor": "compute", "link": "link"}  # what binds, as readers say it


class Crossing(msgspec.Struct, frozen=True):
    """The first size at which something is different, and what."""

    at: int
    what: str


class Sweep(msgspec.Struct, frozen=True):
    """Analyses in the order of `sizes`, and where they change."""

    over: Axis
    sizes: tuple[int, ...]
    records: tuple[Analysis, ...]
    crossings: tuple[Crossing, ...]


def sweep(over: Axis, **step: Any) -> Sweep:
    """The step at powers of two of batch or context. `step`: keywords of `api.analyze`."""
    at = _varied(over, step)
    sizes = _batches(at(1)) if over == "batch" else _contexts(at, step)
    records = tuple(at(size) for size in sizes)
    return Sweep(over, sizes, records, tuple(_crossings(sizes, records, at)))


def filling(over: Axis, **step: Any) -> Sweep:
    """The step at powers of two up to the first that does not fit into memory, and at the largest that does."""
    at = _varied(over, step | {"stack": "none"})  # what memory holds needs no prediction
    first = at(_first_size(over, step))
    kept, limit = first.memory, first.model.max_context_tokens
    largest = kept.max_batch if over == "batch" else kept.max_context_tokens
    largest = int(largest or 0)
    # Where the cache does not grow, or nothing fits: as far as the model goes, or a few batches.
    shown = largest or ((limit or 1 << 17) if over == "seq" else 1 << 5)
    shown = shown if over == "seq" else min(shown, LARGEST_BATCH)
    top = max(shown.bit_length(), 5)
    start = max(top - OCTAVES, first.workload.new_tokens.bit_length() - 1 if over == "seq" else 0, 0)
    sizes = {1 << n for n in range(start, top + 1)}
    sizes = {size for size in sizes if over == "batch" or size >= first.workload.new_tokens or _grows(step)}
    found = {size: at(size) for size in sorted(sizes | ({largest} if largest >= min(sizes) else set()))}
    crossings = [Crossing(largest, "the largest that fits")] if largest in found and found[largest].memory.fits else []
    return Sweep(over, tuple(found), tuple(found.values()), tuple(crossings))


def _varied(over: Axis, step: dict[str, Any]) -> Callable[[int], Analysis]:
    """The analysis of a size, each made once."""
    if step.get("contexts") is not None:
        raise KvperfError(f"--contexts beside --over {over}", "a ragged batch has no one size to vary")
    if step.get(over) is not None:
        raise KvperfError(f"--{over} {step[over]} beside --over {over}", f"leave --{over} out: it is what varies")
    made: dict[int, Analysis] = {}

    def at(size: int) -> Analysis:
        if size not in made:
            asked: dict[str, Any] = step | {over: size}
            made[size] = api.analyze(**asked, find_fit=False)
        return made[size]

    return at


def _grows(step: dict[str, Any]) -> bool:
    """Whether the new tokens are the whole context."""
    return step.get("phase") == "prefill" and step.get("new_tokens") is None


def _first_size(over: Axis, step: dict[str, Any]) -> int:
    return 1 if over == "batch" or _grows(step) else max(1, step.get("new_tokens") or 1)


def _batches(one: Analysis) -> tuple[int, ...]:
    """1 to 1024, further where more would fit."""
    fitting = int(one.memory.max_batch or 0)
    top = max(OCTAVES, min(2 * fitting, LARGEST_BATCH).bit_length())
    return tuple(1 << n for n in range(top + 1))


def _contexts(at: Callable[[int], Analysis], step: dict[str, Any]) -> tuple[int, ...]:
    """The longest context that the model takes, and ten octaves below."""
    low = _first_size("seq", step)
    longest = at(low).model.max_context_tokens or 1 << 17
    top = (longest - 1).bit_length()
    return tuple(size for size in (1 << n for n in range(max(0, top - OCTAVES), top + 1)) if size >= low)


def _crossings(sizes: tuple[int, ...], records: tuple[Analysis, ...], at: Callable[[int], Analysis]) -> list[Crossing]:
    found = []
    for state in (_leader, _binding, _fitting):
        for (low, before), (high, after) in pairwise(zip(sizes, records, strict=True)):
            if state(before) and state(after) and state(before) != state(after):
                size = _first_change(state, low, high, at)
                found.append(Crossing(size, _sentence(state, at(size))))
    return sorted(found, key=lambda c: c.at)


def _sentence(state: Any, record: Analysis) -> str:
    if state is _leader:
        return "attention overtakes the MLP" if state(record) == "attention" else "the MLP overtakes attention"
    if state is _fitting:
        return "memory runs out" if state(record) == "full" else "it fits again"
    return f"the step turns {RESOURCES[record.step.bound_by]}-bound"


def _first_change(state: Callable[[Analysis], str | None], low: int, high: int, at: Callable[[int], Analysis]) -> int:
    """The first size above `low` whose state is another, where there is one change up to `high`."""
    before = state(at(low))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if state(at(middle)) == before else (low, middle)
    return high


def _leader(record: Analysis) -> str | None:
    attention, ffn = bound_of(record, ATTENTION), bound_of(record, FFN)
    return None if not attention or not ffn else "attention" if attention > ffn else "the MLP"


def _binding(record: Analysis) -> str | None:
    return record.step.bound_by


def _fitting(record: Analysis) -> str | None:
    return None if record.memory.fits is None else "free" if record.memory.fits else "full"


def bound_of(record: Analysis, names: tuple[str, ...]) -> Number:
    """The summed bounds of some stages."""
    return total(stage.bound_s for stage in record.stages if stage.name in names)


def shared_warnings(found: Sweep) -> tuple[str, ...]:
    """What the analyses warn of, each kind once, as the first of them says it.

    That only the larger sizes do not fit is no warning: figures show from where on.
    """
    some_fit = any(record.memory.fits for record in found.records)
    said: dict[str, str] = {}
    for size, record in zip(found.sizes, found.records, strict=True):
        for text in record.warnings:
            kind = re.split(r"\d", text)[0]
            about_fit = kind.startswith(DOES_NOT_FIT)
            if not (about_fit and some_fit):
                at = f"at {'batch' if found.over == 'batch' else 'context'} {size} already, " if about_fit else ""
                said.setdefault(kind, at + text)
    return tuple(said.values())
