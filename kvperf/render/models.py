"""Models as tables and records. Records are in base units; unknown values are None."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvperf.capacity import footprint
from kvperf.model.architecture import (
    Compressed,
    DeltaNet,
    GroupedQuery,
    Latent,
    Lightning,
    Mamba2,
    Mixer,
    Model,
)
from kvperf.model.parameters import ParameterCount, parameters
from kvperf.render.model_cache import cache, cache_rows
from kvperf.render.table import Table
from kvperf.units import binary, significant

MODULES = (
    "embedding",
    "attention",
    "indexer",
    "mlp",
    "experts",
    "shared_experts",
    "router",
    "norms",
    "other",
    "lm_head",
)


def summary(model: Model) -> dict[str, Any]:
    """One row of the list. A growing KV byte is one that no window stops: what a token adds to a long context."""
    count, held = parameters(model), cache(model)
    return {
        "name": model.name,
        "parameters": count.total,
        "active_parameters": count.active,
        "layers": len(model.layer_sequence()),
        "attention": attention(model),
        "kv_bytes_per_token": held.kv_bytes_per_token,
        "kv_growth_bytes_per_token": held.kv_growth_bytes_per_token,
        "state_bytes_per_sequence": held.state_bytes_per_sequence,
        "max_context_tokens": model.max_context_tokens,
    }


def imported_line(model: Model) -> str:
    """What to check an import against: its parameters and what a token adds to a long context."""
    row = summary(model)
    kv = binary(row["kv_growth_bytes_per_token"])
    return f"{_billions(row['parameters'])} B parameters, {kv} KV a token"


def attention(model: Model) -> str:
    """The kinds of mixers, in the order of their first layer."""
    names = (layer.mixer for run in model.layers for layer in run.block)
    return "+".join(dict.fromkeys(word for name in names if (word := _word(model.mixers[name]))))


def list_table(rows: Iterable[dict[str, Any]]) -> Table:
    """The list for a person: counts in billions, KV in KiB, context in K of 1024.

    KV is what a token adds to a long context: windows are full by then.
    """
    headers = ("model", "attention", "total\n(B)", "active\n(B)", "layers", "KV grows\nKiB/tok", "max\nctx")
    cells = tuple(
        (
            row["name"],
            row["attention"],
            _billions(row["parameters"]),
            _billions(row["active_parameters"]),
            str(row["layers"]),
            significant(row["kv_growth_bytes_per_token"] / 1024),
            _tokens(row["max_context_tokens"]),
        )
        for row in rows
    )
    return Table(headers, cells, left=2)


def record(model: Model) -> dict[str, Any]:
    """Everything `kvperf models show` tells, as data."""
    import msgspec

    count, published = parameters(model), model.published
    exact = published.parameters if published else None
    return {
        "schema": "kvperf.model_summary/1",
        **summary(model),
        **msgspec.to_builtins(cache(model)),
        "hub_id": model.hub_id,
        "shape": msgspec.to_builtins(model),
        "modules": {name: getattr(count, name) for name in MODULES},
        "active_experts": count.active_experts,
        "active_streamed_parameters": count.active_streamed,
        "active_core_parameters": count.active_core,
        "checkpoint_bytes": footprint(model).resident_weight_bytes,
        "published_parameters": exact,
        "agrees": None if exact is None else exact == count.total,
        "source": list(model.source),
        "notes": model.notes,
    }


def module_rows(model: Model) -> list[dict[str, Any]]:
    """Parameters by module, as rows of one shape."""
    count = parameters(model)
    rows: list[dict[str, Any]] = [{"module": name, "parameters": getattr(count, name)} for name in MODULES]
    rows = [row for row in rows if row["parameters"]]
    totals = ("total", "active", "active_streamed", "active_core")
    return rows + [{"module": name, "parameters": getattr(count, name)} for name in totals]


def module_table(model: Model) -> Table:
    """Parameters by module, then the total and the three conventions of "active"."""
    labels = {
        "total": "total",
        "active": "active, embedding and head included",
        "active_streamed": "active, streamed a token (head, no embedding)",
        "active_core": "active, neither embedding nor head",
    }
    rows = module_rows(model)
    total = rows[-4]["parameters"]
    cells = tuple(
        (
            str(labels.get(row["module"], row["module"].replace("_", " "))),
            f"{row['parameters']:,}",
            f"{100 * row['parameters'] / total:.1f}",
        )
        for row in rows
    )
    return Table(("parameters", "count", "%"), cells, totals=4)


def shape_table(model: Model) -> Table:
    """The model's sizes and each kind of layer, as name and value."""
    rows: list[tuple[str, str]] = [
        ("hub id", model.hub_id or "unknown"),
        ("hidden size", str(model.hidden_size)),
        ("vocabulary", f"{model.vocab_size}{' (tied)' if model.tied_embeddings else ''}"),
        ("context", f"{model.max_context_tokens} tokens"),
        ("checkpoint", f"{_precision(model)}, {binary(footprint(model).resident_weight_bytes)}"),
    ]
    rows += cache_rows(cache(model), len(model.layer_sequence()))
    counts: dict[tuple[str, str], int] = {}
    for layer in model.layer_sequence():
        counts[layer.mixer, layer.ffn] = counts.get((layer.mixer, layer.ffn), 0) + 1
    layers = [f"{count} × {mixer} + {ffn}" for (mixer, ffn), count in counts.items()]
    rows += [("layers" if i == 0 else "", text) for i, text in enumerate(layers)]
    parts = {**{f"mixer {k}": v for k, v in model.mixers.items()}, **{f"ffn {k}": v for k, v in model.ffns.items()}}
    for name, part in parts.items():
        rows += [(name if i == 0 else "", line) for i, line in enumerate(_part_lines(part))]
    if model.mtp is not None:
        rows.append(("draft modules", f"{model.mtp.modules} of {model.mtp.parameters_each:,} parameters"))
    return Table(("model", model.name), tuple(rows), left=2)


