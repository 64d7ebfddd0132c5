"""The config fixtures, and models compared by shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kvperf.model.architecture import Model

FOLDER = Path(__file__).parent.parent / "data" / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
# gemma-3-4b's config.json leaves out vocab_size; the multimodal default pads the published 262144 rows by 64.
PADDED_VOCABULARY = {"gemma-3-4b": 262208}


def config(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def shape(model: Model) -> dict[str, Any]:
    """Everything of a model that decides counts, bytes and work; names of mixers and FFNs do not."""
    described = ("name", "source", "hub_id", "published", "notes", "mixers", "ffns", "layers")
    held = {field: getattr(model, field) for field in model.__struct_fields__ if field not in described}
    parts = [
        (model.mixers[layer.mixer], model.ffns[layer.ffn], layer.norms, layer.scalar)
        for layer in model.layer_sequence()
    ]
    return held | {"layers": parts}
