"""One model of every kind: tests that are the same for models alike need no more, but under KVPERF_TEST_FULL=1."""

from __future__ import annotations

import os

from kvperf.model import load_model, model_names


def one_of_each_kind() -> list[str]:
    """The first model by name of each set of mixers, FFNs and formats; all of them in a full run."""
    names = model_names()
    if os.environ.get("KVPERF_TEST_FULL"):
        return names
    kinds: dict[tuple[object, ...], str] = {}
    for name in names:
        model = load_model(name)
        mixers = frozenset(type(mixer).__name__ for mixer in model.mixers.values())
        ffns = frozenset((type(ffn).__name__, bool(getattr(ffn, "dense", None))) for ffn in model.ffns.values())
        spans = frozenset(
            name for name in ("window", "chunk", "indexer") for m in model.mixers.values() if getattr(m, name, None)
        )
        kinds.setdefault((mixers, ffns, spans, model.checkpoint.quantised, model.tied_embeddings), name)
    return list(kinds.values())
