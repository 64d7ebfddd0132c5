"""What most families share: the outline of a model, and grouped-query attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvperf.model.architecture import Ffn, GroupedQuery, Layer, Mixer, Model
from kvperf.model.hub.keys import Keys
from kvperf.model.hub.rope import rotary_dim
from kvperf.model.runs import runs

OUTLINE = "hidden_size vocab_size max_position_embeddings num_hidden_layers"


def outline(
    keys: Keys, mixers: Mapping[str, Mixer], ffns: Mapping[str, Ffn], layers: Sequence[Layer], **more: Any
) -> Model:
    """A model from its layers and the keys every family has; parts that no layer uses are left out."""
    return Model(
        schema_version="kvperf.model/1",
        name=keys.name,
        source=(),
        hidden_size=keys.count("hidden_size"),
        vocab_size=keys.count("vocab_size"),
        max_context_tokens=keys.count("max_position_embeddings"),
        mixers={name: part for name, part in mixers.items() if any(layer.mixer == name for layer in layers)},
        ffns={name: part for name, part in ffns.items() if any(layer.ffn == name for layer in layers)},
        layers=runs(layers),
        tied_embeddings=keys.flag("tie_word_embeddings"),
        **more,
    )


def head_dim(keys: Keys) -> int:
    """The stated head size, else hidden_size over the heads."""
    if keys.given("head_dim"):
        return keys.count("head_dim")
    width, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    if width % heads:
        raise keys.error("num_attention_heads", f"is {heads}, which does not divide {width}", "state 'head_dim'")
    return width // heads


def grouped_query(keys: Keys, **more: Any) -> GroupedQuery:
    """Grouped-query attention from num_attention_heads, num_key_value_heads, head_dim and the rotary keys."""
    size = head_dim(keys)
    values: dict[str, Any] = {
        "heads": keys.count("num_attention_heads"),
        "kv_heads": keys.count("num_key_value_heads"),
        "head_dim": size,
        "rotary_dim": 0 if "rotary_dim" in more else rotary_dim(keys, size),
    }
    return GroupedQuery(**(values | more))


def same(layers: int, mixer: str = "full", ffn: str = "dense", norms: int = 2) -> list[Layer]:
    """A model of one kind of layer."""
    return [Layer(mixer, ffn, norms)] * layers
