"""Several GPUs, models or layouts for the same step: one analysis each, their figures side by side.

The record is `kvperf.comparison/1`; `kvperf/schemas/comparison-1.json` is its JSON Schema.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from kvperf import __version__, api, inputs
from kvperf.arith import Number, total
from kvperf.errors import KvperfError
from kvperf.predict.step import COLLECTIVES
from kvperf.record import Analysis, RequestFacts

LARGEST = 12  # columns
# Options that may have several values, in the order in which they vary: the last one fastest.
SEVERAL = (
    *("gpu", "cluster", "model", "weight_dtype", "kv_dtype", "stack", "batch"),
    *("tp", "pp", "cp", "ep", "attention_dp"),
)
DEGREES = {"tp": "TP", "pp": "PP", "cp": "CP", "ep": "EP", "attention_dp": "attn DP"}
BEST_LEAST = ("bound_s", "predicted_s")
BEST_MOST = (
    *("tokens_per_s_bound", "tokens_per_s_predicted", "tokens_per_s_per_gpu", "tokens_per_s_per_user"),
    *("spare_bytes", "max_batch", "max_context_tokens"),
)
# Figures that are those of the analysis' step, and of its memory.
STEP = (
    *("bound_s", "bound_by", "predicted_s", "predicted_low_s", "predicted_high_s", "calibration"),
    *("tokens_per_s_bound", "tokens_per_s_predicted"),
)
MEMORY = ("resident_weight_bytes", "kv_cache_bytes", "fits", "spare_bytes", "max_batch", "max_context_tokens")
# What `api.prepare` takes of the options.
_PREPARED = {*inspect.signature(api.prepare).parameters, *inspect.signature(inputs.step_workload).parameters}
_PREPARED -= {"step", "scope"}

Value = str | int | float | bool | None


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One combination: its options and the figures of `kvperf.analyze` for it, of the busiest GPU.

    chosen   the values of what differs, as they are called;  label: the same in words
    options  all that may differ, as said or by default
    refused  why there are no figures
    tokens_per_s_per_user  1 / predicted_s, in decode
    communication_s        predicted, of all collectives; part of predicted_s unless they overlap
    needed_bytes           weights, KV cache, activations, reserve and collective buffers of one GPU
    max_context_tokens     None where the caches do not grow, or the capacity is unknown (as `fits` is)
    model_context_tokens   what the model takes
    calibration            whose constants predicted the step, `borrowed` where they are another GPU's or stack's
    best                   figures of this column that no other column has better, among those that fit
    """

    label: str
    chosen: dict[str, Value]
    options: dict[str, Value]
    refused: str | None = None
    gpus: int | None = None
    nodes: int | None = None
    bound_s: Number | None = None
    bound_by: str | None = None
    predicted_s: Number | None = None
    predicted_low_s: Number | None = None
    predicted_high_s: Number | None = None
    calibration: str | None = None
    tokens_per_s_bound: Number | None = None
    tokens_per_s_predicted: Number | None = None
    tokens_per_s_per_gpu: Number | None = None
    tokens_per_s_per_user: Number | None = None
    communication_s: Number | None = None
    communication_share: Number | None = None
    resident_weight_bytes: Number | None = None
    kv_cache_bytes: Number | None = None
    needed_bytes: Number | None = None
    fits: bool | None = None
    spare_bytes: Number | None = None
    max_batch: Number | None = None
    max_context_tokens: Number | None = None
    model_context_tokens: int | None = None
    warnings: tuple[str, ...] = ()
    best: tuple[str, ...] = ()


class Comparison(msgspec.Struct, frozen=True, kw_only=True, rename={"schema_version": "schema"}):
    """Columns in the order of the options' values.

    varied    options with several values
    same      facts of the step that all columns with figures share: fields of the analysis' workload, and more
    requests  sequences of the first such column; where the batch differs, only their tokens are those of all
    """

    schema_version: Literal["kvperf.comparison/1"] = "kvperf.comparison/1"
    version: str = __version__
    varied: tuple[str, ...]
    same: dict[str, Value]
    requests: tuple[RequestFacts, ...]
    columns: tuple[Column, ...]


