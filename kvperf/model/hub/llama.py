"""Llama, Mistral, Mixtral, Phi-3, Qwen2 and Qwen3, dense and sparse, GLM-4.5: one plan, few differences."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.model.architecture import Dense, Experts, Layer, Model, MultiToken
from kvperf.model.hub.keys import ROUTING, Keys, table
from kvperf.model.hub.rope import ROPE_KEYS
from kvperf.model.hub.shape import OUTLINE, grouped_query, outline, same
from kvperf.model.parameters import draft_parameters

_HEADS = "num_attention_heads num_key_value_heads"
_DENSE = f"{OUTLINE} {_HEADS} intermediate_size hidden_act"
# head_dim is hidden_size / heads in the configs of these families that leave it out.
_ROTARY: dict[str, Any] = {"head_dim": None, **ROPE_KEYS}
_WINDOW: dict[str, Any] = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": None}
_LAYER_TYPES = {"full_attention": "full", "sliding_attention": "sliding"}

LLAMA = table(
    f"{_DENSE} tie_word_embeddings",
    {**_ROTARY, "attention_bias": False, "mlp_bias": False},
)
MISTRAL = table(f"{_DENSE} sliding_window", {**_ROTARY, "tie_word_embeddings": False})
MIXTRAL = table(
    f"{_DENSE} num_local_experts num_experts_per_tok", {**_ROTARY, "tie_word_embeddings": False, "sliding_window": None}
)
PHI3 = table(
    f"{_DENSE} sliding_window tie_word_embeddings",
    {**_ROTARY, "attention_bias": False},
    only={"mlp_bias": (False,), "lm_head_bias": (False,), "full_attn_mod": (1,), "interpolate_factor": (1,)},
)
QWEN2 = table(f"{_DENSE} tie_word_embeddings", {**_ROTARY, **_WINDOW, "layer_types": None}, inert="use_mrope")
QWEN3 = table(
    f"{_DENSE} head_dim tie_word_embeddings attention_bias",
    {**ROPE_KEYS, **_WINDOW, "layer_types": None},
)
_SPARSE = "num_experts num_experts_per_tok moe_intermediate_size"
QWEN2_MOE = table(
    f"{_DENSE} tie_word_embeddings shared_expert_intermediate_size {_SPARSE}",
    {**_ROTARY, **_WINDOW, "decoder_sparse_step": 1, "mlp_only_layers": (), "qkv_bias": True, "layer_types": None},
    inert=ROUTING,
)
QWEN3_MOE = table(
    f"{_DENSE} head_dim tie_word_embeddings attention_bias {_SPARSE}",
    {**ROPE_KEYS, **_WINDOW, "decoder_sparse_step": 1, "mlp_only_layers": (), "layer_types": None},
    inert=ROUTING,
)
GLM4_MOE = table(
    f"{_DENSE} head_dim tie_word_embeddings attention_bias use_qk_norm partial_rotary_factor first_k_dense_replace "
    "n_routed_experts n_shared_experts num_experts_per_tok moe_intermediate_size num_nextn_predict_layers",
    {"rope_parameters": None},
    inert=ROUTING,
)


def llama(keys: Keys) -> Model:
    keys.activation()
    bias = keys.flag("attention_bias")
    mixers = {"full": grouped_query(keys, qkv_bias=bias, output_bias=bias)}
    dense = Dense(keys.count("intermediate_size"), bias=keys.flag("mlp_bias"))
    return outline(keys, mixers, {"dense": dense}, same(keys.count("num_hidden_layers")))


def mistral(keys: Keys) -> Model:
    """Every layer has the window, or none has one."""
    keys.activation()
    mixers = {"full": grouped_query(keys, window=keys.count_or_none("sliding_window"))}
    ffns = {"dense": Dense(keys.count("intermediate_size"))}
    return outline(keys, mixers, ffns, same(keys.count("num_hidden_layers")))


def mixtral(keys: Keys) -> Model:
    keys.activation()
    experts = Experts(
        keys.count("num_local_experts"), keys.count("num_experts_per_tok"), keys.count("intermediate_size")
    )
    mixers = {"full": grouped_query(keys, window=keys.count_or_none("sliding_window"))}
    return outline(keys, mixers, {"moe": experts}, same(keys.count("num_hidden_layers"), ffn="moe"))


def phi3(keys: Keys) -> Model:
    """Phi-4-mini, which states interpolate_factor, states partial_rotary_factor too; Phi-3 rotates whole heads."""
    keys.activation()
    if "interpolate_factor" in keys.present and "partial_rotary_factor" not in keys.present:
        raise keys.error("partial_rotary_factor", "is missing", "configs with 'interpolate_factor' state it")
    window = keys.count_or_none("sliding_window")
    if window is not None and window >= keys.count("max_position_embeddings"):
        window = None  # Phi-4-mini: a window that no context fills
    bias = keys.flag("attention_bias")
    mixers = {"full": grouped_query(keys, window=window, qkv_bias=bias, output_bias=bias)}
    ffns = {"dense": Dense(keys.count("intermediate_size"))}
    return outline(keys, mixers, ffns, same(keys.count("num_hidden_layers")))


def qwen2(keys: Keys) -> Model:
    """Biases on Q, K and V alone."""
    keys.activation()
    return _windowed(keys, {"dense": Dense(keys.count("intermediate_size"))}, _dense_layers(keys), qkv_bias=True)


def qwen3(keys: Keys) -> Model:
    keys.activation()
    bias = keys.flag("attention_bias")
    ffns = {"dense": Dense(keys.count("intermediate_size"))}
    return _windowed(keys, ffns, _dense_layers(keys), qkv_bias=bias, output_bias=bias, qk_norm="head")


def qwen2_moe(keys: Keys) -> Model:
    keys.activation()
    shared = keys.count("shared_expert_intermediate_size")
    ffns = {"dense": Dense(keys.count("intermediate_size")), "moe": qwen_experts(keys, shared)}
    return _windowed(keys, ffns, sparse_layers(keys), qkv_bias=keys.flag("qkv_bias"))


def qwen3_moe(keys: Keys) -> Model:
    keys.activation()
    bias = keys.flag("attention_bias")
    ffns = {"dense": Dense(keys.count("intermediate_size")), "moe": qwen_experts(keys, 0)}
    return _windowed(keys, ffns, sparse_layers(keys), qkv_bias=bias, output_bias=bias, qk_norm="head")


def glm4_moe(keys: Keys) -> Model:
    """QK norm a head where the config says so; biases on Q, K and V; first_k_dense_replace dense layers."""
    keys.activation()
    mixer = grouped_query(
        keys,
        qkv_bias=keys.flag("attention_bias"),
        qk_norm="head" if keys.flag("use_qk_norm") else "none",
    )
    width = keys.count("moe_intermediate_size")
    experts = Experts(
        keys.count("n_routed_experts"),
        keys.count("num_experts_per_tok"),
        width,
        shared_intermediate=width * keys.count_or_zero("n_shared_experts"),
        score_bias=True,
    )
    dense = keys.dense_prefix(keys.count("num_hidden_layers"))
    layers = [Layer("full", "dense" if i < dense else "moe") for i in range(keys.count("num_hidden_layers"))]
    ffns = {"dense": Dense(keys.count("intermediate_size")), "moe": experts}
    return with_drafts(outline(keys, {"full": mixer}, ffns, layers), keys.count_or_zero("num_nextn_predict_layers"))


def with_drafts(model: Model, modules: int, layer: Layer | None = None) -> Model:
    """The model with its multi-token-prediction modules, each like `layer` (by default the last one)."""
    if not modules:
        return model
    each = draft_parameters(model, layer or model.layers[-1].block[-1])
    return msgspec.structs.replace(model, mtp=MultiToken(modules, each))


def qwen_experts(keys: Keys, shared: int) -> Experts:
    """A shared expert of width `shared` has a gate of its own (Qwen2-MoE, Qwen3-Next)."""
    return Experts(
        keys.count("num_experts"),
        keys.count("num_experts_per_tok"),
        keys.count("moe_intermediate_size"),
        shared_intermediate=shared,
        shared_gate=shared > 0,
    )


def sparse_layers(keys: Keys) -> list[str]:
    """The FFN of each layer: experts in every decoder_sparse_step-th one that mlp_only_layers does not name."""
    step, dense = keys.count("decoder_sparse_step"), keys.values["mlp_only_layers"]
    if not isinstance(dense, (list, tuple)) or not all(isinstance(i, int) for i in dense):
        raise keys.error("mlp_only_layers", f"is {dense!r}", "a list of layer indices is needed")
    count = keys.count("num_hidden_layers")
    return ["moe" if (i + 1) % step == 0 and i not in dense else "dense" for i in range(count)]


def _dense_layers(keys: Keys) -> list[str]:
    return ["dense"] * keys.count("num_hidden_layers")


def _windowed(keys: Keys, ffns: Any, ffn_of: list[str], **more: Any) -> Model:
    """Qwen2 and Qwen3: with use_sliding_window the layers from max_window_layers on have the window."""
    count = len(ffn_of)
    full = grouped_query(keys, **more)
    mixers, mixer_of = {"full": full}, ["full"] * count
    if keys.flag("use_sliding_window"):
        mixers["sliding"] = grouped_query(keys, window=keys.count("sliding_window"), **more)
        if keys.given("layer_types"):
            mixer_of = keys.each_layer("layer_types", count, _LAYER_TYPES)
        else:
            if not keys.given("max_window_layers"):
                raise keys.error("max_window_layers", "is missing", "it says which layers have the window")
            first = keys.count_or_zero("max_window_layers")
            mixer_of = ["full" if i < first else "sliding" for i in range(count)]
    elif keys.given("layer_types"):
        keys.each_layer("layer_types", count, {"full_attention": "full"})
    layers = [Layer(mixer, ffn) for mixer, ffn in zip(mixer_of, ffn_of, strict=True)]
    return outline(keys, mixers, ffns, layers)
