"""Gemma 1 to 4: large heads, tied embeddings, and from Gemma 2 on windows in most layers and four norms."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.model.architecture import Dense, Experts, GroupedQuery, Layer, Model
from kvperf.model.hub.keys import Keys, table
from kvperf.model.hub.rope import PARTIAL_ROPE, ROPE, ROPE_KEYS
from kvperf.model.hub.shape import OUTLINE, grouped_query, outline, same

_HEADS = "num_attention_heads num_key_value_heads head_dim"
_LAYER_TYPES = {"sliding_attention": "sliding", "full_attention": "full"}
# Gemma configs state the tie only where it does not hold; the head is the embedding table.
_COMMON: dict[str, Any] = {"tie_word_embeddings": True, "attention_bias": False, **ROPE_KEYS}
# Attention over image tokens in both directions changes prefill masks of images only.
_INERT = "use_bidirectional_attention"

GEMMA = table(f"{OUTLINE} {_HEADS} intermediate_size", {**_COMMON, "hidden_act": None, "hidden_activation": None})
GEMMA2 = table(
    f"{OUTLINE} {_HEADS} intermediate_size sliding_window hidden_activation",
    {**_COMMON, "hidden_act": None, "layer_types": None},
    inert=f"{_INERT} cache_implementation",
)
_GEMMA3_4B: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
}
GEMMA3 = table(
    "hidden_size num_hidden_layers intermediate_size sliding_window",
    {
        **_COMMON,
        **dict.fromkeys(_GEMMA3_4B),
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": None,
        "sliding_window_pattern": 6,
        "_sliding_window_pattern": 6,
    },
    inert=_INERT,
)
GEMMA4 = table(
    f"{OUTLINE} {_HEADS} intermediate_size sliding_window hidden_activation layer_types global_head_dim "
    "num_global_key_value_heads attention_k_eq_v enable_moe_block rope_parameters tie_word_embeddings",
    {"num_experts": None, "top_k_experts": None, "moe_intermediate_size": None},
    only={
        "attention_bias": (False,),
        "hidden_size_per_layer_input": (0,),
        "num_kv_shared_layers": (0,),
        "use_double_wide_mlp": (False,),
    },
    inert=f"{_INERT} vocab_size_per_layer_input",
)
_GEMMA4_ROPE = table("full_attention sliding_attention")


def gemma(keys: Keys) -> Model:
    keys.activation("hidden_activation" if keys.given("hidden_activation") else "hidden_act")
    ffns = {"dense": Dense(keys.count("intermediate_size"))}
    return outline(keys, {"full": _attention(keys)}, ffns, same(keys.count("num_hidden_layers")))


def gemma2(keys: Keys) -> Model:
    """Windows in every second layer, beginning with the first."""
    return _windowed(keys, lambda layer: layer % 2 == 0)


def gemma3(keys: Keys) -> Model:
    """A full layer after every five with a window; QK norms.

    The config of gemma-3-4b leaves out what its library had as defaults; every other one states it.
    """
    omitted = [key for key in _GEMMA3_4B if not keys.given(key)]
    if omitted and keys.values["hidden_size"] != 2560:
        raise keys.error(omitted[0], "is missing", "only the config of gemma-3-4b (hidden_size 2560) leaves it out")
    keys.values.update({key: _GEMMA3_4B[key] for key in omitted})
    stated = "sliding_window_pattern" if "sliding_window_pattern" in keys.present else "_sliding_window_pattern"
    period = keys.count(stated)
    return _windowed(keys, lambda layer: (layer + 1) % period != 0, qk_norm="head")


def gemma4(keys: Keys) -> Model:
    """Full layers have heads of their own size and make K and V from one projection where the config says so.

    Norms a layer: four; with experts seven (pre and post of each branch). Each layer ends in a scalar. The
    router scales hidden_size channels and each expert.
    """
    keys.activation("hidden_activation")
    rope = keys.section("rope_parameters", _GEMMA4_ROPE)
    whole = rope.section("sliding_attention", ROPE).fraction("partial_rotary_factor")
    part = rope.section("full_attention", PARTIAL_ROPE).fraction("partial_rotary_factor")
    heads, size, full = keys.count("num_attention_heads"), keys.count("head_dim"), keys.count("global_head_dim")
    mixers = {
        "sliding": GroupedQuery(
            heads,
            keys.count("num_key_value_heads"),
            size,
            rotary_dim=int(size * whole),
            window=keys.count("sliding_window"),
            qk_norm="head",
        ),
        "full": GroupedQuery(
            heads,
            keys.count("num_global_key_value_heads"),
            full,
            rotary_dim=int(full * part),
            qk_norm="head",
            shared_kv_projection=keys.flag("attention_k_eq_v"),
        ),
    }
    dense = Dense(keys.count("intermediate_size"))
    kinds = keys.each_layer("layer_types", keys.count("num_hidden_layers"), _LAYER_TYPES)
    if not keys.flag("enable_moe_block"):
        return outline(keys, mixers, {"dense": dense}, [Layer(kind, "dense", 4, scalar=True) for kind in kinds])
    experts = keys.count("num_experts")
    moe = Experts(
        experts,
        keys.count("top_k_experts"),
        keys.count("moe_intermediate_size"),
        dense=dense,
        router_scales=keys.count("hidden_size") + experts,
    )
    return outline(keys, mixers, {"moe": moe}, [Layer(kind, "moe", 7, scalar=True) for kind in kinds])


def _attention(keys: Keys, **more: Any) -> GroupedQuery:
    bias = keys.flag("attention_bias")
    return grouped_query(keys, qkv_bias=bias, output_bias=bias, **more)


def _windowed(keys: Keys, has_window: Any, **more: Any) -> Model:
    keys.activation("hidden_activation")
    count = keys.count("num_hidden_layers")
    full = _attention(keys, **more)
    mixers = {"sliding": msgspec.structs.replace(full, window=keys.count("sliding_window")), "full": full}
    if keys.given("layer_types"):
        kinds = keys.each_layer("layer_types", count, _LAYER_TYPES)
    else:
        kinds = ["sliding" if has_window(layer) else "full" for layer in range(count)]
    ffns = {"dense": Dense(keys.count("intermediate_size"))}
    return outline(keys, mixers, ffns, [Layer(kind, "dense", 4) for kind in kinds])