class Tried(NamedTuple):
    """A combination of values, and the analysis it gave or the reason why it gave none.

    chosen  the values of what varies;  options: those of all that may
    """

    chosen: dict[str, Value]
    options: dict[str, Value]
    record: Analysis | None
    refused: KvperfError | None


def compare(**options: Any) -> Comparison:
    """Compare steps that differ in what has a list of values: `compare(gpu=["h100", "b200"], tp=[4, 8], seq=8192)`.

    options  those of `kvperf.analyze`; the names in SEVERAL take lists, of which each combination is one column

    Raises KvperfError for bad input, for fewer than 2 or more than 12 columns, and where no combination can be.
    """
    lists = {name: list(options[name]) for name in SEVERAL if isinstance(options.get(name), (list, tuple))}
    _check(lists)
    fixed = options | {name: values[0] for name, values in lists.items()}
    varied = {name: values for name, values in lists.items() if len(values) > 1}
    combinations = itertools.product(*varied.values())
    tries = [_tried(fixed, dict(zip(varied, values, strict=True))) for values in combinations]
    known = [tried.record for tried in tries if tried.record is not None]
    if not known:
        assert tries[0].refused is not None
        raise tries[0].refused
    return Comparison(
        varied=tuple(varied),
        same=_same(known, tuple(varied)),
        requests=known[0].workload.requests,
        columns=_with_best([_column(tried, _shown(tries)) for tried in tries]),
    )


def title(option: str, value: Value) -> str:
    """A value in words that need no header: `TP 4`, `fp8 weights`, `h100-sxm`."""
    if option in DEGREES:
        return f"{DEGREES[option]} {value}"
    if option == "stack":
        return "no stack" if value == "none" else str(value)
    words = {"weight_dtype": f"{value} weights", "kv_dtype": f"{value} KV", "batch": f"batch {value}"}
    return words.get(option, str(value))


def _check(lists: Mapping[str, Sequence[Any]]) -> None:
    """Refuse too few or too many columns. Raises KvperfError."""
    for name, values in lists.items():
        if not values:
            raise KvperfError(f"{_flag(name)} has no values", "give one or more, like --gpu h100,h200")
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise KvperfError(f"{_flag(name)} has {twice} twice", "leave one of them out")
    count = math.prod(len(values) for values in lists.values())
    if count < 2:
        raise KvperfError(
            "compare needs two or more values of an option", "give a comma list, like --gpu h100,h200 or --tp 4,8"
        )
    if count > LARGEST:
        factors = " × ".join(f"{len(values)} {_flag(name)}" for name, values in lists.items() if len(values) > 1)
        raise KvperfError(f"{factors} would be {count} columns", f"leave some out: compare shows {LARGEST} at most")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _tried(fixed: dict[str, Any], chosen: dict[str, Any]) -> Tried:
    """Analyse one combination. Raises KvperfError for what is wrong in itself, whatever it is combined with."""
    asked = fixed | chosen
    options = {name: asked.get(name) for name in SEVERAL} | {"stack": asked.get("stack", inputs.DEFAULT_STACK)}
    options |= {name: asked.get(name, 1) for name in DEGREES}
    try:
        record = api.analyze(**asked, find_fit=False)
    except KvperfError as problem:
        inputs.check_stack(str(options["stack"]))
        gpu, model, workload = api.prepare(
            **{"gpu": None, "model": None} | {name: asked[name] for name in asked.keys() & _PREPARED}
        )
        options |= {"gpu": gpu.name, "model": model.name, "batch": workload.sequences}
        return Tried(chosen, options, None, problem)
    work = record.workload
    options |= {"gpu": record.gpu.name, "model": record.model.name, "batch": work.batch}
    options |= {"weight_dtype": work.weight_dtype, "kv_dtype": work.kv_dtype}
    return Tried(chosen, options, record, None)


