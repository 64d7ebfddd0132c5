"""What types cannot say about a model: sizes are positive, shapes divide, names are defined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError, nearest
from kvperf.model.architecture import (
    MODULES,
    Compressed,
    DeltaNet,
    Experts,
    GroupedQuery,
    Latent,
    Mamba2,
    Model,
)
from kvperf.yaml_file import Document

# Integers that may be 0; every other integer of a model counts something that exists.
MAY_BE_ZERO = {"rotary_dim", "shared_intermediate", "router_scales", "ratio", "norms", "extra_parameters", "layers"}

# What no model is larger than: a typing error must not become gigabytes of layers, or a size float64 loses.
MOST_LAYERS = 10_000
LARGEST_SIZE = 10**9
# Counts of a whole model, which may pass LARGEST_SIZE.
TOTALS = {"published", "mtp", "extra_parameters"}


def validate(document: Document, model: Model) -> None:
    """Raise KvperfError, with the place in `document`, for the first thing that cannot be."""
    for path, message, hint in problems(model):
        raise KvperfError(f"{document.at(path)}: {message}", hint)


def problems(model: Model) -> Iterator[tuple[str, str, str]]:
    """Everything wrong with a model: the path of the part, what is wrong, what to do."""
    layers = 0
    for run in model.layers:
        layers += run.repeat * len(run.block)
    if layers > MOST_LAYERS:
        yield "$.layers", f"{str(layers)[:12]} layers", f"no model has more than {MOST_LAYERS}"
        return
    yield from _sizes("$", msgspec.to_builtins(model))
    yield from _references(model)
    for kind, parts in (("mixers", model.mixers), ("ffns", model.ffns)):
        for name, part in parts.items():
            for field, message, hint in _shape(part):
                path = f"$.{kind}.{name}.{field}"
                yield path, f"{kind}.{name}: {message}", hint
    yield from _checkpoint(model)


def _sizes(path: str, value: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, dict):
        for key, held in value.items():
            inner = f"{path}.{key}"
            if isinstance(held, int) and not isinstance(held, bool):
                least = 0 if key in MAY_BE_ZERO else 1
                if held < least:
                    yield inner, f"{inner[2:]} is {held}", f"write a whole number of at least {least}"
                if held > LARGEST_SIZE and key not in TOTALS:
                    yield inner, f"{inner[2:]} is {str(held)[:12]}", "no model is that large"
            elif key not in TOTALS:
                yield from _sizes(inner, held)
    elif isinstance(value, (list, tuple)):
        for i, held in enumerate(value):
            yield from _sizes(f"{path}[{i}]", held)


def _references(model: Model) -> Iterator[tuple[str, str, str]]:
    if not model.layers:
        yield "$.layers", "layers is empty", "give at least one {repeat: …, block: […]}"
    used: dict[str, set[str]] = {"mixer": set(), "ffn": set()}
    for i, run in enumerate(model.layers):
        if not run.block:
            yield f"$.layers[{i}].block", "the block is empty", "give at least one {mixer: …, ffn: …}"
        for j, layer in enumerate(run.block):
            for field, known in (("mixer", model.mixers), ("ffn", model.ffns)):
                name = getattr(layer, field)
                used[field].add(name)
                if name not in known:
                    close = nearest(name, known)
                    hint = f"did you mean '{close}'?" if close else f"define it under '{field}s'"
                    yield f"$.layers[{i}].block[{j}].{field}", f"no {field} is called '{name}'", hint
    for field, known in (("mixer", model.mixers), ("ffn", model.ffns)):
        for name in known:
            if name not in used[field]:
                yield f"$.{field}s.{name}", f"no layer uses the {field} '{name}'", "delete it, or use it in 'layers'"


def _shape(part: Any) -> Iterator[tuple[str, str, str]]:
    """What does not fit together inside one mixer or FFN: field, message, hint."""
    if isinstance(part, GroupedQuery):
        if part.heads % part.kv_heads:
            yield (
                "kv_heads",
                f"{part.heads} heads cannot share {part.kv_heads} KV heads evenly",
                "kv_heads must divide heads",
            )
        if part.rotary_dim > part.head_dim:
            yield (
                "rotary_dim",
                f"rotary_dim {part.rotary_dim} is more than head_dim {part.head_dim}",
                "at most head_dim",
            )
        if part.window is not None and part.chunk is not None:
            yield "chunk", "a mixer has a window or a chunk, not both", "delete one of them"
    if isinstance(part, Latent) and part.indexer is not None and part.selected_tokens is not None:
        yield "selected_tokens", "a layer with an indexer selects its own tokens", "delete indexer or selected_tokens"
    if isinstance(part, Compressed):
        if part.indexer is not None and not part.ratio:
            yield "indexer", "an indexer needs compressed keys, and ratio is 0", "delete the indexer, or give a ratio"
        if part.heads % part.output_groups:
            yield "output_groups", f"{part.heads} heads cannot form {part.output_groups} groups", "must divide heads"
        if part.rope_head_dim > part.head_dim:
            yield "rope_head_dim", f"rope_head_dim {part.rope_head_dim} is more than head_dim", "at most head_dim"
    if isinstance(part, DeltaNet) and part.v_heads % part.k_heads:
        yield "k_heads", f"{part.v_heads} v_heads cannot share {part.k_heads} k_heads evenly", "must divide v_heads"
    if isinstance(part, Mamba2) and part.heads % part.groups:
        yield "groups", f"{part.heads} heads cannot form {part.groups} groups", "groups must divide heads"
    if isinstance(part, Experts) and part.top_k > part.experts:
        yield "top_k", f"top_k {part.top_k} is more than the {part.experts} experts", "at most experts"


def _checkpoint(model: Model) -> Iterator[tuple[str, str, str]]:
    held = model.checkpoint
    for field in ("dtype", "quantised", "experts", "activation"):
        name = getattr(held, field)
        if name is not None and name not in DTYPES:
            close = nearest(name, DTYPES)
            hint = f"did you mean '{close}'?" if close else f"one of {', '.join(DTYPES)}"
            yield f"$.checkpoint.{field}", f"unknown number format '{name}'", hint
    if held.quantised is None and (held.activation or held.experts or held.kept):
        yield "$.checkpoint", "nothing is quantised, so nothing can be kept", "give 'quantised' or delete the rest"
    count = 0
    for run in model.layers:
        count += run.repeat * len(run.block)
    for i, kept in enumerate(held.kept):
        path = f"$.checkpoint.kept[{i}]"
        if kept.module not in MODULES:
            close = nearest(kept.module, MODULES)
            hint = f"did you mean '{close}'?" if close else f"one of {', '.join(MODULES)}"
            yield f"{path}.module", f"unknown module '{kept.module}'", hint
        for layer in kept.layers or ():
            if layer >= count:
                yield f"{path}.layers", f"layer {layer} does not exist", f"the {count} layers are 0 to {count - 1}"
