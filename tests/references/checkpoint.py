"""Bytes of a published checkpoint counted module by module: an independent reference for the resident weights."""

from __future__ import annotations

from kvperf.dtypes import dtype
from kvperf.model.architecture import Checkpoint, Model
from kvperf.model.parameters import Size, layer_parameters, outer_parameters


def module_dtype(checkpoint: Checkpoint, module: str, layer: int | None = None) -> str:
    """The dtype of a module's matrices; `layer` tells the layers of a list of kept ones apart."""
    if checkpoint.quantised is None:
        return checkpoint.dtype
    for kept in checkpoint.kept:
        if kept.module == module and (kept.layers is None or layer in kept.layers):
            return checkpoint.dtype
    if module == "experts" and checkpoint.experts is not None:
        return checkpoint.experts
    return checkpoint.quantised


def checkpoint_bytes(model: Model) -> float:
    """Bytes of every learned value, group scales included (multi-token-prediction modules and row scales are not)."""
    base = dtype(model.checkpoint.dtype).element_bytes

    def stored(module: str, size: Size, layer: int | None = None) -> float:
        quantisable = module in ("attention", "indexer", "mlp", "experts", "shared_experts", "router", "lm_head")
        name = module_dtype(model.checkpoint, module, layer) if quantisable else model.checkpoint.dtype
        return size.matrices * dtype(name).element_bytes + size.vectors * base

    total = 0.0
    for module, size in outer_parameters(model).items():
        total += stored(module, size)
    for index, layer in enumerate(model.layer_sequence()):
        for module, size in layer_parameters(model, layer).items():
            total += stored(module, size, index)
    return total