def _shown(tries: Sequence[Tried]) -> dict[tuple[str, Value], Value]:
    """What each chosen value is called: GPUs and models by their names, unless two have the same one."""
    shown = {(name, value): value for tried in tries for name, value in tried.chosen.items()}
    for option in ("gpu", "model"):
        names = {(option, tried.chosen[option]): tried.options[option] for tried in tries if option in tried.chosen}
        if len(set(names.values())) == len(names):
            shown |= names
    return shown


def _same(known: Sequence[Analysis], varied: Sequence[str]) -> dict[str, Value]:
    first, *others = [_facts(record) for record in known]
    return {
        name: value
        for name, value in first.items()
        if name not in varied and all(facts.get(name) == value for facts in others)
    }


def _facts(record: Analysis) -> dict[str, Value]:
    """What was analysed: the GPU, the model (or the heads of attention alone), the step."""
    facts: dict[str, Value] = {"gpu": record.gpu.name, "model": record.model.name}
    if record.attention is not None:
        facts |= {name: getattr(record.attention, name) for name in ("heads", "kv_heads", "head_dim")}
    values = {name: getattr(record.workload, name) for name in record.workload.__struct_fields__}
    return facts | {name: value for name, value in values.items() if name not in ("requests", "module_dtypes")}


def _column(tried: Tried, shown: Mapping[tuple[str, Value], Value]) -> Column:
    chosen = {name: _plain(shown[name, value]) for name, value in tried.chosen.items()}
    label = " ".join(title(name, value) for name, value in chosen.items())
    options = {name: _plain(value) for name, value in tried.options.items()}
    if tried.record is None:
        assert tried.refused is not None
        return Column(label=label, chosen=chosen, options=options, refused=tried.refused.message)
    return Column(label=label, chosen=chosen, options=options, **_figures(tried.record))


def _plain(value: Any) -> Value:
    """A path becomes text."""
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _figures(record: Analysis) -> dict[str, Any]:
    """The figures of an analysis that a column has."""
    step, kept, gpus = record.step, record.memory, record.workload.gpus
    figures = {name: getattr(step, name) for name in STEP} | {name: getattr(kept, name) for name in MEMORY}
    figures |= {
        "gpus": gpus,
        "nodes": record.workload.nodes,
        "needed_bytes": kept.needed_bytes,
        "model_context_tokens": record.model.max_context_tokens,
        "warnings": record.warnings,
    }
    if step.predicted_s is None or step.tokens_per_s_predicted is None:
        return figures
    talking = (stage.predicted_s for stage in record.stages if stage.name in COLLECTIVES)
    communication_s = total(seconds or 0.0 for seconds in talking) + 0.0
    return figures | {
        "tokens_per_s_per_gpu": step.tokens_per_s_predicted / gpus,
        "tokens_per_s_per_user": 1 / step.predicted_s if _decodes(record) else None,
        "communication_s": communication_s,
        "communication_share": communication_s / step.predicted_s,
    }


def _decodes(record: Analysis) -> bool:
    """Whether every step gives every user one token."""
    return record.workload.phase == "decode" and record.attention is None


def _with_best(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The same columns, each with the names of the figures in which it is the best."""
    best: dict[int, list[str]] = {index: [] for index in range(len(columns))}
    for name in (*BEST_LEAST, *BEST_MOST):
        for index in _best(columns, name):
            best[index].append(name)
    return tuple(msgspec.structs.replace(column, best=tuple(best[i])) for i, column in enumerate(columns))


def _best(columns: Sequence[Column], name: str) -> list[int]:
    """Columns that fit and have the best figure of that name; none where there is no difference."""
    values = {i: _worth(c, name) for i, c in enumerate(columns) if c.refused is None and c.fits is not False}
    known = {i: value for i, value in values.items() if value is not None}
    if len(set(known.values())) < 2:
        return []
    top = min(known.values()) if name in BEST_LEAST else max(known.values())
    return [i for i, value in known.items() if value == top]


def _worth(column: Column, name: str) -> float | None:
    """A figure as it is ranked: contexts beyond what the model takes are worth no more than that."""
    value = getattr(column, name)
    if name != "max_context_tokens" or column.fits is None:
        return value
    return min(math.inf if value is None else value, column.model_context_tokens or math.inf)