def published_lines(model: Model, count: ParameterCount) -> list[str]:
    """Whether the count is the published one, where the shape comes from, and what is odd about it."""
    lines = []
    published = model.published
    if published is not None:
        if published.parameters is None:
            lines.append("published: no exact count" + _nominal(published.nominal))
        elif published.parameters == count.total:
            lines.append(f"published: {published.parameters:,} parameters, the same")
        else:
            lines.append(
                f"published: {published.parameters:,} parameters, {count.total - published.parameters:+,} here"
            )
        lines.append(f"  by: {published.source}")
    lines += [f"source: {source}" for source in model.source]
    if model.notes:
        lines.append(f"notes: {model.notes}")
    return lines


def _nominal(value: float | None) -> str:
    return f", advertised as {significant(value / 1e9)} B" if value else ""


def _pairs(part: Any, prefix: str = "") -> list[str]:
    """What differs from the defaults, as `key value`; parts of a part as `part.key value`."""
    import msgspec

    pairs = []
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, msgspec.Struct):
            pairs += _pairs(value, f"{prefix}{field.name}.")
        elif field.required or value != field.default:
            pairs.append(f"{prefix}{field.name} {'yes' if value is True else value}")
    return pairs


def _part_lines(part: Any) -> list[str]:
    """A mixer or FFN on lines of at most 56 characters: its kind, then its pairs."""
    lines = [part.__struct_config__.tag]
    for pair in _pairs(part):
        if len(lines[-1]) + len(pair) + 2 > 56:
            lines.append(pair)
        else:
            lines[-1] += f", {pair}"
    return lines


def _precision(model: Model) -> str:
    held = model.checkpoint
    if held.quantised is None:
        return held.dtype
    experts = f", experts {held.experts}" if held.experts else ""
    return f"{held.quantised}{experts} (rest {held.dtype})"


def _word(mixer: Mixer) -> str:
    if isinstance(mixer, GroupedQuery):
        kind = "mha" if mixer.kv_heads == mixer.heads else "mqa" if mixer.kv_heads == 1 else "gqa"
        return f"{kind}/w" if mixer.window else f"{kind}/c" if mixer.chunk else kind
    if isinstance(mixer, Latent):
        return "dsa" if mixer.indexer or mixer.selected_tokens else "mla"
    if isinstance(mixer, Compressed):
        return "csa" if mixer.indexer else "hca" if mixer.ratio else "swa"
    if isinstance(mixer, DeltaNet):
        return "gdn"
    if isinstance(mixer, Lightning):
        return "linear"
    return "mamba2" if isinstance(mixer, Mamba2) else ""


def _billions(count: int) -> str:
    return significant(count / 1e9)


def _tokens(count: int) -> str:
    """Context lengths are powers of two, mostly."""
    return f"{count // 1024}K" if count % 1024 == 0 else str(count)
